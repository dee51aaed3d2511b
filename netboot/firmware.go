package netboot

import (
	"fmt"
	"strconv"
	"strings"
)

// Stage is how far a machine has come in its boot, seen from one DHCP packet.
type Stage string

// The stages.
const (
	StageSystem Stage = "system" // an operating system, the agent, anything that asks for no boot file
	StagePXE    Stage = "pxe"    // PXE firmware: wants a loader over TFTP
	StageHTTP   Stage = "http"   // UEFI HTTP boot: wants a loader's URL
	StageIPXE   Stage = "ipxe"   // iPXE: wants a script's URL, never another iPXE
)

// Firmware is what kind of program sent a DHCP packet.
type Firmware struct {
	Stage    Stage
	Platform string // "bios", "uefi" or empty
	CPU      string // GOARCH name, empty when unknown
	ArchCode int    // first code of option 93 (or of option 60); -1 when not told
}

// Hints are the options that give firmware away.
type Hints struct {
	VendorClass string // option 60
	UserClass   []byte // option 77
	Arch        []byte // option 93
	HasUUID     bool   // option 97 is present
	IPXE        bool   // option 175 is present
}

// Classify recognises firmware (RFC 4578, RFC 5970 and the IANA registry of
// processor architectures). It never fails: what it does not know is a system.
func Classify(h Hints) Firmware {
	f := Firmware{Stage: StageSystem, ArchCode: archCode(h)}
	switch {
	// iPXE announces PXEClient too: only the user class and its own option tell
	// the stages apart, and answering iPXE with iPXE is an endless loop.
	case h.IPXE || hasUserClass(h.UserClass, "iPXE"):
		f.Stage = StageIPXE
	case strings.HasPrefix(h.VendorClass, "HTTPClient"):
		f.Stage = StageHTTP
	case strings.HasPrefix(h.VendorClass, "PXEClient"):
		f.Stage = StagePXE
	default:
		return f
	}
	f.Platform, f.CPU = platformOf(f.ArchCode)
	return f
}

// Netboots says whether the program wants to be told what to boot.
func (f Firmware) Netboots() bool { return f.Stage != StageSystem }

// Loader is the boot file for firmware that wants one, or empty when no loader
// here runs on it.
func (f Firmware) Loader() string {
	if f.Stage != StagePXE && f.Stage != StageHTTP {
		return ""
	}
	switch {
	case f.CPU == "amd64" && f.Platform == "uefi":
		// snponly and not ipxe.efi: it drives the card through the firmware's
		// own driver, which has just proven that it works.
		return LoaderUEFI
	case f.CPU == "arm64" && f.Platform == "uefi" && f.Stage == StagePXE:
		return LoaderGRUBARM64
	case f.CPU == "arm64" && f.Platform == "uefi":
		// GRUB in Debian 12 finds no network after HTTP boot. Firmware that finds no
		// file goes on with its boot order, in which PXE may well be the next.
		return LoaderNone
	case f.Platform == "bios" && f.Stage == StagePXE:
		return LoaderBIOS
	}
	return ""
}

// String names the firmware for people.
func (f Firmware) String() string {
	if f.Stage == StageSystem {
		return "an operating system"
	}
	stage := map[Stage]string{StagePXE: "PXE firmware", StageHTTP: "HTTP boot firmware", StageIPXE: "iPXE"}[f.Stage]
	switch {
	case f.Platform == "bios":
		return "BIOS " + stage
	case f.Platform == "uefi" && f.CPU != "":
		return "UEFI " + f.CPU + " " + stage
	case f.ArchCode >= 0:
		return fmt.Sprintf("%s of architecture %d", stage, f.ArchCode)
	}
	return stage
}

// archCode is the first code of option 93, else the one inside
// "PXEClient:Arch:00007:UNDI:003016", else -1.
func archCode(h Hints) int {
	if len(h.Arch) >= 2 {
		return int(h.Arch[0])<<8 | int(h.Arch[1])
	}
	parts := strings.Split(h.VendorClass, ":")
	if len(parts) >= 3 && parts[1] == "Arch" {
		if n, err := strconv.ParseUint(parts[2], 10, 16); err == nil {
			return int(n)
		}
	}
	return -1
}

// platformOf reads the registry "Processor Architecture Types". A PXE client
// that tells no architecture is an old BIOS ROM.
func platformOf(code int) (platform, cpu string) {
	switch code {
	case -1, 0, 20:
		return "bios", "amd64"
	case 6, 15:
		return "uefi", "386"
	// 9 is what RFC 4578 printed for x86-64 before its erratum, and firmware
	// believed it.
	case 7, 9, 16, 17:
		return "uefi", "amd64"
	case 10, 18:
		return "uefi", "arm"
	case 11, 19:
		return "uefi", "arm64"
	case 27, 28:
		return "uefi", "riscv64"
	case 39, 40:
		return "uefi", "loong64"
	}
	return "", ""
}

// hasUserClass looks for a class in option 77, which RFC 3004 wants as a list
// of length-prefixed strings and many clients send as a bare string.
func hasUserClass(b []byte, class string) bool {
	if string(b) == class {
		return true
	}
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n >= len(b) {
			return false
		}
		if string(b[1:1+n]) == class {
			return true
		}
		b = b[1+n:]
	}
	return false
}
