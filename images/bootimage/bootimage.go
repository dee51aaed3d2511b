// Package bootimage carries the files a netbooting machine is given: the
// agent's kernel and initramfs, and the loaders. They are made from Debian
// packages by the program in mkboot and embedded in the node's binary.
package bootimage

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

//go:embed all:assets
var assets embed.FS

// Names of the files, in the order in which a machine meets them.
const (
	Undionly = "undionly.kpxe" // iPXE over the BIOS network card's own PXE
	SNPOnly  = "snponly.efi"   // iPXE over the UEFI network card's own driver
	IPXE     = "ipxe.efi"      // iPXE for UEFI with drivers of its own
	Shim     = "shimx64.efi"   // for Secure Boot: signed by Microsoft
	GRUB     = "grubx64.efi"   // what shim starts: GRUB that boots from the network, signed by Debian
	Kernel   = "vmlinuz"
	Initrd   = "initrd"
	Sources  = "SOURCES.json"

	// The same for arm64. Debian packs every kernel but this one, which is four
	// times as long as it has to be, and so it is packed here.
	ShimARM64   = "shimaa64.efi"
	GRUBARM64   = "grubaa64.efi"
	KernelARM64 = "vmlinuz-arm64.zst"
	InitrdARM64 = "initrd-arm64"
)

// Names of what every node serves to machines.
func Names() []string {
	return append([]string{Undionly, SNPOnly, IPXE, Shim, GRUB, Kernel, Initrd}, profileNames()...)
}

// NamesARM64 are those that are here only if the packages of arm64 could be had when
// this was built: all of them or none.
func NamesARM64() []string { return []string{ShimARM64, GRUBARM64, KernelARM64, InitrdARM64} }

// Source says where a file came from. It is part of SOURCES.json.
type Source struct {
	File    string `json:"file"`
	SHA256  string `json:"sha256"` // of the file
	Package string `json:"package"`
	Version string `json:"version"`
	// Architecture is the package's, as Debian calls it.
	Architecture string `json:"architecture"`
	// PackageSHA256 is the digest of the .deb the file was taken from.
	PackageSHA256 string `json:"package_sha256"`
}

// Files returns the files, by the names above.
func Files() fs.FS {
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic("bootimage: " + err.Error()) // "assets" is a valid path: it cannot fail
	}
	return sub
}

// Check says what is missing in this binary and how it is made.
func Check() error { return check(Files()) }

func check(files fs.FS) error {
	var missing []string
	for _, name := range append(Names(), Sources) {
		if st, err := fs.Stat(files, name); err != nil || st.Size() == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this binary was built without the boot image (missing %s); run: make boot-image build", strings.Join(missing, ", "))
	}
	return nil
}

// Damage says which of the files are not there or not what SOURCES.json says of
// them, by their SHA-256. Tests hand in files of their own.
func Damage(files fs.FS) error {
	if err := check(files); err != nil {
		return err
	}
	list, err := readSources(files)
	if err != nil {
		return err
	}
	want := map[string]string{}
	for _, s := range list {
		want[s.File] = s.SHA256
	}
	var bad []string
	names := Names()
	if want[KernelARM64] != "" {
		names = append(names, NamesARM64()...)
	}
	for _, name := range names {
		f, err := files.Open(name)
		if err != nil {
			return fmt.Errorf("boot image: %w", err)
		}
		sum := sha256.New()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil || hex.EncodeToString(sum.Sum(nil)) != want[name] {
			bad = append(bad, name)
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("the boot image is damaged: %s is not what %s says by its SHA-256", strings.Join(bad, ", "), Sources)
	}
	return nil
}

// ReadSources returns where each file came from.
func ReadSources() ([]Source, error) { return readSources(Files()) }

// HasARM64 says whether the agent for arm64 is among the files.
func HasARM64(files fs.FS) bool {
	st, err := fs.Stat(files, KernelARM64)
	return err == nil && st.Size() > 0
}

func readSources(files fs.FS) ([]Source, error) {
	data, err := fs.ReadFile(files, Sources)
	if err != nil {
		return nil, fmt.Errorf("boot image: %w", err)
	}
	var list []Source
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("boot image: %s: %w", Sources, err)
	}
	return list, nil
}
