package inventory

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// filesystem is what a stretch of disk holds.
type filesystem struct{ kind, label string }

// magic is a constant at a fixed place that marks a format. Offsets are from
// the formats' own descriptions, as the kernel's headers give them.
type magic struct {
	kind  string
	off   int64
	want  string
	label func(v volume) string
}

// magics in the order that decides when several match: containers first, for
// what lies in them may shine through.
var magics = []magic{
	{"luks", 0, "LUKS\xba\xbe", luksLabel},
	{"lvm2", 512 + 24, "LVM2 001", nil},
	{"lvm2", 24, "LVM2 001", nil},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", nil},
	{"ceph", 0, "bluestore block device", nil},
	{"md", 0, "\xfc\x4e\x2b\xa9", nil},    // 1.1
	{"md", 4096, "\xfc\x4e\x2b\xa9", nil}, // 1.2
	{"vmfs", 0x200000, "\x5e\xf1\xab\x2f", nil},
	{"vmfs", 0x100000, "\x0d\xd0\x01\xc0", nil}, // the volume below VMFS 3 to 6
	{"xfs", 0, "XFSB", fixedLabel(108, 12)},
	{"btrfs", 65536 + 64, "_BHRfS_M", fixedLabel(65536+299, 256)},
	{"ntfs", 3, "NTFS    ", nil},
	{"exfat", 3, "EXFAT   ", nil},
	{"swap", 4096 - 10, "SWAPSPACE2", fixedLabel(1024+28, 16)},
	{"swap", 65536 - 10, "SWAPSPACE2", fixedLabel(1024+28, 16)}, // 64 KiB pages
	{"iso9660", 32769, "CD001", fixedLabel(32808, 32)},
}

// signatures lists everything found on the whole disk, sorted: what a wipe would
// have to know.
func (v volume) signatures() []string {
	var list []string
	for _, m := range magics {
		if v.has(m) {
			list = append(list, m.kind)
		}
	}
	for _, found := range []string{extKind(v), fatKind(v), v.md090(), v.md10(), v.zfs()} {
		if found != "" {
			list = append(list, found)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// filesystem names what a partition holds, its container first.
func (v volume) filesystem() filesystem {
	if k := v.md090(); k != "" {
		return filesystem{kind: k}
	}
	if k := v.md10(); k != "" {
		return filesystem{kind: k}
	}
	if k := v.zfs(); k != "" {
		return filesystem{kind: k}
	}
	for _, m := range magics {
		if !v.has(m) {
			continue
		}
		fs := filesystem{kind: m.kind}
		if m.label != nil {
			fs.label = m.label(v)
		}
		return fs
	}
	if k := extKind(v); k != "" {
		return filesystem{k, fixedLabel(1024+120, 16)(v)}
	}
	if k := fatKind(v); k != "" {
		f, err := openFAT(v)
		if err != nil {
			return filesystem{kind: k}
		}
		return filesystem{k, f.label()}
	}
	return filesystem{}
}

func (v volume) has(m magic) bool { return string(v.at(m.off, len(m.want))) == m.want }

// fixedLabel reads a label of fixed width.
func fixedLabel(off int64, n int) func(volume) string {
	return func(v volume) string {
		b := v.at(off, n)
		if i := bytes.IndexByte(b, 0); i >= 0 {
			b = b[:i]
		}
		return clean(string(b))
	}
}

// luksLabel: only version 2 has one.
func luksLabel(v volume) string {
	if b := v.at(6, 2); b == nil || binary.BigEndian.Uint16(b) != 2 {
		return ""
	}
	return fixedLabel(24, 48)(v)
}

// extKind tells ext2, ext3 and ext4 apart by their features.
func extKind(v volume) string {
	sb := v.at(1024, 1024)
	if sb == nil || binary.LittleEndian.Uint16(sb[56:]) != 0xef53 {
		return ""
	}
	const (
		journal = 0x4   // compatible
		extents = 0x40  // incompatible, as the two below
		wide    = 0x80  // 64bit
		flexBG  = 0x200 // flexible block groups
	)
	switch {
	case binary.LittleEndian.Uint32(sb[96:])&(extents|wide|flexBG) != 0:
		return "ext4"
	case binary.LittleEndian.Uint32(sb[92:])&journal != 0:
		return "ext3"
	}
	return "ext2"
}

// md090 looks for the superblock in the last 64 KiB-aligned 64 KiB.
func (v volume) md090() string {
	const block = 64 << 10
	if b := v.at(v.size&^(block-1)-block, 4); binary.LittleEndian.Uint32(pad4(b)) == 0xa92b4efc {
		return "md"
	}
	return ""
}

// md10 looks for the superblock of version 1.0, 8 KiB before the end.
func (v volume) md10() string {
	off := (v.size/512 - 16) &^ 7 * 512
	if b := v.at(off, 8); len(b) == 8 && binary.LittleEndian.Uint32(b) == 0xa92b4efc && binary.LittleEndian.Uint32(b[4:]) == 1 {
		return "md"
	}
	return ""
}

func pad4(b []byte) []byte {
	if len(b) == 4 {
		return b
	}
	return make([]byte, 4)
}

// zfs looks for an uberblock in the first label: 128 KiB into it, one for each
// kilobyte or larger power of two, in either byte order.
func (v volume) zfs() string {
	const uberblock = 0x00bab10c
	ring := v.at(128<<10, 128<<10)
	for off := 0; off+8 <= len(ring); off += 1024 {
		if binary.LittleEndian.Uint64(ring[off:]) == uberblock || binary.BigEndian.Uint64(ring[off:]) == uberblock {
			return "zfs"
		}
	}
	return ""
}
