package netboot

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// packedSuffix ends the name of a boot file that lies packed in the binary.
const packedSuffix = ".zst"

// packed reads such a file. It is whole in memory from when it is first read, so that
// it costs nothing where no machine asks for it, or where there is a copy on the disk.
type packed struct {
	from io.ReaderAt
	size int64 // packed

	once  sync.Once
	whole *bytes.Reader
	err   error
}

// ReadAt reads of the unpacked file.
func (p *packed) ReadAt(b []byte, at int64) (int, error) {
	p.once.Do(func() {
		var whole bytes.Buffer
		_, p.err = p.WriteTo(&whole)
		p.whole = bytes.NewReader(whole.Bytes())
	})
	if p.err != nil {
		return 0, p.err
	}
	return p.whole.ReadAt(b, at)
}

// WriteTo unpacks the file.
func (p *packed) WriteTo(w io.Writer) (int64, error) {
	r, err := zstd.NewReader(io.NewSectionReader(p.from, 0, p.size), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	return r.WriteTo(w)
}
