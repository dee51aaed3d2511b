package inventory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/lpmos/lpmos/agent/wire"
)

// partitions reads the partition table: GPT by its primary header or else by its
// backup at the disk's end, or the MBR's four entries and its logical ones.
func partitions(r io.ReaderAt, head []byte, size int64, sector int) (string, []wire.Partition) {
	if list, ok := readGPT(r, int64(sector), size, sector); ok {
		return "gpt", list
	}
	if list, ok := readGPT(r, size/int64(sector)*int64(sector)-int64(sector), size, sector); ok {
		return "gpt", list
	}
	if list, ok := readMBR(r, head, size, sector); ok {
		return "mbr", list
	}
	return "", nil
}

// Limits of a GPT that is believed (UEFI 2.10, section 5.3.2).
const (
	maxGPTHeader  = 512
	maxGPTEntries = 1024
	maxGPTEntry   = 4096
)

// readGPT reads the header at off and its entries, both checked by their CRC.
func readGPT(r io.ReaderAt, off, size int64, sector int) ([]wire.Partition, bool) {
	h := make([]byte, maxGPTHeader)
	if _, err := readFull(r, h, off); err != nil || string(h[:8]) != "EFI PART" {
		return nil, false
	}
	n := binary.LittleEndian.Uint32(h[12:])
	if n < 92 || n > maxGPTHeader {
		return nil, false
	}
	sum := binary.LittleEndian.Uint32(h[16:])
	plain := bytes.Clone(h[:n])
	clear(plain[16:20])
	if crc32.ChecksumIEEE(plain) != sum {
		return nil, false
	}
	lba := binary.LittleEndian.Uint64(h[72:])
	count, width := binary.LittleEndian.Uint32(h[80:]), binary.LittleEndian.Uint32(h[84:])
	if count == 0 || count > maxGPTEntries || width < 128 || width > maxGPTEntry || lba > uint64(size)/uint64(sector) {
		return nil, false
	}
	entries := make([]byte, int(count)*int(width))
	if _, err := readFull(r, entries, int64(lba)*int64(sector)); err != nil {
		return nil, false
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(h[88:]) {
		return nil, false
	}
	var list []wire.Partition
	for i := range int(count) {
		e := entries[i*int(width):]
		if allBytes(e[:16], 0) {
			continue
		}
		from, to := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if from > to || to > uint64(size)/uint64(sector) || len(list) == maxPartitions {
			continue
		}
		list = append(list, wire.Partition{
			Number:     i + 1,
			StartBytes: from * uint64(sector),
			SizeBytes:  (to - from + 1) * uint64(sector),
			Type:       gptType(guidString(e[:16])),
			Label:      utf16String(e[56:128]),
		})
	}
	return list, true
}

// utf16String reads little-endian UTF-16 up to a zero.
func utf16String(b []byte) string {
	var u []uint16
	for ; len(b) >= 2; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return clean(string(utf16.Decode(u)))
}

// typeGPFS marks a file system that shows itself by nothing else.
const typeGPFS = "GPFS"

// gptType names the types that people know, and gives the GUID of others.
func gptType(guid string) string {
	switch guid {
	case "c12a7328-f81f-11d2-ba4b-00a0c93ec93b":
		return "EFI system"
	case "21686148-6449-6e6f-744e-656564454649":
		return "BIOS boot"
	case "0fc63daf-8483-4772-8e79-3d69d8477de4":
		return "Linux"
	case "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "b921b045-1df0-41c3-af44-4c6f280d3fae":
		return "Linux root"
	case "bc13c2ff-59e6-4262-a352-b275fd6f7172":
		return "Linux extended boot"
	case "933ac7e1-2eb4-4f13-b844-0e14e2aef915":
		return "Linux home"
	case "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f":
		return "Linux swap"
	case "e6d6d379-f507-44c2-a23c-238f2a3df928":
		return "Linux LVM"
	case "a19d880f-05fc-4d3b-a006-743f0f84911e":
		return "Linux RAID"
	case "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7":
		return "Microsoft basic data"
	case "e3c9e316-0b5c-4db8-817d-f92df00215ae":
		return "Microsoft reserved"
	case "de94bba4-06d1-4d40-a16a-bfd50179d6ac":
		return "Windows recovery"
	case "6a898cc3-1dd2-11b2-99a6-080020736631":
		return "ZFS"
	case "aa31e02a-400f-11db-9590-000c2911d1b8":
		return "VMFS"
	case "37affc90-ef7d-4e96-91c3-2d7ae055b174":
		return typeGPFS
	case "4fbd7e29-9d25-41b8-afd0-062c0ceff05d":
		return "Ceph OSD"
	}
	return guid
}

// Types of MBR partitions.
const (
	mbrProtective = 0xee
	maxLogical    = 60
)

// readMBR reads the four primary entries and follows the chain of logical ones.
func readMBR(r io.ReaderAt, head []byte, size int64, sector int) ([]wire.Partition, bool) {
	entries, ok := mbrEntries(head)
	if !ok {
		return nil, false
	}
	var list []wire.Partition
	for i, e := range entries {
		p := e.partition(i+1, 0, sector)
		if e.kind == 0 || e.sectors == 0 || p.StartBytes >= uint64(size) {
			continue
		}
		list = append(list, p)
		if e.extended() {
			list = append(list, logical(r, e.start, size, sector)...)
		}
	}
	return list, true
}

// logical follows the chain inside an extended partition. The links are relative
// to the extended partition; each must lead onwards, so that no chain is endless.
func logical(r io.ReaderAt, base uint32, size int64, sector int) []wire.Partition {
	var list []wire.Partition
	at := uint64(base)
	b := make([]byte, 512)
	for len(list) < maxLogical {
		if at >= uint64(size)/uint64(sector) {
			break
		}
		if _, err := readFull(r, b, int64(at)*int64(sector)); err != nil {
			break
		}
		e, ok := mbrEntries(b)
		if !ok {
			break
		}
		p := e[0].partition(5+len(list), at, sector)
		if e[0].kind != 0 && e[0].sectors != 0 && p.StartBytes < uint64(size) {
			list = append(list, p)
		}
		next := uint64(base) + uint64(e[1].start)
		if !e[1].extended() || next <= at {
			break
		}
		at = next
	}
	return list
}

type mbrEntry struct {
	kind           byte
	start, sectors uint32
}

func (e mbrEntry) extended() bool { return e.kind == 0x05 || e.kind == 0x0f || e.kind == 0x85 }

func (e mbrEntry) partition(number int, base uint64, sector int) wire.Partition {
	return wire.Partition{
		Number:     number,
		StartBytes: (base + uint64(e.start)) * uint64(sector),
		SizeBytes:  uint64(e.sectors) * uint64(sector),
		Type:       mbrType(e.kind),
	}
}

// mbrEntries reads the table of a boot sector. A boot sector that is a file
// system's has other bytes there, which show in the active flags.
func mbrEntries(b []byte) (list [4]mbrEntry, ok bool) {
	if len(b) < 512 || b[510] != 0x55 || b[511] != 0xaa {
		return list, false
	}
	for i := range list {
		e := b[446+16*i:]
		if e[0]&0x7f != 0 {
			return [4]mbrEntry{}, false
		}
		list[i] = mbrEntry{kind: e[4], start: binary.LittleEndian.Uint32(e[8:]), sectors: binary.LittleEndian.Uint32(e[12:])}
	}
	return list, true
}

func mbrType(kind byte) string {
	switch kind {
	case 0x05, 0x0f, 0x85:
		return "extended"
	case 0x07:
		return "NTFS/exFAT"
	case 0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e:
		return "FAT"
	case 0x82:
		return "Linux swap"
	case 0x83:
		return "Linux"
	case 0x8e:
		return "Linux LVM"
	case 0xfd:
		return "Linux RAID"
	case 0xef:
		return "EFI system"
	case 0xfb:
		return "VMFS"
	case mbrProtective:
		return "GPT protective"
	}
	return fmt.Sprintf("0x%02x", kind)
}
