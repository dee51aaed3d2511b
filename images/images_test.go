package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/lpmos/lpmos/agent/wire"
)

// openStore opens a store that finds plenty of space.
func openStore(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := OpenStore(dir, StoreOptions{
		MaxBytes:  64 << 20,
		FreeSpace: func(string) (uint64, error) { return 1 << 40, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// diskImage is a raw disk with an MBR: chunk 0 holds it, chunk 1 is zeros, the
// rest begins with noise that depends on seed.
func diskImage(size int, seed uint64) []byte {
	raw := make([]byte, size)
	rng := rand.New(rand.NewPCG(seed, 1))
	for at := 2 * wire.ChunkBytes; at < size; at += wire.ChunkBytes {
		for i := at; i < min(at+8192, size); i++ {
			raw[i] = byte(rng.Uint32())
		}
	}
	raw[446] = 0x80
	raw[450] = 0x83
	binary.LittleEndian.PutUint32(raw[454:], 1)
	binary.LittleEndian.PutUint32(raw[458:], uint32(size/512-1))
	raw[510], raw[511] = 0x55, 0xaa
	raw[0] = byte(seed)
	return raw
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mustImport(t testing.TB, s *Store, raw []byte) (wire.Manifest, string) {
	t.Helper()
	m, digest, err := s.Import(context.Background(), bytes.NewReader(raw), ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return m, digest
}

// readBack puts an image together again from its chunks.
func readBack(t testing.TB, s *Store, m wire.Manifest) []byte {
	t.Helper()
	var raw []byte
	for i, name := range m.Chunks {
		if name == "" {
			raw = append(raw, make([]byte, m.ChunkLen(i))...)
			continue
		}
		f, err := s.OpenChunk(name)
		if err != nil {
			t.Fatal(err)
		}
		zr, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		chunk, err := io.ReadAll(zr)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, chunk...)
	}
	return raw
}

// files lists what lies in the store, relative to its folder.
func files(t testing.TB, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// pack compresses b as kind says.
func pack(t testing.TB, kind compression, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case packedNot:
		return b
	case packedGzip:
		w = gzip.NewWriter(&out)
	case packedZstd:
		w, err = zstd.NewWriter(&out)
	case packedXz:
		w, err = xz.NewWriter(&out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// flip changes one bit of a file.
func flip(t testing.TB, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}
