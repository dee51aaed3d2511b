package images

import (
	"bytes"
	"encoding/binary"
)

// headBytes is how much of a file is looked at to tell what it is: an ISO 9660
// volume descriptor begins at 32 KiB.
const headBytes = 36 << 10

// compression is how a file is packed.
type compression string

const (
	packedNot  compression = "raw"
	packedGzip compression = "gzip"
	packedXz   compression = "xz"
	packedZstd compression = "zstd"
)

// detectCompression tells by magic how a file that begins with head is packed.
func detectCompression(head []byte) compression {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}):
		return packedGzip
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return packedXz
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return packedZstd
	}
	return packedNot
}

// foreign are files people mistake for a raw disk, told by bytes at an offset.
var foreign = []struct {
	offset int
	magic  string
	reason string
}{
	{0, "QFI\xfb", "a qcow2 file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "KDMV", "a VMDK file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "COWD", "a VMDK file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "# Disk DescriptorFile", "a VMDK descriptor; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "vhdxfile", "a VHDX file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "conectix", "a VHD file; convert it first: qemu-img convert -O raw IN OUT"},
	{0x40, "\x7f\x10\xda\xbe", "a VDI file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "QED\x00", "a QED file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "WithoutFreeSpace", "a Parallels file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "WithouFreSpacExt", "a Parallels file; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "#Disk DescriptorFile", "a VMDK descriptor; convert it first: qemu-img convert -O raw IN OUT"},
	{0, "LUKS\xba\xbe", "an encrypted file system, not a disk"},
	{0, "#!", "a script, not a disk"},
	{0, "PK\x03\x04", "a zip archive; unpack it and import the disk image in it"},
	{0, "7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and import the disk image in it"},
	{0, "Rar!", "a rar archive; unpack it and import the disk image in it"},
	{257, "ustar", "a tar archive, not a disk; unpack it and import the disk image in it"},
	{0, "BZh", "packed with bzip2; pack it with gzip, xz or zstd, or not at all"},
	{0, "\x04\x22\x4d\x18", "packed with lz4; pack it with gzip, xz or zstd, or not at all"},
	{0, "\x1f\x8b\x08", "packed twice; unpack it once"},
	{0, "\xfd7zXZ\x00", "packed twice; unpack it once"},
	{0, "\x28\xb5\x2f\xfd", "packed twice; unpack it once"},
	{0, "hsqs", "a squashfs file system, not a disk"},
	{0, "\x7fELF", "a program, not a disk"},
	{0, "<!DOCTYPE", "a web page, not a disk; check the address it came from"},
	{0, "<html", "a web page, not a disk; check the address it came from"},
}

// disk is what the first bytes of a raw disk image say about the whole.
type disk struct {
	sector   int    // bytes of a logical sector: 512 or 4096
	minBytes uint64 // the partition table speaks of a disk at least this large
}

// inspectDisk checks that head begins a raw disk with a partition table (MBR,
// or GPT as in the UEFI specification 2.10 §5.3) and refuses anything else with
// the reason.
func inspectDisk(head []byte) (disk, error) {
	for _, f := range foreign {
		if len(head) >= f.offset && bytes.HasPrefix(head[f.offset:], []byte(f.magic)) {
			return disk{}, refuse("it is %s", f.reason)
		}
	}
	const noTable = "no partition table: not a bootable disk image"
	isISO := len(head) >= 32774 && string(head[32769:32774]) == "CD001"
	if len(head) < 512 || head[510] != 0x55 || head[511] != 0xaa {
		if isISO {
			return disk{}, refuse("it is an ISO without a partition table; take the vendor's disk (cloud) image instead")
		}
		return disk{}, refuse(noTable)
	}
	mbrEnd, protective, ok := readMBR(head)
	if !ok {
		return disk{}, refuse("%s (its first sector is a file system's or a boot sector without partitions)", noTable)
	}
	if !protective {
		return disk{sector: 512, minBytes: mbrEnd * 512}, nil
	}
	for _, sector := range []int{512, 4096} {
		if len(head) < sector+92 || string(head[sector:sector+8]) != "EFI PART" {
			continue
		}
		// The header's AlternateLBA is the last sector of the disk. An image
		// made larger afterwards is fine, one that ends before it is cut short.
		alternate := binary.LittleEndian.Uint64(head[sector+32:])
		if alternate > 1<<46/uint64(sector) {
			return disk{}, refuse("its GPT speaks of a disk larger than 64 TiB")
		}
		return disk{sector: sector, minBytes: (alternate + 1) * uint64(sector)}, nil
	}
	return disk{}, refuse("its partition table announces a GPT that is not there")
}

// readMBR reads the four entries of a master boot record. end is the first
// sector behind the last partition. ok is false when the entries cannot be
// partitions: a FAT or NTFS boot sector carries the same signature.
func readMBR(head []byte) (end uint64, protective, ok bool) {
	for i := range 4 {
		e := head[446+16*i : 462+16*i]
		status, kind := e[0], e[4]
		start, count := binary.LittleEndian.Uint32(e[8:]), binary.LittleEndian.Uint32(e[12:])
		if status != 0 && status != 0x80 {
			return 0, false, false
		}
		if kind == 0 || count == 0 {
			continue
		}
		ok = true
		if kind == 0xee {
			protective = true
		}
		end = max(end, uint64(start)+uint64(count))
	}
	return end, protective, ok
}
