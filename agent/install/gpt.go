package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// guid is a GUID as it lies on disk: the first three fields little-endian
// (UEFI 2.10, appendix A).
type guid [16]byte

// Partition types (UEFI 2.10, table 5.7, and the Discoverable Partitions
// Specification).
var (
	typeESP       = mustGUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	typeBasicData = mustGUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")
	linuxTypes    = []guid{
		mustGUID("0fc63daf-8483-4772-8e79-3d69d8477de4"), // data
		mustGUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), // root x86-64
		mustGUID("b921b045-1df0-41c3-af44-4c6f280d3fae"), // root arm64
		mustGUID("e6d6d379-f507-44c2-a23c-238f2a3df928"), // LVM
	}
)

// mustGUID parses one of the constants above.
func mustGUID(s string) guid {
	var raw [16]byte
	n := 0
	for i := 0; i < len(s); i++ {
		var v byte
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			v = c - '0'
		case c >= 'a' && c <= 'f':
			v = c - 'a' + 10
		default:
			continue
		}
		raw[n/2] |= v << (4 * (1 - n%2))
		n++
	}
	g := guid(raw)
	g[0], g[1], g[2], g[3] = raw[3], raw[2], raw[1], raw[0]
	g[4], g[5], g[6], g[7] = raw[5], raw[4], raw[7], raw[6]
	return g
}

// Where the fields of a GPT header lie (UEFI 2.10, table 5.5).
const (
	gptMinHeader   = 92
	gptHeaderSize  = 12
	gptHeaderCRC   = 16
	gptMyLBA       = 24
	gptAlternate   = 32
	gptFirstUsable = 40
	gptLastUsable  = 48
	gptEntryLBA    = 72
	gptEntryCount  = 80
	gptEntrySize   = 84
	gptEntriesCRC  = 88
)

// maxEntries bounds the partition array, in bytes: far more than the customary
// 16 KiB, and it fits behind the journal.
const maxEntries = 256 << 10

// gpt is a partition table read from the head of an image.
type gpt struct {
	sector  int
	header  []byte // one sector, kept whole: fields not named here stay
	entries []byte
	size    int // of one entry
}

// errNoGPT says that there is no GPT where one would be.
var errNoGPT = errors.New("no GPT header")

// parseGPT reads the primary table from the head of a disk. It returns errNoGPT
// when there is none and another error when there is a broken one. The result
// has its own copy of the bytes.
func parseGPT(head []byte, sector int) (*gpt, error) {
	if len(head) < 2*sector {
		return nil, errNoGPT
	}
	h := bytes.Clone(head[sector : 2*sector])
	if string(h[:8]) != "EFI PART" {
		return nil, errNoGPT
	}
	le := binary.LittleEndian
	hsize := le.Uint32(h[gptHeaderSize:])
	if hsize < gptMinHeader || hsize > uint32(sector) {
		return nil, fmt.Errorf("gpt: header of %d bytes", hsize)
	}
	if headerCRC(h) != le.Uint32(h[gptHeaderCRC:]) {
		return nil, errors.New("gpt: header checksum does not match")
	}
	if lba := le.Uint64(h[gptMyLBA:]); lba != 1 {
		return nil, fmt.Errorf("gpt: header says it lies at sector %d, not 1", lba)
	}
	count, size, lba := le.Uint32(h[gptEntryCount:]), le.Uint32(h[gptEntrySize:]), le.Uint64(h[gptEntryLBA:])
	if size < 128 || size > 4096 || size&(size-1) != 0 || count == 0 || uint64(count)*uint64(size) > maxEntries {
		return nil, fmt.Errorf("gpt: %d entries of %d bytes", count, size)
	}
	length := uint64(count) * uint64(size)
	if lba < 2 || lba > uint64(len(head))/uint64(sector) || lba*uint64(sector)+length > uint64(len(head)) {
		return nil, fmt.Errorf("gpt: entries at sector %d do not lie in the image's first %d bytes", lba, len(head))
	}
	g := &gpt{sector: sector, header: h, size: int(size)}
	g.entries = bytes.Clone(head[lba*uint64(sector):][:length])
	if crc32.ChecksumIEEE(g.entries) != le.Uint32(h[gptEntriesCRC:]) {
		return nil, errors.New("gpt: checksum of the entries does not match")
	}
	return g, nil
}

// headerCRC is the checksum of a header with its checksum field as zero.
func headerCRC(h []byte) uint32 {
	c := bytes.Clone(h[:binary.LittleEndian.Uint32(h[gptHeaderSize:])])
	binary.LittleEndian.PutUint32(c[gptHeaderCRC:], 0)
	return crc32.ChecksumIEEE(c)
}

// gptEntry is one partition. First and last are LBAs, both inclusive.
type gptEntry struct {
	kind, unique guid
	first, last  uint64
	attrs        uint64
	name         string
}

func (g *gpt) count() int { return len(g.entries) / g.size }

// entry returns partition i, counted from 0; ok is false for an unused slot.
func (g *gpt) entry(i int) (e gptEntry, ok bool) {
	b := g.entries[i*g.size:][:128]
	e.kind, e.unique = guid(b[:16]), guid(b[16:32])
	le := binary.LittleEndian
	e.first, e.last, e.attrs = le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
	var name []uint16
	for j := 56; j < 128; j += 2 {
		c := le.Uint16(b[j:])
		if c == 0 {
			break
		}
		name = append(name, c)
	}
	e.name = string(utf16.Decode(name))
	return e, e.kind != guid{}
}

// setEntry writes partition i, counted from 0. Names are cut at 36 characters.
func (g *gpt) setEntry(i int, e gptEntry) {
	b := g.entries[i*g.size:][:g.size]
	clear(b)
	copy(b, e.kind[:])
	copy(b[16:], e.unique[:])
	le := binary.LittleEndian
	le.PutUint64(b[32:], e.first)
	le.PutUint64(b[40:], e.last)
	le.PutUint64(b[48:], e.attrs)
	for j, c := range utf16.Encode([]rune(e.name)) {
		if j == 36 {
			break
		}
		le.PutUint16(b[56+2*j:], c)
	}
}

// setLast moves the end of partition i and leaves the rest of it alone.
func (g *gpt) setLast(i int, last uint64) {
	binary.LittleEndian.PutUint64(g.entries[i*g.size+40:], last)
}

// entrySectors is the length of the partition array in sectors.
func (g *gpt) entrySectors() uint64 {
	return uint64((len(g.entries) + g.sector - 1) / g.sector)
}

// entryOffset is where the primary array lies, in bytes.
func (g *gpt) entryOffset() int64 {
	return int64(binary.LittleEndian.Uint64(g.header[gptEntryLBA:])) * int64(g.sector)
}

// fit makes the table one of a disk of the given number of sectors and renews
// the checksums of the primary header.
func (g *gpt) fit(sectors uint64) {
	le := binary.LittleEndian
	le.PutUint64(g.header[gptAlternate:], sectors-1)
	le.PutUint64(g.header[gptLastUsable:], sectors-g.entrySectors()-2)
	le.PutUint32(g.header[gptEntriesCRC:], crc32.ChecksumIEEE(g.entries))
	le.PutUint32(g.header[gptHeaderCRC:], headerCRC(g.header))
}

// backup returns the bytes of the backup table, array first, and the byte at
// which they belong: they end with the disk's last sector.
func (g *gpt) backup(sectors uint64) (off int64, data []byte) {
	start := sectors - 1 - g.entrySectors()
	data = make([]byte, (g.entrySectors()+1)*uint64(g.sector))
	copy(data, g.entries)
	h := data[g.entrySectors()*uint64(g.sector):]
	copy(h, g.header)
	le := binary.LittleEndian
	le.PutUint64(h[gptMyLBA:], sectors-1)
	le.PutUint64(h[gptAlternate:], 1)
	le.PutUint64(h[gptEntryLBA:], start)
	le.PutUint32(h[gptHeaderCRC:], headerCRC(h))
	return int64(start) * int64(g.sector), data
}
