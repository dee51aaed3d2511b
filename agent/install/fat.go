package install

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// fatFile is a file of the root directory.
type fatFile struct {
	name string // any characters a long name may have, at most 255
	data []byte
}

const (
	fatRootEntries = 128
	fatDirEntry    = 32
	fatLongName    = 0x0f
	fatVolumeLabel = 0x08
	fatArchive     = 0x20
	// fatClusters12 is the number of clusters from which on a volume is FAT16
	// (Microsoft's FAT specification 1.03, "FAT type determination").
	fatClusters12 = 4085
	fatClusters16 = 65525
)

// makeFAT returns a FAT12 or FAT16 volume of size bytes in sectors of sector
// bytes, named label, holding files in its root directory. hidden is the number
// of sectors before the volume on its disk, serial the volume's number. The
// bytes depend on the arguments alone: files carry the first date FAT knows.
func makeFAT(size, sector int, hidden uint32, label string, serial uint32, files []fatFile) ([]byte, error) {
	total := size / sector
	cluster := max(1, 2048/sector) // sectors
	for total/cluster >= fatClusters16 {
		cluster *= 2
	}
	rootSectors := fatRootEntries * fatDirEntry / sector
	bits := 12
	if total/cluster >= fatClusters12 {
		bits = 16
	}
	// The table is sized for all sectors as if none were overhead: at most a
	// few entries too many, which the specification allows.
	fatSectors := ((total/cluster+2)*bits/8 + sector) / sector
	dataStart := 1 + 2*fatSectors + rootSectors
	clusters := (total - dataStart) / cluster
	if clusters < 1 || cluster > 128 || (bits == 16) != (clusters >= fatClusters12) {
		return nil, fmt.Errorf("a volume of %d bytes in sectors of %d cannot be FAT%d", size, sector, bits)
	}

	vol := make([]byte, size)
	le := binary.LittleEndian
	copy(vol, []byte{0xeb, 0x3c, 0x90})
	copy(vol[3:], "LPMOS   ")
	le.PutUint16(vol[11:], uint16(sector))
	vol[13] = byte(cluster)
	le.PutUint16(vol[14:], 1) // reserved sectors
	vol[16] = 2               // tables
	le.PutUint16(vol[17:], fatRootEntries)
	if total < 1<<16 {
		le.PutUint16(vol[19:], uint16(total))
	} else {
		le.PutUint32(vol[32:], uint32(total))
	}
	vol[21] = 0xf8 // a fixed disk
	le.PutUint16(vol[22:], uint16(fatSectors))
	le.PutUint16(vol[24:], 63)
	le.PutUint16(vol[26:], 255)
	le.PutUint32(vol[28:], hidden)
	vol[36] = 0x80
	vol[38] = 0x29 // the three fields after it are there
	le.PutUint32(vol[39:], serial)
	copy(vol[43:54], padName(label, 11))
	copy(vol[54:62], fmt.Sprintf("FAT%d   ", bits))
	vol[510], vol[511] = 0x55, 0xaa

	f := fatVolume{
		bits: bits,
		fat:  vol[sector:][:fatSectors*sector],
		root: vol[(1+2*fatSectors)*sector:][:rootSectors*sector],
		data: vol[dataStart*sector:], cluster: cluster * sector, clusters: clusters,
	}
	f.set(0, 0xfff8)
	f.set(1, 0xffff)
	f.next = 2
	f.dirEntry(padName(label, 11), fatVolumeLabel, 0, 0)
	for i, file := range files {
		if err := f.add(i, file); err != nil {
			return nil, err
		}
	}
	copy(vol[(1+fatSectors)*sector:], f.fat) // the second table
	return vol, nil
}

// fatVolume is a volume being filled.
type fatVolume struct {
	bits     int
	fat      []byte
	root     []byte
	data     []byte // of cluster 2 and on
	cluster  int    // bytes
	clusters int
	next     int // the first free cluster
	entries  int // used in the root directory
}

// set writes an entry of the table.
func (f *fatVolume) set(n int, v uint16) {
	if f.bits == 16 {
		binary.LittleEndian.PutUint16(f.fat[2*n:], v)
		return
	}
	v &= 0x0fff
	at := n + n/2
	if n%2 == 0 {
		f.fat[at] = byte(v)
		f.fat[at+1] = f.fat[at+1]&0xf0 | byte(v>>8)
	} else {
		f.fat[at] = f.fat[at]&0x0f | byte(v<<4)
		f.fat[at+1] = byte(v >> 4)
	}
}

// add stores a file. Its short name is made from its number: everything that
// reads the seed knows long names, and so two never clash.
func (f *fatVolume) add(number int, file fatFile) error {
	long := utf16.Encode([]rune(file.name))
	if len(long) == 0 || len(long) > 255 || strings.ContainsAny(file.name, "\"*/:<>?\\|\x00") {
		return fmt.Errorf("%.80q is no name for a file", file.name)
	}
	need := (len(file.data) + f.cluster - 1) / f.cluster
	if f.next+need > f.clusters+2 {
		return fmt.Errorf("%s: %d bytes are more than the volume holds", file.name, len(file.data))
	}
	first := 0
	if need > 0 {
		first = f.next
		copy(f.data[(first-2)*f.cluster:], file.data)
		for c := first; c < first+need-1; c++ {
			f.set(c, uint16(c+1))
		}
		f.set(first+need-1, 0xffff)
		f.next += need
	}
	parts := (len(long) + 12) / 13
	if f.entries+parts+1 > fatRootEntries {
		return fmt.Errorf("%s: the directory is full", file.name)
	}
	short := padName(fmt.Sprintf("LPMOS~%d", number+1), 11)
	f.longName(long, parts, shortSum(short))
	f.dirEntry(short, fatArchive, uint16(first), uint32(len(file.data)))
	return nil
}

// longName writes the parts of a long name, the last of them first.
func (f *fatVolume) longName(name []uint16, parts int, sum byte) {
	// The name ends in a zero when there is room for one, then all ones.
	padded := make([]uint16, parts*13)
	copy(padded, name)
	for i := len(name) + 1; i < len(padded); i++ {
		padded[i] = 0xffff
	}
	for p := parts; p >= 1; p-- {
		e := f.root[f.entries*fatDirEntry:][:fatDirEntry]
		f.entries++
		e[0] = byte(p)
		if p == parts {
			e[0] |= 0x40
		}
		e[11], e[13] = fatLongName, sum
		for i, c := range padded[(p-1)*13:][:13] {
			at := 1 + 2*i
			switch {
			case i >= 11:
				at = 28 + 2*(i-11)
			case i >= 5:
				at = 14 + 2*(i-5)
			}
			binary.LittleEndian.PutUint16(e[at:], c)
		}
	}
}

func (f *fatVolume) dirEntry(short []byte, attr byte, first uint16, size uint32) {
	const firstDay = 0<<9 | 1<<5 | 1 // 1980-01-01
	e := f.root[f.entries*fatDirEntry:][:fatDirEntry]
	f.entries++
	copy(e, short)
	e[11] = attr
	le := binary.LittleEndian
	le.PutUint16(e[16:], firstDay)
	le.PutUint16(e[18:], firstDay)
	le.PutUint16(e[24:], firstDay)
	le.PutUint16(e[26:], first)
	le.PutUint32(e[28:], size)
}

// shortSum ties the parts of a long name to the entry they belong to.
func shortSum(short []byte) byte {
	var s byte
	for _, c := range short {
		s = s>>1 | s<<7
		s += c
	}
	return s
}

// padName fills a name up with spaces, or cuts it.
func padName(s string, n int) []byte {
	b := []byte(strings.Repeat(" ", n))
	copy(b, s)
	return b
}
