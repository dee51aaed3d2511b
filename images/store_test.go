package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestStoreKeepsImagesOverARestart(t *testing.T) {
	dir := t.TempDir()
	raw := diskImage(3*wire.ChunkBytes+512, 1)
	m, digest := mustImport(t, openStore(t, dir), raw)

	s := openStore(t, dir)
	again, err := s.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest() != m.Digest() || !bytes.Equal(readBack(t, s, again), raw) {
		t.Error("the image changed over a restart")
	}
	if err := s.Verify(digest); err != nil {
		t.Error(err)
	}
	info, err := s.Info(digest)
	if err != nil {
		t.Fatal(err)
	}
	if info.Chunks != 4 || info.DataChunks != 3 || info.Missing != 0 || info.SizeBytes != uint64(len(raw)) || info.StoredBytes == 0 {
		t.Errorf("info is %+v", info)
	}
}

func TestDeleteKeepsChunksOfOtherImages(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	a := diskImage(4*wire.ChunkBytes, 1)
	b := bytes.Clone(a)
	b[3*wire.ChunkBytes] ^= 1 // differs in the last chunk only
	_, da := mustImport(t, s, a)
	mb, db := mustImport(t, s, b)

	if err := s.Delete(da); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readBack(t, s, mb), b) {
		t.Error("deleting one image damaged the other")
	}
	if err := s.Delete(da); !errors.Is(err, ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	if err := s.Delete(db); err != nil {
		t.Fatal(err)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
}

func TestOpenCleansUpAfterACrash(t *testing.T) {
	dir := t.TempDir()
	_, digest := mustImport(t, openStore(t, dir), diskImage(3*wire.ChunkBytes, 1))
	want := files(t, dir)

	orphan := strings.Repeat("ab", 32)
	for _, name := range []string{
		"tmp/w123",
		"chunks/ab/" + orphan,
		"chunks/ab/rubbish",
		"chunks/zz",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("left over"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, dir)
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("after opening: %v, want %v", got, want)
	}
	if err := s.Verify(digest); err != nil {
		t.Error(err)
	}
}

func TestS38_DamagedManifestIsSetAside(t *testing.T) {
	dir := t.TempDir()
	raw := diskImage(3*wire.ChunkBytes, 1)
	_, digest := mustImport(t, openStore(t, dir), raw)
	flip(t, filepath.Join(dir, "manifests", digest+".json"), 15)

	s := openStore(t, dir)
	if _, err := s.Manifest(digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("a damaged manifest is served: %v", err)
	}
	if _, again := mustImport(t, s, raw); again != digest {
		t.Errorf("importing again gave %s", again)
	}
}

func TestS38_BitFlipIsFoundAndImportRepairs(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	raw := diskImage(3*wire.ChunkBytes, 1)
	m, digest := mustImport(t, s, raw)
	path := s.chunkPath(m.Chunks[2])
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 100, 5000, st.Size() - 1} {
		flip(t, path, at)
		if err := s.Verify(digest); !errors.Is(err, ErrCorrupt) {
			t.Errorf("bit flipped at %d of %d: %v", at, st.Size(), err)
		}
		mustImport(t, s, raw)
		if err := s.Verify(digest); err != nil {
			t.Fatalf("importing again did not repair: %v", err)
		}
	}
	if err := os.Truncate(path, st.Size()-4); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(digest); !errors.Is(err, ErrCorrupt) {
		t.Errorf("cut short: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("chunk missing: %v", err)
	}
}

func TestVerifyRefusesBytesBehindTheMember(t *testing.T) {
	raw := bytes.Repeat([]byte("x"), 1000)
	member, err := compressMember(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyMember(bytes.NewReader(member), sha(raw)); err != nil {
		t.Fatal(err)
	}
	if err := verifyMember(bytes.NewReader(append(member, 0)), sha(raw)); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a byte behind the member: %v", err)
	}
	again, err := compressMember(raw)
	if err != nil || !bytes.Equal(again, member) {
		t.Error("the same bytes gave another member")
	}
}

// Imports that share chunks, fail and are deleted at the same time must leave
// exactly what the surviving images need.
func TestConcurrentImportsShareChunks(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir)
	keep := diskImage(4*wire.ChunkBytes, 7)
	other := bytes.Clone(keep)
	other[3*wire.ChunkBytes] ^= 1
	broken := keep[:len(keep)-512] // cut short: refused after its chunks were stored

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, _, err := s.Import(context.Background(), bytes.NewReader(keep), ImportOptions{}); err != nil {
				t.Errorf("keep: %v", err)
			}
		})
		wg.Go(func() {
			_, _, err := s.Import(context.Background(), bytes.NewReader(broken), ImportOptions{})
			if refused := new(RefusedError); !errors.As(err, &refused) {
				t.Errorf("broken: %v", err)
			}
		})
		wg.Go(func() {
			_, digest, err := s.Import(context.Background(), bytes.NewReader(other), ImportOptions{})
			if err != nil {
				t.Errorf("other: %v", err)
				return
			}
			if err := s.Delete(digest); err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("delete: %v", err)
			}
		})
	}
	wg.Wait()
	for _, digest := range s.Manifests() {
		if err := s.Verify(digest); err != nil {
			t.Error(err)
		}
	}
	before := files(t, dir)
	openStore(t, dir)
	if after := files(t, dir); !slices.Equal(before, after) {
		t.Errorf("opening again removed something: before %v, after %v", before, after)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"size_bytes":512,"chunk_bytes":4194304,"sector_bytes":512,"chunks":[""]}`))
	f.Add([]byte(`{"version":1,"size_bytes":512,"chunk_bytes":4194304,"sector_bytes":512,"chunks":["` + strings.Repeat("a", 64) + `"]}`))
	f.Add([]byte(`{"version":1,"size_bytes":18446744073709551615}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		if m.Digest() != sha(data) {
			t.Errorf("digest of an accepted manifest is not that of its bytes")
		}
		total := uint64(0)
		for i := range m.Chunks {
			total += uint64(m.ChunkLen(i))
		}
		if total != m.SizeBytes {
			t.Errorf("chunks add up to %d, size is %d", total, m.SizeBytes)
		}
	})
}

// What another node sends is taken for a chunk only if it is one.
func FuzzVerifyMember(f *testing.F) {
	raw := bytes.Repeat([]byte("chunk"), 2000)
	member, err := compressMember(raw)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(member)
	f.Add(append(bytes.Clone(member), member...))
	f.Add(flipped(member, len(member)/2))
	f.Add(pack(f, packedGzip, make([]byte, wire.ChunkBytes+1)))
	f.Add([]byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, sent []byte) {
		err := verifyMember(bytes.NewReader(sent), sha(raw))
		if err == nil {
			zr, err := gzip.NewReader(bytes.NewReader(sent))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(zr); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("accepted %d other bytes (%v)", len(got), err)
			}
		} else if !errors.Is(err, ErrCorrupt) {
			t.Errorf("refused with %v", err)
		}
	})
}
