package images

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow is the largest dictionary a packed image may ask for, in bytes: zstd
// --ultra -22 and xz -9 stay within it.
const maxWindow = 128 << 20

// unpack returns a reader of the unpacked bytes of r and how r was packed.
func unpack(r *bufio.Reader) (io.ReadCloser, compression, error) {
	head, err := r.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	kind := detectCompression(head)
	switch kind {
	case packedGzip:
		zr, err := gzip.NewReader(r)
		if err != nil {
			return nil, kind, refuse("damaged gzip header: %v", err)
		}
		return zr, kind, nil
	case packedZstd:
		zr, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, kind, refuse("damaged zstd header: %v", err)
		}
		return zr.IOReadCloser(), kind, nil
	case packedXz:
		if dict := xzDictionary(head); dict > maxWindow {
			return nil, kind, refuse("its xz dictionary of %d MiB is over the limit of %d MiB", dict>>20, maxWindow>>20)
		}
		zr, err := xz.NewReader(r)
		if err != nil {
			return nil, kind, refuse("damaged xz header: %v", err)
		}
		return io.NopCloser(zr), kind, nil
	}
	return io.NopCloser(r), kind, nil
}

// xzDictionary is the dictionary size of the first block of an xz stream (The
// .xz File Format 1.1.0 §3.1 and §5.3.1), 0 when it cannot be told. The decoder
// sets the whole of it aside before it has seen a byte of data.
func xzDictionary(head []byte) uint64 {
	const streamHeader = 12
	if len(head) < streamHeader+2 || head[streamHeader] == 0 {
		return 0
	}
	flags := head[streamHeader+1]
	rest := head[streamHeader+2:]
	for _, present := range []bool{flags&0x40 != 0, flags&0x80 != 0} {
		if !present {
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return 0
		}
		rest = rest[n:]
	}
	if len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 || rest[2] > 40 {
		return 0
	}
	if rest[2] == 40 {
		return 1<<32 - 1
	}
	return uint64(2|rest[2]&1) << (rest[2]/2 + 11)
}

// readerContext ends reading when its context does, or when more has come than any
// image within the limit is packed into, and remembers an error of the source, so that
// a broken source is not taken for a broken file.
type readerContext struct {
	ctx   context.Context
	r     io.Reader
	limit uint64 // of the raw disk
	n     uint64
	err   error
}

// most is how long a file may be: what cannot be packed grows a little by it.
func (r *readerContext) most() uint64 { return r.limit + r.limit/64 + 1<<20 }

// Read reads unless the context is done.
func (r *readerContext) Read(p []byte) (int, error) {
	if r.err == nil {
		r.err = r.ctx.Err()
	}
	if r.err == nil && r.n > r.most() {
		r.err = refuse("the file is longer than anything within the limit of %d MiB", r.limit>>20)
	}
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	r.n += uint64(n)
	if err != nil && err != io.EOF {
		r.err = fmt.Errorf("read image: %w", err)
		err = r.err
	}
	return n, err
}
