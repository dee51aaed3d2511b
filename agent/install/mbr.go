package install

import "encoding/binary"

// Where things lie in a master boot record.
const (
	mbrEntries   = 446
	mbrEntrySize = 16
	mbrSignature = 510

	mbrProtective = 0xee
	mbrFAT16LBA   = 0x0e
)

// mbrEntry is one primary partition, in sectors.
type mbrEntry struct {
	status byte
	kind   byte
	first  uint32
	count  uint32
}

// end is the first sector after the partition.
func (e mbrEntry) end() uint64 { return uint64(e.first) + uint64(e.count) }

// linux reports whether the partition is of a kind that may be grown.
func (e mbrEntry) linux() bool { return e.kind == 0x83 || e.kind == 0x8e }

// hasMBR reports whether a disk's head carries a boot record's signature.
func hasMBR(head []byte) bool {
	return len(head) >= 512 && head[mbrSignature] == 0x55 && head[mbrSignature+1] == 0xaa
}

func mbrPartition(head []byte, i int) mbrEntry {
	b := head[mbrEntries+i*mbrEntrySize:][:mbrEntrySize]
	return mbrEntry{
		status: b[0], kind: b[4],
		first: binary.LittleEndian.Uint32(b[8:]),
		count: binary.LittleEndian.Uint32(b[12:]),
	}
}

// setMBRPartition writes partition i. Cylinders, heads and sectors are set to
// the value that means "look at the LBA".
func setMBRPartition(head []byte, i int, e mbrEntry) {
	b := head[mbrEntries+i*mbrEntrySize:][:mbrEntrySize]
	first := [3]byte{0xfe, 0xff, 0xff}
	if e.kind == mbrProtective && e.first == 1 {
		first = [3]byte{0x00, 0x02, 0x00} // UEFI 2.10, table 5.4
	}
	b[0], b[4] = e.status, e.kind
	copy(b[1:], first[:])
	copy(b[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[8:], e.first)
	binary.LittleEndian.PutUint32(b[12:], e.count)
}

// setMBRCount changes the length of partition i and leaves the rest alone.
func setMBRCount(head []byte, i int, count uint32) {
	b := head[mbrEntries+i*mbrEntrySize:][:mbrEntrySize]
	copy(b[5:], []byte{0xfe, 0xff, 0xff})
	binary.LittleEndian.PutUint32(b[12:], count)
}
