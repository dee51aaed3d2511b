package inventory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"
)

// fatFS reads a FAT12, FAT16 or FAT32 file system: names and small files.
type fatFS struct {
	v        volume
	kind     int   // 12, 16 or 32
	cluster  int64 // bytes
	fat      int64 // offset of the first table
	fatBytes int64
	root     int64 // offset of the fixed root folder (12, 16)
	rootLen  int64
	rootAt   uint32 // first cluster of the root folder (32)
	data     int64  // offset of cluster 2
	clusters uint32
}

// fatKind recognises a FAT boot sector.
func fatKind(v volume) string {
	if _, err := openFAT(v); err != nil {
		return ""
	}
	return "vfat"
}

var errNotFAT = errors.New("not a FAT file system")

// openFAT checks the boot sector.
func openFAT(v volume) (*fatFS, error) {
	b := v.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || (b[0] != 0xeb && b[0] != 0xe9) {
		return nil, errNotFAT
	}
	sector := int64(binary.LittleEndian.Uint16(b[11:]))
	per := int64(b[13])
	reserved := int64(binary.LittleEndian.Uint16(b[14:]))
	copies := int64(b[16])
	rootEntries := int64(binary.LittleEndian.Uint16(b[17:]))
	total := int64(binary.LittleEndian.Uint16(b[19:]))
	if total == 0 {
		total = int64(binary.LittleEndian.Uint32(b[32:]))
	}
	fatSectors := int64(binary.LittleEndian.Uint16(b[22:]))
	f := &fatFS{v: v}
	if fatSectors == 0 {
		fatSectors = int64(binary.LittleEndian.Uint32(b[36:]))
		f.rootAt = binary.LittleEndian.Uint32(b[44:])
	}
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || per == 0 || per&(per-1) != 0 ||
		reserved == 0 || copies == 0 || copies > 4 || fatSectors == 0 || total == 0 || b[21] < 0xf0 {
		return nil, errNotFAT
	}
	f.cluster = sector * per
	f.fat, f.fatBytes = reserved*sector, fatSectors*sector
	f.root, f.rootLen = f.fat+copies*f.fatBytes, rootEntries*32
	f.data = f.root + (f.rootLen+sector-1)/sector*sector
	if f.data >= total*sector {
		return nil, errNotFAT
	}
	n := (total*sector - f.data) / f.cluster
	switch {
	case n < 4085:
		f.kind = 12
	case n < 65525:
		f.kind = 16
	default:
		f.kind = 32
	}
	if (f.kind == 32) != (rootEntries == 0) || n > 0x0fffffff {
		return nil, errNotFAT
	}
	f.clusters = uint32(n)
	return f, nil
}

// next follows the chain of clusters; 0 is its end.
func (f *fatFS) next(c uint32) uint32 {
	switch f.kind {
	case 12:
		b := f.v.at(f.fat+int64(c)*3/2, 2)
		if b == nil {
			return 0
		}
		n := uint32(binary.LittleEndian.Uint16(b))
		if c%2 == 1 {
			n >>= 4
		}
		return f.valid(n & 0xfff)
	case 16:
		if b := f.v.at(f.fat+int64(c)*2, 2); b != nil {
			return f.valid(uint32(binary.LittleEndian.Uint16(b)))
		}
	case 32:
		if b := f.v.at(f.fat+int64(c)*4, 4); b != nil {
			return f.valid(binary.LittleEndian.Uint32(b) & 0x0fffffff)
		}
	}
	return 0
}

// valid returns c when it is a cluster of the data area.
func (f *fatFS) valid(c uint32) uint32 {
	if c < 2 || c-2 >= f.clusters {
		return 0
	}
	return c
}

// chain reads the clusters from c on, up to limit bytes. A chain that turns back
// on itself ends at the limit.
func (f *fatFS) chain(c uint32, limit int64) []byte {
	var out []byte
	for c = f.valid(c); c != 0 && int64(len(out)) < limit; c = f.next(c) {
		b := f.v.at(f.data+int64(c-2)*f.cluster, int(f.cluster))
		if b == nil {
			break
		}
		out = append(out, b...)
	}
	return out[:min(int64(len(out)), limit)]
}

// maxFolder bounds how much of a folder is read.
const maxFolder = 64 << 10

// fatEntry is one name in a folder.
type fatEntry struct {
	name    string
	folder  bool
	volume  bool
	cluster uint32
	size    uint32
}

// folder reads the entries of the root (cluster 0) or another folder.
func (f *fatFS) folder(cluster uint32) []fatEntry {
	var b []byte
	switch {
	case cluster != 0:
		b = f.chain(cluster, maxFolder)
	case f.kind == 32:
		b = f.chain(f.rootAt, maxFolder)
	default:
		b = f.v.at(f.root, int(min(f.rootLen, maxFolder)))
	}
	return fatEntries(b)
}

// fatEntries decodes a folder. Long names stand in pieces before their entry,
// the last piece first.
func fatEntries(b []byte) []fatEntry {
	var list []fatEntry
	var long []uint16
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		e := b[:32]
		attr := e[11]
		if e[0] == 0xe5 {
			long = nil
			continue
		}
		if attr&0x3f == 0x0f {
			if len(long) < 255 {
				long = append(longPiece(e), long...)
			}
			continue
		}
		name := shortName(e)
		if long != nil {
			name = clean(string(utf16.Decode(long)))
		}
		long = nil
		list = append(list, fatEntry{
			name: name, folder: attr&0x10 != 0, volume: attr&0x08 != 0,
			cluster: uint32(binary.LittleEndian.Uint16(e[20:]))<<16 | uint32(binary.LittleEndian.Uint16(e[26:])),
			size:    binary.LittleEndian.Uint32(e[28:]),
		})
	}
	return list
}

// longPiece is the up to 13 characters of one piece of a long name.
func longPiece(e []byte) []uint16 {
	var u []uint16
	for _, span := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
		for i := span[0]; i < span[1]; i += 2 {
			c := binary.LittleEndian.Uint16(e[i:])
			if c == 0 || c == 0xffff {
				return u
			}
			u = append(u, c)
		}
	}
	return u
}

// shortName is the name in 8.3 form.
func shortName(e []byte) string {
	if e[11]&0x08 != 0 {
		return clean(string(bytes.TrimRight(e[:11], " ")))
	}
	name, ext := strings.TrimRight(string(e[:8]), " "), strings.TrimRight(string(e[8:11]), " ")
	if ext != "" {
		name += "." + ext
	}
	return clean(name)
}

// find returns a name of a folder, in any case.
func (f *fatFS) find(cluster uint32, name string) (fatEntry, bool) {
	for _, e := range f.folder(cluster) {
		if !e.volume && strings.EqualFold(e.name, name) {
			return e, true
		}
	}
	return fatEntry{}, false
}

// file reads a file of the root folder, up to limit bytes; nil when it is not there.
func (f *fatFS) file(name string, limit int64) []byte {
	e, ok := f.find(0, name)
	if !ok || e.folder {
		return nil
	}
	return f.chain(e.cluster, min(int64(e.size), limit))
}

// names lists the folders in a folder of the root.
func (f *fatFS) names(dir string) []string {
	e, ok := f.find(0, dir)
	if !ok || !e.folder || f.valid(e.cluster) == 0 {
		return nil
	}
	var list []string
	for _, e := range f.folder(e.cluster) {
		if e.folder && !strings.HasPrefix(e.name, ".") {
			list = append(list, e.name)
		}
	}
	return list
}

// label is the volume's name in the root folder.
func (f *fatFS) label() string {
	for _, e := range f.folder(0) {
		if e.volume {
			return e.name
		}
	}
	return ""
}
