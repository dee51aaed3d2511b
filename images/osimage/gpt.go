package osimage

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

const (
	sectorBytes = 512
	mib         = 1 << 20
	align       = 4 * mib // the size of a chunk
	gptEntries  = 128
	entryBytes  = 128
	// tableSectors is what a GPT takes at either end: header and entries.
	tableSectors = 1 + gptEntries*entryBytes/sectorBytes
)

// Partition types, as text.
const (
	typeBIOSBoot = "21686148-6449-6e6f-744e-656564454649"
	typeESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeLinux    = "0fc63daf-8483-4772-8e79-3d69d8477de4"
)

// partition is an entry of a GPT; offset and size are bytes.
type partition struct {
	kind         string
	guid         [16]byte
	name         string
	offset, size int64
}

// writeGPT writes a protective MBR with boot code, and a GPT at both ends of a
// disk (UEFI specification 2.10 §5.2.3 and §5.3).
func writeGPT(w io.WriterAt, size int64, disk [16]byte, bootCode []byte, parts []partition) error {
	sectors := uint64(size / sectorBytes)
	entries := make([]byte, gptEntries*entryBytes)
	for i, p := range parts {
		if p.offset%align != 0 || p.size%sectorBytes != 0 || p.offset+p.size > size-tableSectors*sectorBytes {
			return fmt.Errorf("partition %s does not lie on the disk, or not at a multiple of 4 MiB", p.name)
		}
		kind, err := parseGUID(p.kind)
		if err != nil {
			return err
		}
		e := entries[i*entryBytes:]
		copy(e, kind[:])
		copy(e[16:], p.guid[:])
		binary.LittleEndian.PutUint64(e[32:], uint64(p.offset/sectorBytes))
		binary.LittleEndian.PutUint64(e[40:], uint64((p.offset+p.size)/sectorBytes-1))
		for j, unit := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], unit)
		}
	}
	header := func(here, other, table uint64) []byte {
		h := make([]byte, sectorBytes)
		copy(h, "EFI PART")
		binary.LittleEndian.PutUint32(h[8:], 0x00010000)
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], here)
		binary.LittleEndian.PutUint64(h[32:], other)
		binary.LittleEndian.PutUint64(h[40:], 1+tableSectors)
		binary.LittleEndian.PutUint64(h[48:], sectors-tableSectors-1)
		copy(h[56:], disk[:])
		binary.LittleEndian.PutUint64(h[72:], table)
		binary.LittleEndian.PutUint32(h[80:], gptEntries)
		binary.LittleEndian.PutUint32(h[84:], entryBytes)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	mbr := make([]byte, sectorBytes)
	copy(mbr[:440], bootCode)
	copy(mbr[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0})
	binary.LittleEndian.PutUint32(mbr[458:], uint32(min(sectors-1, 1<<32-1)))
	mbr[510], mbr[511] = 0x55, 0xaa

	for _, part := range []struct {
		lba  uint64
		data []byte
	}{
		{0, mbr},
		{1, header(1, sectors-1, 2)},
		{2, entries},
		{sectors - tableSectors, entries},
		{sectors - 1, header(sectors-1, 1, sectors-tableSectors)},
	} {
		if _, err := w.WriteAt(part.data, int64(part.lba)*sectorBytes); err != nil {
			return fmt.Errorf("write partition table: %w", err)
		}
	}
	return nil
}

// parseGUID reads a GUID's text; its first three groups are little endian on
// disk (UEFI specification 2.10, appendix A).
func parseGUID(text string) (g [16]byte, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 {
		return g, fmt.Errorf("%q is no GUID", text)
	}
	return swapGUID([16]byte(b)), nil
}

// guidText is the inverse of parseGUID.
func guidText(g [16]byte) string {
	b := swapGUID(g)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func swapGUID(g [16]byte) [16]byte {
	return [16]byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}
