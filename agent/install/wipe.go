package install

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/lpmos/lpmos/agent/wire"
)

// span is a part of the disk, in bytes.
type span struct{ off, n int64 }

// wipeSpans lists what has to go so that nothing finds an old file system,
// array or table: both ends of the disk and of every partition that was on it.
// A MiB holds every signature in use, ZFS's four labels included (two at each
// end, 512 KiB together). The journal is left alone.
func wipeSpans(size int64, old []wire.Partition) []span {
	journalAt := journalOffset(size)
	ends := []span{{0, mib}, {size - reserveBytes, reserveBytes}}
	for _, p := range old {
		start, length := int64(p.StartBytes), int64(p.SizeBytes)
		if start < 0 || length <= 0 || start >= size {
			continue
		}
		length = min(length, size-start)
		n := min(mib, length)
		ends = append(ends, span{start, n}, span{start + length - n, n})
	}
	var out []span
	for _, s := range ends {
		s.n = min(s.n, size-s.off)
		before := span{s.off, min(s.off+s.n, journalAt) - s.off}
		after := span{max(s.off, journalAt+journalCopies*journalBytes), 0}
		after.n = s.off + s.n - after.off
		for _, part := range []span{before, after} {
			if part.n > 0 {
				out = append(out, part)
			}
		}
	}
	return slices.Compact(out)
}

// wipe zeroes the spans and looks whether it took. The first sector goes before
// anything else: a wipe that was cut is known by it.
func wipe(d Device, spans []span, done func(part float64)) error {
	if err := errors.Join(d.Zero(0, int64(d.Sector())), d.Sync()); err != nil {
		return fmt.Errorf("wipe the first sector: %w", err)
	}
	for i, s := range spans {
		// Old tables may name odd places; the disk wants whole sectors.
		sector := int64(d.Sector())
		end := min((s.off+s.n+sector-1)/sector*sector, d.Size())
		start := s.off / sector * sector
		if err := d.Zero(start, end-start); err != nil {
			return fmt.Errorf("wipe %d bytes at %d: %w", end-start, start, err)
		}
		done(float64(i+1) / float64(len(spans)))
	}
	if err := d.Sync(); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	d.DropCache()
	for _, s := range spans {
		clean, err := isZero(d, s.off, s.n)
		if err != nil {
			return fmt.Errorf("read wiped bytes at %d: %w", s.off, err)
		}
		if !clean {
			return fmt.Errorf("the disk says it wiped %d bytes at %d, but they are still there", s.n, s.off)
		}
	}
	return nil
}

// isZero reads a part of the disk and reports whether it is all zeros.
func isZero(d Device, off, n int64) (bool, error) {
	buf := alignedBuffer(int(min(n, mib)))
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		if _, err := d.ReadAt(part, off); err != nil {
			return false, err
		}
		if !allZero(part) {
			return false, nil
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return true, nil
}

// zeroPage is what allZero compares with; nobody writes to it.
var zeroPage [4096]byte

func allZero(b []byte) bool {
	for len(b) > len(zeroPage) {
		if !bytes.Equal(b[:len(zeroPage)], zeroPage[:]) {
			return false
		}
		b = b[len(zeroPage):]
	}
	return bytes.Equal(b, zeroPage[:len(b)])
}
