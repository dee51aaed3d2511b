package install

import (
	"bytes"
	"context"
	"sync"

	"github.com/lpmos/lpmos/agent/wire"
)

// chunkOnDisk reads chunk i and reports whether the disk holds it.
func (in *installer) chunkOnDisk(i int) (bool, error) {
	raw := in.pool.get(in.man.ChunkLen(i))
	defer in.pool.put(raw)
	if _, err := in.disk.ReadAt(raw, int64(i)*chunkBytes); err != nil {
		return false, fail(wire.CodeDiskError, err, "chunk %d at byte %d cannot be read", i, int64(i)*chunkBytes)
	}
	if in.man.Chunks[i] == "" {
		return allZero(raw), nil
	}
	return digest(raw) == in.man.Chunks[i], nil
}

// verify reads every chunk but the first back from the medium. The first is not
// there yet.
func (in *installer) verify(ctx context.Context) error {
	if err := in.disk.Sync(); err != nil {
		return fail(wire.CodeDiskError, err, "the disk did not take what was written")
	}
	in.disk.DropCache()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	done := 0
	for range in.workers {
		wg.Go(func() {
			for i := range next {
				switch held, err := in.chunkOnDisk(i); {
				case err != nil:
					cancel(err)
				case !held:
					cancel(fail(wire.CodeVerifyFailed, nil, "chunk %d, at byte %d, does not read back as it was written; the disk is failing", i, int64(i)*chunkBytes))
				}
				mu.Lock()
				done++
				in.meter.progress(0.9 * float64(done) / float64(len(in.man.Chunks)))
				mu.Unlock()
			}
		})
	}
	for i := 1; i < len(in.man.Chunks) && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

// put writes bytes for good and reads them back.
func (in *installer) put(what string, off int64, data []byte) error {
	buf := alignedBuffer(len(data))
	copy(buf, data)
	if _, err := in.disk.WriteAt(buf, off); err != nil {
		return fail(wire.CodeDiskError, err, "%s cannot be written at byte %d", what, off)
	}
	if err := in.disk.Sync(); err != nil {
		return fail(wire.CodeDiskError, err, "the disk did not take %s", what)
	}
	in.disk.DropCache()
	back := alignedBuffer(len(data))
	if _, err := in.disk.ReadAt(back, off); err != nil {
		return fail(wire.CodeDiskError, err, "%s cannot be read back", what)
	}
	if !bytes.Equal(back, data) {
		return fail(wire.CodeVerifyFailed, nil, "%s, at byte %d, does not read back as it was written; the disk is failing", what, off)
	}
	return nil
}

// zeroRuns lists the runs of zero chunks, the first chunk aside.
func zeroRuns(m wire.Manifest) []span {
	var runs []span
	for i := 1; i < len(m.Chunks); i++ {
		if m.Chunks[i] != "" {
			continue
		}
		off, n := int64(i)*chunkBytes, int64(m.ChunkLen(i))
		if last := len(runs) - 1; last >= 0 && runs[last].off+runs[last].n == off {
			runs[last].n += n
		} else {
			runs = append(runs, span{off, n})
		}
	}
	return runs
}

// zero makes the image's zero chunks zeros on the disk, in pieces so that the
// bar moves where the disk cannot do it by itself.
func (in *installer) zero(ctx context.Context) error {
	runs := zeroRuns(in.man)
	var total, done int64
	for _, r := range runs {
		total += r.n
	}
	for _, r := range runs {
		for r.n > 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(r.n, 256*mib)
			if err := in.disk.Zero(r.off, n); err != nil {
				return fail(wire.CodeDiskError, err, "%d bytes at %d cannot be zeroed", n, r.off)
			}
			r.off, r.n, done = r.off+n, r.n-n, done+n
			in.meter.progress(0.5 + 0.5*float64(done)/float64(total))
		}
	}
	return nil
}

// present lists the chunks of an earlier attempt that are on the disk. Chunks
// are fetched from a window over the missing ones, so after a whole window of
// them nothing more can have been written.
func (in *installer) present(ctx context.Context) ([]int, error) {
	var have []int
	missing := 0
	for i := 1; i < len(in.man.Chunks) && missing < window; i++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if in.man.Chunks[i] == "" {
			continue
		}
		held, err := in.chunkOnDisk(i)
		if err != nil {
			return nil, err
		}
		if held {
			have = append(have, i)
		} else {
			missing++
		}
	}
	in.logf("going on with an earlier attempt: %d chunks are on the disk already", len(have))
	return have, nil
}
