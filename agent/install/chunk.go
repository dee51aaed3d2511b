package install

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

const chunkBytes = wire.ChunkBytes

// maxWire bounds the bytes read for one chunk: gzip adds a few bytes to what it
// cannot compress, never a quarter.
const maxWire = chunkBytes + chunkBytes/4

// errBadChunk marks bytes that are not the chunk they were said to be.
var errBadChunk = errors.New("bad chunk")

// inflater turns gzip members into chunks; a worker keeps one.
type inflater struct {
	in *bufio.Reader
	z  gzip.Reader
}

// chunk reads one gzip member from r into raw, which is as long as the chunk,
// and checks it against the chunk's name. Anything else than exactly this chunk
// is an error that wraps errBadChunk, or the error of r.
func (f *inflater) chunk(r io.Reader, name string, raw []byte) error {
	if f.in == nil {
		f.in = bufio.NewReaderSize(nil, 64<<10)
	}
	f.in.Reset(r)
	if err := f.z.Reset(f.in); err != nil {
		return inflateError(err)
	}
	f.z.Multistream(false)
	if _, err := io.ReadFull(&f.z, raw); err != nil {
		return inflateError(err)
	}
	// The end of the member has to be next: its checksum is read there.
	var one [1]byte
	switch n, err := f.z.Read(one[:]); {
	case n > 0:
		return fmt.Errorf("%w: inflates to more than %d bytes", errBadChunk, len(raw))
	case err != io.EOF:
		return inflateError(err)
	}
	if _, err := f.in.ReadByte(); err == nil {
		return fmt.Errorf("%w: bytes after the gzip member", errBadChunk)
	} else if err != io.EOF {
		return err
	}
	if got := digest(raw); got != name {
		return fmt.Errorf("%w: its SHA-256 is %s", errBadChunk, got)
	}
	return nil
}

// inflateError words what is wrong with a member.
func inflateError(err error) error {
	switch {
	case errors.Is(err, errBadChunk):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: cut short", errBadChunk)
	}
	return fmt.Errorf("inflate: %w", err)
}

// digest is the name of a chunk.
func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// body reads from a source, counts, gives up when nothing comes for a while and
// refuses to read for ever.
type body struct {
	r     io.Reader
	n     uint64
	limit uint64
	alive func()
}

func (b *body) Read(p []byte) (int, error) {
	if b.n >= b.limit {
		return 0, fmt.Errorf("%w: more than %d bytes on the wire", errBadChunk, b.limit)
	}
	n, err := b.r.Read(p[:min(uint64(len(p)), b.limit-b.n)])
	b.n += uint64(n)
	if n > 0 {
		b.alive()
	}
	return n, err
}

// fetchChunk gets one chunk from src into raw and returns the bytes that came
// over the wire, also with an error. A source that sends nothing for stall is
// given up.
func fetchChunk(ctx context.Context, s Source, f *inflater, src wire.ChunkSource, name string, raw []byte, stall time.Duration) (uint64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(stall, func() { cancel(fmt.Errorf("nothing came for %v", stall)) })
	defer timer.Stop()

	rc, err := s.Fetch(ctx, src.URL)
	if err != nil {
		return 0, causeOf(ctx, err)
	}
	// Not every reader heeds the context of the call that opened it.
	stop := context.AfterFunc(ctx, func() { rc.Close() })
	defer func() {
		if stop() {
			rc.Close()
		}
	}()
	b := &body{r: rc, limit: maxWire, alive: func() { timer.Reset(stall) }}
	if err := f.chunk(b, name, raw); err != nil {
		return b.n, causeOf(ctx, err)
	}
	return b.n, nil
}

// causeOf prefers the reason a context was given up over what followed from it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
