package images

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"

	"github.com/lpmos/lpmos/agent/wire"
)

// gzipLevel is the trade between bytes on the wire and the seconds an import
// takes; beyond 6 the gain is under one per cent.
const gzipLevel = 6

// chunkSet is the set of different chunks a manifest names, zeros left out.
func chunkSet(m wire.Manifest) map[string]bool {
	set := make(map[string]bool)
	for _, name := range m.Chunks {
		if name != "" {
			set[name] = true
		}
	}
	return set
}

// isZero reports whether b holds nothing but zeros.
func isZero(b []byte) bool {
	var zeros [4096]byte
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// chunkName is the name of raw bytes: empty for zeros.
func chunkName(raw []byte) string {
	if isZero(raw) {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// compressMember makes the gzip member (RFC 1952) of a chunk. The header holds
// no time and no name, so the same bytes give the same member.
func compressMember(raw []byte) ([]byte, error) {
	var out bytes.Buffer
	zw, err := gzip.NewWriterLevel(&out, gzipLevel)
	if err != nil {
		return nil, err
	}
	if _, err := zw.Write(raw); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// verifyMember checks that r is exactly one gzip member which inflates to the
// bytes of that name.
func verifyMember(r io.Reader, name string) error {
	// The buffer is ours, so that bytes behind the member can be seen: gzip
	// does not read ahead of a buffered reader.
	src := bufio.NewReaderSize(r, 64<<10)
	zr, err := gzip.NewReader(src)
	if err != nil {
		return fmt.Errorf("chunk %s: %w: %w", name, ErrCorrupt, err)
	}
	zr.Multistream(false)
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(zr, wire.ChunkBytes+1))
	if err != nil {
		return fmt.Errorf("chunk %s: %w: %w", name, ErrCorrupt, err)
	}
	if n > wire.ChunkBytes {
		return fmt.Errorf("chunk %s: %w: larger than a chunk", name, ErrCorrupt)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != name {
		return fmt.Errorf("chunk %s: %w: it holds %s", name, ErrCorrupt, got)
	}
	if _, err := src.ReadByte(); err != io.EOF {
		return fmt.Errorf("chunk %s: %w: bytes follow its gzip member", name, ErrCorrupt)
	}
	return nil
}

// putChunk stores the raw bytes of that name unless a good copy lies there
// already. The caller holds a claim on the name and calls syncDir on its folder
// before a manifest counts on it.
func (s *Store) putChunk(name string, raw []byte) error {
	if err := s.VerifyChunk(name); err == nil {
		return nil
	}
	member, err := compressMember(raw)
	if err != nil {
		return fmt.Errorf("compress chunk: %w", err)
	}
	// What is about to be kept for years is inflated once before it counts:
	// this catches bad memory as well as a bad compressor.
	if err := verifyMember(bytes.NewReader(member), name); err != nil {
		return fmt.Errorf("compress chunk: %w", err)
	}
	return s.putMember(name, member)
}

// putMember stores a verified gzip member in place of whatever lies there. The
// caller holds a claim on the name.
func (s *Store) putMember(name string, member []byte) error {
	path := s.chunkPath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("store chunk: %w", err)
	}
	if err := s.writeFile(path, member); err != nil {
		return fmt.Errorf("store chunk: %w", err)
	}
	s.put(name)
	return nil
}
