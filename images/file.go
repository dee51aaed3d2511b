package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"

	"github.com/lpmos/lpmos/agent/wire"
)

// Files that are no disks, as kernels and programs that machines are booted into, are kept
// in the same chunks: what is behind their end, up to a whole sector, are zeros, and how
// long they are is known to who names them.

// fileSector is what a file is filled up to.
const fileSector = 512

// ImportFile keeps a file as it is, whatever it holds. It returns its digest, which names
// the manifest as that of an image does, and its size. After any error the store is as it
// was. The file is durable when ImportFile returns.
func (s *Store) ImportFile(ctx context.Context, r io.Reader, opts ImportOptions) (digest string, size uint64, err error) {
	if err := s.checkSpace(opts.FileBytes); err != nil {
		return "", 0, err
	}
	limit := s.opts.MaxBytes
	if opts.MaxBytes > 0 {
		limit = min(limit, opts.MaxBytes)
	}
	imp := &importing{store: s, opts: opts, claimed: map[string]bool{}}
	src := &readerContext{ctx: ctx, r: r, limit: limit}
	m := wire.Manifest{Version: 1, ChunkBytes: wire.ChunkBytes, SectorBytes: fileSector}
	filled := &filler{r: src}
	err = imp.cut(ctx, src, filled, packedNot, &m)
	switch {
	case err == nil && filled.n == 0:
		err = refuse("it is empty")
	case err == nil:
		if digest, err = imp.finish(m); err == nil {
			return digest, filled.n, nil
		}
	}
	return "", 0, errors.Join(err, s.release(imp.claimed))
}

// filler gives zeros behind the end of what it reads, up to a whole sector.
type filler struct {
	r    io.Reader
	n    uint64 // bytes of r so far
	rest int    // zeros still to give
	end  bool
}

func (f *filler) Read(b []byte) (int, error) {
	if !f.end {
		n, err := f.r.Read(b)
		f.n += uint64(n)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		f.end, f.rest = true, int(-f.n%fileSector)
		if n > 0 {
			return n, nil
		}
	}
	n := min(len(b), f.rest)
	clear(b[:n])
	if f.rest -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// OpenFile gives a file that the fleet wants, in parts. What is not here yet is fetched
// from another node when it is read. ErrNotFound means that the fleet does not want such a
// file, ErrNotYet that it cannot be had just now.
func (r *Replicator) OpenFile(ctx context.Context, digest string) (io.ReaderAt, error) {
	if !r.wants(digest) { // an import that nobody has named is nobody's to read
		return nil, fmt.Errorf("file %.64q: %w", digest, ErrNotFound)
	}
	m, err := r.Manifest(ctx, digest)
	if err != nil {
		return nil, err
	}
	return &fileReader{ctx: ctx, from: r, manifest: m}, nil
}

// fileReader reads a file out of its chunks. It keeps the last, since whoever reads goes
// on where he was.
type fileReader struct {
	ctx      context.Context
	from     *Replicator
	manifest wire.Manifest

	mu   sync.Mutex
	last int // number of the chunk that is kept
	raw  []byte
}

// ReadAt is that of io.ReaderAt, up to the last whole sector.
func (f *fileReader) ReadAt(b []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, errors.New("images: a place before the file")
	}
	for n < len(b) {
		i, within := int((at+int64(n))/wire.ChunkBytes), int((at+int64(n))%wire.ChunkBytes)
		if i >= len(f.manifest.Chunks) || within >= f.manifest.ChunkLen(i) {
			return n, io.EOF
		}
		raw, err := f.chunk(i)
		if err != nil {
			return n, err
		}
		n += copy(b[n:], raw[within:])
	}
	return n, nil
}

// chunk is the raw bytes of a chunk, checked against its name.
func (f *fileReader) chunk(i int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.raw != nil && f.last == i {
		return f.raw, nil
	}
	raw, err := f.from.rawChunk(f.ctx, f.manifest.Chunks[i], f.manifest.ChunkLen(i))
	if err == nil {
		f.last, f.raw = i, raw
	}
	return raw, err
}

// rawChunk is a chunk as it is on a disk, of the length that its manifest says. What is
// not here is fetched while somebody waits, as for a machine that installs.
func (r *Replicator) rawChunk(ctx context.Context, name string, length int) ([]byte, error) {
	if name == "" {
		return make([]byte, length), nil
	}
	f, err := r.store.openChecked(name, false)
	if err != nil {
		ctx, cancel := context.WithTimeoutCause(ctx, chunkWait, ErrNotYet)
		defer cancel()
		select { // as for chunks that machines install: it is in memory
		case r.slots <- struct{}{}:
			defer func() { <-r.slots }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		member, flown := r.chunkFlight(name, true).wait(ctx)
		if member != nil {
			return unpackMember(bytes.NewReader(member), name, length)
		}
		if flown != nil {
			return nil, flown
		}
		if f, err = r.store.OpenChunk(name); err != nil {
			return nil, err
		}
	}
	defer f.Close()
	return unpackMember(f, name, length)
}

// unpackMember inflates a gzip member and compares it with its name.
func unpackMember(r io.Reader, name string, length int) ([]byte, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w: %w", name, ErrCorrupt, err)
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(zr, raw); err != nil {
		return nil, fmt.Errorf("chunk %s: %w: %w", name, ErrCorrupt, err)
	}
	if chunkName(raw) != name {
		return nil, fmt.Errorf("chunk %s: %w: it holds something else", name, ErrCorrupt)
	}
	return raw, nil
}
