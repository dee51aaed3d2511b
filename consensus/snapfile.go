package consensus

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Snapshots are packed on their way to the disk and to other nodes: 10,000
// machines and 100,000 tasks are a third of what they are in JSON, and packing
// takes less time than writing what it saves.

// zstdMagic begins every frame (RFC 8878 section 3.1.1).
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// packState writes a state.
func packState(w io.Writer, picture *fleet.Snapshot) error {
	packed, err := packer(w)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return errors.Join(picture.Write(packed), packed.Close())
}

// packer packs in the goroutine that writes to it, so that it leaves nothing
// behind.
func packer(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
}

// unpackState reads what packState wrote, or a state that is not packed, as nodes
// of the first release have it.
func unpackState(r io.Reader) (*fleet.State, error) {
	in := bufio.NewReaderSize(r, 256<<10)
	if begin, err := in.Peek(len(zstdMagic)); err != nil || !bytes.Equal(begin, zstdMagic) {
		return fleet.Restore(in)
	}
	packed, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	defer packed.Close()
	return fleet.Restore(packed)
}
