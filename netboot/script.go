package netboot

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// BootPath is where everything of this package lives on the boot HTTP server.
const BootPath = "/boot/"

// scriptStub is where a machine begins that was not given the path of its boot.
const scriptStub = "script"

// maxNodes is how many nodes an agent knows.
const maxNodes = 3

// language is what a loader wants to be told in. Everything that goes into a script
// has passed its grammar before: a script is a program, and one stray newline in a
// name would let whoever chose the name write the rest of it.
type language interface {
	// stub is the first script a machine gets, the same for all: it makes the
	// loader itself say who it is.
	stub(node netip.AddrPort, path string) string
	agent(agentScript) string
	local(title string, drive int) string
	// hold keeps the machine where a person can read why, and has it ask again every
	// minute. It never ends by itself: a node that cannot be reached has not released
	// anybody.
	hold(node netip.AddrPort, title string) string
}

// ipxe speaks iPXE's language.
type ipxe struct{}

// name is what stands below BootPath for the path of a boot.
func (ipxe) name(path string) string { return path + "/" + scriptStub }

// stub: netX is the card the machine booted from. Without --replace an exit of the
// second script would return here instead of to the firmware.
func (i ipxe) stub(node netip.AddrPort, path string) string {
	return fmt.Sprintf(`#!ipxe
chain --replace http://%s%s%s?mac=${netX/mac}&uuid=${uuid}&platform=${platform}&arch=${buildarch} || exit 1
`, node, BootPath, i.name(path))
}

// autoexecScript is what iPXE runs when it finds autoexec.ipxe before it has
// configured any card: it replaces iPXE's own way, so it must ask for an
// address first.
func autoexecScript(node netip.AddrPort) string {
	return fmt.Sprintf(`#!ipxe
dhcp || exit 1
chain --replace http://%s%s%s || exit 1
`, node, BootPath, scriptStub)
}

// agentScript is what a script that starts the agent is made of.
type agentScript struct {
	Node       netip.AddrPort
	Others     []string // base URLs of nodes to turn to when that one is gone; what is not https://IP:PORT is left out
	MAC        string
	Pin        string // of the cluster, by which the agent knows it
	Claim      string // the code that begins the agent's session
	Title      string // "web1: a task waits for approval"
	KernelArgs string
	Now        time.Time
	Files      agentFiles
	Drive      int // BIOS drive to boot when the agent cannot be had
}

// words are the kernel's command line.
func (a agentScript) words() string {
	words := a.Files.consoles
	for _, node := range a.nodes() {
		words += " lpmos.node=https://" + node.String()
	}
	words += fmt.Sprintf(" lpmos.mac=%s lpmos.time=%d lpmos.pin=%s lpmos.claim=%s", a.MAC, a.Now.Unix(), a.Pin, a.Claim)
	if a.KernelArgs != "" {
		words += " " + a.KernelArgs
	}
	return words
}

func (ipxe) agent(a agentScript) string {
	// The kernel and what belongs to it come from one node, or they may not be of one
	// build; each node in turn. A machine that cannot fetch the agent boots its own
	// disk: a broken node may keep an install waiting, never a server from starting.
	var tries strings.Builder
	nodes := a.nodes()
	for i, node := range nodes {
		next := "local"
		if i+1 < len(nodes) {
			next = fmt.Sprintf("node%d", i+2)
		}
		if i > 0 {
			fmt.Fprintf(&tries, ":node%d\necho LPMOS: trying the node at %s\n", i+1, node.Addr())
		}
		fmt.Fprintf(&tries, `imgfree
kernel http://%[1]s/boot/%[4]s initrd=initrd %[3]s || goto %[2]s
initrd --name initrd http://%[1]s/boot/%[5]s || goto %[2]s
boot || goto local
`, node, next, a.words(), a.Files.kernel, a.Files.initrd)
	}
	return fmt.Sprintf(`#!ipxe
echo LPMOS: starting the agent. %s
%s:local
echo LPMOS: the agent could not be started; booting the disk
imgfree
%s`, a.Title, tries.String(), localBoot(a.Drive))
}

// nodes are where the agent can be had and whom it turns to, this node first and as many
// as an agent knows. The others come out of what they say of themselves.
func (a agentScript) nodes() []netip.AddrPort {
	nodes := []netip.AddrPort{a.Node}
	for _, base := range a.Others {
		at, err := netip.ParseAddrPort(strings.TrimPrefix(base, "https://"))
		if err != nil || !strings.HasPrefix(base, "https://") || !at.Addr().Is4() || slices.Contains(nodes, at) || len(nodes) == maxNodes {
			continue
		}
		nodes = append(nodes, at)
	}
	return nodes
}

func (ipxe) local(title string, drive int) string {
	return fmt.Sprintf("#!ipxe\necho LPMOS: booting the disk. %s\n%s", title, localBoot(drive))
}

func (ipxe) hold(node netip.AddrPort, title string) string {
	return fmt.Sprintf(`#!ipxe
echo LPMOS: HELD. %s
echo LPMOS: release it on the dashboard or with lpmos machine release. Asking again every minute.
:again
sleep 60
chain --replace http://%s%s%s || goto again
`, title, node, BootPath, scriptStub)
}

// localBoot hands over to a BIOS drive. Under UEFI the loader leaves with an
// error, and the firmware goes on with its boot order; when it leaves without
// one, OVMF opens its menu and waits for a key.
func localBoot(drive int) string {
	return fmt.Sprintf(`iseq ${platform} efi && exit 1 ||
sanboot --no-describe --drive 0x%02x || exit 1
`, 0x80+drive)
}

// consoleText keeps what can safely be echoed by a script: printable ASCII
// that iPXE gives no meaning to. The rest of a value is dropped with it, since
// half a value may mean something else.
func consoleText(s string) string {
	if len(s) > 120 {
		return ""
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(" .,:;()_+-/'", r):
		default:
			return ""
		}
	}
	return s
}

// title joins a machine's name and the reason, dropping what does not fit.
func title(d Decision) string {
	name, reason := consoleText(d.Name), consoleText(d.Reason)
	switch {
	case name == "":
		return reason
	case reason == "":
		return name
	}
	return name + ": " + reason
}

// ValidateKernelArgs checks what an operator wants to add to the agent's
// kernel command line: printable words without quotes or anything iPXE would
// expand, and none that lpmos sets itself.
func ValidateKernelArgs(args string) error {
	if len(args) > 1024 {
		return fmt.Errorf("kernel_args: %d bytes, at most 1024", len(args))
	}
	for i, r := range args {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		case strings.ContainsRune(" .,:;_+-/=@%~", r):
		default:
			return fmt.Errorf("kernel_args: character %q at %d is not allowed", r, i+1)
		}
	}
	for _, word := range strings.Fields(args) {
		key, _, _ := strings.Cut(word, "=")
		if word == "--" || strings.HasPrefix(key, "lpmos.") || key == "initrd" || key == "init" || key == "rdinit" {
			return fmt.Errorf("kernel_args: %q may not be set here", word)
		}
	}
	return nil
}
