package inventory

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// headBytes is how much of a disk's start is read at once: partition tables and
// the superblocks of most file systems lie there.
const headBytes = 1 << 20

// seedName is the GPT name of the partition an install of ours leaves its marker on.
const seedName = "LPMOS-SEED"

// unknownData stands among the signatures of a disk that begins with bytes of no
// kind known here.
const unknownData = "unknown data"

// Contents looks at what lies on a disk of size bytes with the given sector size
// (0 means 512). It reads the disk's first and last sectors and the start of
// each partition, and never writes. What cannot be read is said in Unreadable.
func Contents(r io.ReaderAt, size int64, sector int) wire.Contents {
	if sector < 512 || sector > 65536 || sector&(sector-1) != 0 {
		sector = 512
	}
	if size < int64(sector)*2 {
		return wire.Contents{}
	}
	head := make([]byte, min(headBytes, size))
	if n, err := readFull(r, head, 0); err != nil {
		return wire.Contents{Unreadable: clean(fmt.Sprintf("reading failed after %d bytes: %v", n, err))}
	}
	v := volume{r: r, size: size, head: head}
	c := wire.Contents{Signatures: v.signatures()}
	c.Table, c.Partitions = partitions(r, head, size, sector)
	c.NoHead = c.Table != "" && allBytes(head[:min(sector, len(head))], 0)
	// Bytes that are of no kind known here are somebody's all the same: a database
	// on the raw disk, a volume whose header lies elsewhere.
	if c.Table == "" && len(c.Signatures) == 0 && slices.ContainsFunc(head, func(b byte) bool { return b != 0 }) {
		c.Signatures = []string{unknownData}
	}
	// A boot sector with the signature of a partition table may be a file
	// system's own: FAT, NTFS and exFAT on the whole disk.
	if c.Table == "mbr" && len(c.Partitions) == 0 && len(c.Signatures) > 0 {
		c.Table = ""
	}
	os := guess{}
	for i := range c.Partitions {
		p := &c.Partitions[i]
		pv, ok := openVolume(r, size, int64(p.StartBytes), int64(p.SizeBytes))
		if !ok {
			continue
		}
		fs := pv.filesystem()
		if fs.kind == "" && p.Type == typeGPFS {
			fs.kind = "gpfs"
		}
		p.Filesystem, p.FSLabel = fs.kind, fs.label
		os.look(p, pv, fs)
		if p.Label == seedName && fs.kind == "vfat" && c.Marker == nil {
			c.Marker = readMarker(pv)
		}
	}
	if len(c.Partitions) == 0 && len(c.Signatures) > 0 {
		os.look(&wire.Partition{}, v, v.filesystem())
	}
	c.OS = os.name()
	return c
}

// volume is a stretch of a disk that may hold a file system.
type volume struct {
	r    io.ReaderAt
	base int64
	size int64
	head []byte // its first bytes, up to headBytes
}

// openVolume reads the start of a partition. One that lies outside the disk or
// cannot be read is passed over: the partition itself is reported all the same.
func openVolume(r io.ReaderAt, disk, base, size int64) (volume, bool) {
	if base < 0 || size <= 0 || base >= disk {
		return volume{}, false
	}
	size = min(size, disk-base)
	v := volume{r: r, base: base, size: size, head: make([]byte, min(size, partHeadBytes))}
	_, err := readFull(r, v.head, base)
	return v, err == nil
}

// partHeadBytes reaches past the last superblock looked for at a start (ZFS).
const partHeadBytes = 272 << 10

// at returns n bytes at an offset, nil when they lie outside or cannot be read.
func (v volume) at(off int64, n int) []byte {
	if off < 0 || n < 0 || off > v.size-int64(n) {
		return nil
	}
	if off+int64(n) <= int64(len(v.head)) {
		return v.head[off : off+int64(n)]
	}
	b := make([]byte, n)
	if _, err := readFull(v.r, b, v.base+off); err != nil {
		return nil
	}
	return b
}

// readFull is io.ReadFull for a ReaderAt.
func readFull(r io.ReaderAt, b []byte, off int64) (int, error) {
	return io.ReadFull(io.NewSectionReader(r, off, int64(len(b))), b)
}

// readMarker reads lpmos.json on a seed.
func readMarker(v volume) *wire.Marker {
	fs, err := openFAT(v)
	if err != nil {
		return nil
	}
	b := fs.file("lpmos.json", 64<<10)
	var m wire.Marker
	if b == nil || json.Unmarshal(b, &m) != nil {
		return nil
	}
	m.MachineID, m.TaskID, m.Image = clean(m.MachineID), clean(m.TaskID), clean(m.Image)
	return &m
}

// guess collects signs of the operating system.
type guess struct {
	exact   string // out of an os-release
	vendors []string
	windows bool
	linux   bool
	esxi    bool
}

// look takes what one partition tells.
func (g *guess) look(p *wire.Partition, v volume, fs filesystem) {
	switch fs.kind {
	case "ntfs":
		g.windows = true
	case "vmfs":
		g.esxi = true
	case "ext2", "ext3", "ext4":
		g.linux = true
		if g.exact == "" {
			g.exact = osRelease(v)
		}
	case "xfs", "btrfs", "lvm2", "zfs", "swap":
		g.linux = true
	case "vfat":
		if f, err := openFAT(v); err == nil {
			g.vendors = append(g.vendors, f.names("EFI")...)
		}
	}
}

// loaders are the folders under EFI that installers make for themselves.
var loaders = []struct{ dir, os string }{
	{"microsoft", "Windows"}, {"debian", "Debian"}, {"ubuntu", "Ubuntu"}, {"fedora", "Fedora"}, {"rocky", "Rocky Linux"},
	{"almalinux", "AlmaLinux"}, {"centos", "CentOS"}, {"redhat", "Red Hat Enterprise Linux"}, {"oracle", "Oracle Linux"},
	{"opensuse", "openSUSE"}, {"sles", "SUSE Linux Enterprise"}, {"arch", "Arch Linux"}, {"proxmox", "Proxmox VE"},
	{"nixos", "NixOS"}, {"vmware", "VMware ESXi"}, {"flatcar", "Flatcar"},
}

// name is the best guess in words.
func (g *guess) name() string {
	if g.exact != "" {
		return g.exact
	}
	for _, l := range loaders {
		if slices.ContainsFunc(g.vendors, func(v string) bool { return strings.EqualFold(v, l.dir) }) {
			return l.os
		}
	}
	switch {
	case g.esxi:
		return "VMware ESXi"
	case g.windows:
		return "Windows"
	case g.linux:
		return "unknown Linux"
	}
	return ""
}
