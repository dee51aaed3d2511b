package inventory

import (
	"encoding/binary"
	"strings"
)

// A read of /etc/os-release on ext2, ext3 and ext4, just enough to tell a person
// what they are about to erase: folders and small files through extents of one
// level or direct blocks. Whatever else is met, the answer is "unknown".

// extFS is what of the superblock is needed to find an inode.
type extFS struct {
	v         volume
	block     int64
	inodeSize int64
	perGroup  uint32
	descSize  int64
	descs     int64 // offset of the group descriptors
}

// Limits of what is read.
const (
	extRoot      = 2
	maxExtFolder = 256 << 10
	maxRelease   = 4096
)

// openExt reads the superblock.
func openExt(v volume) (*extFS, bool) {
	sb := v.at(1024, 1024)
	if sb == nil || binary.LittleEndian.Uint16(sb[56:]) != 0xef53 {
		return nil, false
	}
	log := binary.LittleEndian.Uint32(sb[24:])
	e := &extFS{v: v, perGroup: binary.LittleEndian.Uint32(sb[40:]), inodeSize: 128, descSize: 32}
	if log > 6 || e.perGroup == 0 {
		return nil, false
	}
	e.block = 1024 << log
	if binary.LittleEndian.Uint32(sb[76:]) > 0 { // revision with sizes of its own
		e.inodeSize = int64(binary.LittleEndian.Uint16(sb[88:]))
	}
	if binary.LittleEndian.Uint32(sb[96:])&0x80 != 0 { // 64bit
		e.descSize = int64(binary.LittleEndian.Uint16(sb[254:]))
	}
	if e.inodeSize < 128 || e.inodeSize > e.block || e.descSize < 32 || e.descSize > 1024 {
		return nil, false
	}
	// The descriptors follow the block that holds the superblock.
	e.descs = (1024/e.block + 1) * e.block
	return e, true
}

// inode returns the bytes of an inode.
func (e *extFS) inode(n uint32) []byte {
	if n == 0 {
		return nil
	}
	group, index := (n-1)/e.perGroup, (n-1)%e.perGroup
	d := e.v.at(e.descs+int64(group)*e.descSize, int(e.descSize))
	if d == nil {
		return nil
	}
	table := int64(binary.LittleEndian.Uint32(d[8:]))
	if e.descSize >= 64 {
		table |= int64(binary.LittleEndian.Uint32(d[40:])) << 32
	}
	if table < 0 || table > e.v.size/e.block {
		return nil
	}
	return e.v.at(table*e.block+int64(index)*e.inodeSize, 128)
}

// read returns up to limit bytes of a file or folder.
func (e *extFS) read(ino []byte, limit int64) []byte {
	size := min(int64(binary.LittleEndian.Uint32(ino[4:])), limit)
	const usesExtents, inline = 0x80000, 0x10000000
	flags := binary.LittleEndian.Uint32(ino[32:])
	var out []byte
	add := func(block, count int64) bool {
		for ; count > 0 && int64(len(out)) < size; count, block = count-1, block+1 {
			if block <= 0 || block > e.v.size/e.block {
				return false
			}
			b := e.v.at(block*e.block, int(e.block))
			if b == nil {
				return false
			}
			out = append(out, b...)
		}
		return true
	}
	switch {
	case flags&inline != 0:
		return nil
	case flags&usesExtents != 0:
		node := ino[40:100]
		if binary.LittleEndian.Uint16(node) != 0xf30a || binary.LittleEndian.Uint16(node[6:]) != 0 {
			return nil
		}
		for i := range min(int(binary.LittleEndian.Uint16(node[2:])), 4) {
			x := node[12+12*i:]
			start := int64(binary.LittleEndian.Uint16(x[6:]))<<32 | int64(binary.LittleEndian.Uint32(x[8:]))
			if !add(start, int64(binary.LittleEndian.Uint16(x[4:]))) {
				return nil
			}
		}
	default:
		for i := range 12 {
			if int64(len(out)) >= size {
				break
			}
			if !add(int64(binary.LittleEndian.Uint32(ino[40+4*i:])), 1) {
				return nil
			}
		}
	}
	return out[:min(int64(len(out)), size)]
}

// lookup finds a name in a folder.
func (e *extFS) lookup(dir uint32, name string) uint32 {
	ino := e.inode(dir)
	if ino == nil || binary.LittleEndian.Uint16(ino)&0xf000 != 0x4000 {
		return 0
	}
	b := e.read(ino, maxExtFolder)
	for len(b) >= 8 {
		n, length := int(binary.LittleEndian.Uint16(b[4:])), int(b[6])
		if n < 8 || n > len(b) || 8+length > n {
			return 0
		}
		if inode := binary.LittleEndian.Uint32(b); inode != 0 && string(b[8:8+length]) == name {
			return inode
		}
		b = b[n:]
	}
	return 0
}

// file reads a regular file by its path from the root.
func (e *extFS) file(path string) []byte {
	at := uint32(extRoot)
	for part := range strings.SplitSeq(path, "/") {
		if at = e.lookup(at, part); at == 0 {
			return nil
		}
	}
	ino := e.inode(at)
	if ino == nil || binary.LittleEndian.Uint16(ino)&0xf000 != 0x8000 {
		return nil
	}
	return e.read(ino, maxRelease)
}

// osRelease returns PRETTY_NAME of the system on an ext file system, or "".
func osRelease(v volume) string {
	e, ok := openExt(v)
	if !ok {
		return ""
	}
	for _, path := range []string{"usr/lib/os-release", "etc/os-release"} {
		for line := range strings.Lines(string(e.file(path))) {
			if value, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return clean(strings.Trim(strings.TrimSpace(value), `"'`))
			}
		}
	}
	return ""
}
