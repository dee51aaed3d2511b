package images

import (
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Types of GPT partitions that say which processor the disk is for (Discoverable
// Partitions Specification; the last is where GRUB for a BIOS lies).
func partitionArch(guid string) string {
	switch guid {
	case "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", // root
		"8484680c-9521-48c6-9c11-b0720656f69e", // usr
		"21686148-6449-6e6f-744e-656564454649": // BIOS boot
		return "amd64"
	case "b921b045-1df0-41c3-af44-4c6f280d3fae", "b0e01050-ee5f-4390-949a-9101b17104e9": // root, usr
		return "arm64"
	}
	return ""
}

// diskArch is the processor (GOARCH) that a disk is for, by the types of its
// partitions; empty when they do not say, or say two. head begins the disk. The code
// in its first sector says nothing: some programs write the same for every machine.
func diskArch(head []byte, sector int) string {
	if len(head) < sector+92 || string(head[sector:sector+8]) != "EFI PART" {
		return ""
	}
	header := head[sector:]
	first, size := binary.LittleEndian.Uint64(header[72:]), int(binary.LittleEndian.Uint32(header[84:]))
	if first > uint64(len(head)/sector) || size < 128 || size > sector {
		return ""
	}
	entries := head[first*uint64(sector):]
	arch := ""
	for range min(binary.LittleEndian.Uint32(header[80:]), 128) {
		if len(entries) < size {
			break
		}
		switch is := partitionArch(guidText(entries)); {
		case is == "":
		case arch != "" && arch != is:
			return ""
		default:
			arch = is
		}
		entries = entries[size:]
	}
	return arch
}

// guidText is a GUID as people write it; on disk its first three fields are
// little-endian (UEFI 2.10, appendix A).
func guidText(b []byte) string {
	order := []byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	s := hex.EncodeToString(append(order, b[8:16]...))
	return strings.Join([]string{s[:8], s[8:12], s[12:16], s[16:20], s[20:]}, "-")
}

// Architecture is the processor (GOARCH) that an image is for, or empty when its
// partition table does not say.
func (s *Store) Architecture(digest string) (string, error) {
	m, err := s.Manifest(digest)
	if err != nil || m.Chunks[0] == "" {
		return "", err
	}
	f, err := s.OpenChunk(m.Chunks[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		return "", fmt.Errorf("chunk %s: %w", m.Chunks[0], err)
	}
	head := make([]byte, headBytes)
	n, err := io.ReadFull(unpacked, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return "", fmt.Errorf("chunk %s: %w", m.Chunks[0], err)
	}
	return diskArch(head[:n], m.SectorBytes), nil
}
