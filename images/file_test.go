package images

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// A kernel or a program is kept as it is, copied as images are, and read at a node that
// has nothing of it yet.
func TestFilesAreKeptAndReadAnywhere(t *testing.T) {
	s := newSite(t, 2, nil)
	long := make([]byte, 2*wire.ChunkBytes+700)
	rand.NewChaCha8([32]byte{7}).Read(long)
	clear(long[wire.ChunkBytes : 2*wire.ChunkBytes]) // a chunk of zeros
	for name, content := range map[string][]byte{"one byte": []byte("x"), "a sector": bytes.Repeat([]byte("y"), 512), "zeros": make([]byte, 1000), "packed": []byte("\x1f\x8b\x08 that is no gzip"), "long": long} {
		t.Run(name, func(t *testing.T) {
			digest, size, err := s.nodes[0].store.ImportFile(t.Context(), bytes.NewReader(content), ImportOptions{})
			if err != nil || size != uint64(len(content)) {
				t.Fatalf("%d bytes, %v", size, err)
			}
			again, _, err := s.nodes[0].store.ImportFile(t.Context(), io.MultiReader(bytes.NewReader(content)), ImportOptions{})
			if again != digest || err != nil {
				t.Errorf("the same file is %s and %s (%v)", digest, again, err)
			}
			if _, err := s.nodes[1].replica.OpenFile(t.Context(), digest); !errors.Is(err, ErrNotFound) {
				t.Errorf("what nobody wants: %v", err)
			}
			s.want(Want{Digest: digest, Name: "a file"})
			for i, n := range s.nodes {
				f, err := n.replica.OpenFile(t.Context(), digest)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(io.NewSectionReader(f, 0, int64(size)))
				if err != nil || !bytes.Equal(got, content) {
					t.Errorf("at node %d it has %d bytes of %d, or others (%v)", i, len(got), size, err)
				}
				if _, err := f.ReadAt(make([]byte, 1), int64(size)+512); err != io.EOF {
					t.Errorf("behind its end: %v", err)
				}
			}
		})
	}
}

func TestFilesThatAreRefusedLeaveNothing(t *testing.T) {
	s := newSite(t, 1, nil)
	store := s.nodes[0].store
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		r    io.Reader
		opts ImportOptions
	}{
		"empty":     {t.Context(), strings.NewReader(""), ImportOptions{}},
		"broken":    {t.Context(), io.MultiReader(strings.NewReader("some"), brokenReader{}), ImportOptions{}},
		"too long":  {t.Context(), io.LimitReader(rand.NewChaCha8([32]byte{}), 12<<20), ImportOptions{MaxBytes: 4 << 20}},
		"cancelled": {cancelled, strings.NewReader("x"), ImportOptions{}},
		"no space":  {t.Context(), strings.NewReader("x"), ImportOptions{FileBytes: 1 << 41}},
	} {
		if digest, _, err := store.ImportFile(c.ctx, c.r, c.opts); err == nil || digest != "" {
			t.Errorf("%s: %q, %v", name, digest, err)
		}
		if got := store.Manifests(); len(got) > 0 || len(store.chunks) > 0 {
			t.Errorf("%s left %v, %v", name, got, store.chunks)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("the wire was cut") }
