package wire

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// ChunkBytes is the size of a chunk: 4 MiB of raw disk. The last chunk of an
// image may be shorter.
const ChunkBytes = 4 << 20

// Manifest describes an OS image as chunks of raw disk. A chunk's name is the
// SHA-256 of its raw bytes in hex; a chunk of zeros has the empty name and no
// bytes anywhere. The manifest's own digest is the image's identity.
type Manifest struct {
	Version     int      `json:"version"` // 1
	SizeBytes   uint64   `json:"size_bytes"`
	ChunkBytes  int      `json:"chunk_bytes"`
	SectorBytes int      `json:"sector_bytes"` // 512: a 4Kn disk needs an image made for it
	Chunks      []string `json:"chunks"`
}

// Digest is the identity of the image.
func (m Manifest) Digest() string { return hashJSON(m) }

// ChunkLen is the number of raw bytes of chunk i.
func (m Manifest) ChunkLen(i int) int {
	if i == len(m.Chunks)-1 {
		if rest := int(m.SizeBytes % uint64(m.ChunkBytes)); rest != 0 {
			return rest
		}
	}
	return m.ChunkBytes
}

// Validate checks that the manifest is complete and consistent.
func (m Manifest) Validate() error {
	switch {
	case m.Version != 1:
		return fmt.Errorf("manifest: version %d is not known here", m.Version)
	case m.ChunkBytes != ChunkBytes:
		return fmt.Errorf("manifest: chunk size %d, want %d", m.ChunkBytes, ChunkBytes)
	case m.SectorBytes != 512 && m.SectorBytes != 4096:
		return fmt.Errorf("manifest: sector size %d, want 512 or 4096", m.SectorBytes)
	case m.SizeBytes == 0 || m.SizeBytes%uint64(m.SectorBytes) != 0:
		return fmt.Errorf("manifest: size %d is not a positive number of %d-byte sectors", m.SizeBytes, m.SectorBytes)
	case m.SizeBytes > 1<<46:
		return errors.New("manifest: larger than 64 TiB")
	}
	if want := (m.SizeBytes + ChunkBytes - 1) / ChunkBytes; uint64(len(m.Chunks)) != want {
		return fmt.Errorf("manifest: %d chunks, want %d for %d bytes", len(m.Chunks), want, m.SizeBytes)
	}
	for i, c := range m.Chunks {
		if c == "" {
			continue
		}
		if !IsDigest(c) {
			return fmt.Errorf("manifest: chunk %d: %.80q is not a SHA-256 in hex", i, c)
		}
	}
	return nil
}

// IsDigest reports whether s is a SHA-256 in lower-case hex.
func IsDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, r := range s {
		if r >= 'A' && r <= 'F' {
			return false
		}
	}
	_, err := hex.DecodeString(s)
	return err == nil
}
