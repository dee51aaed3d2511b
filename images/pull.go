package images

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"
)

// giveUpAfter is how many chunks in a row may be impossible to have before the
// image is left for later.
const giveUpAfter = 8

// pull copies what is missing of an image. It returns how many chunks arrived,
// and why the image is not here in whole; nil may also mean that it was woken.
func (r *Replicator) pull(ctx context.Context, w Want) (arrived int, err error) {
	if _, err := r.store.Manifest(w.Digest); err != nil {
		if _, err := r.manifestFlight(w.Digest).wait(ctx); err != nil {
			return 0, err
		}
	}
	names, total := r.store.missingChunks(w.Digest)
	if len(names) == 0 {
		return 0, nil
	}
	// Rather nothing of an image than a half of it that fills the disk.
	need := w.StoredBytes / uint64(total) * uint64(len(names))
	if err := r.store.checkSpace(need); err != nil {
		return 0, err
	}
	job := &copying{names: r.shift(w.Digest, names)}
	var workers sync.WaitGroup
	for range r.opts.Parallel {
		workers.Go(func() {
			for ctx.Err() == nil && len(r.wakePull) == 0 {
				name, ok := job.next()
				if !ok {
					return
				}
				job.ended(r.copyChunk(ctx, name))
			}
		})
	}
	workers.Wait()
	return job.arrived, job.last
}

// shift begins the list elsewhere. Where depends on the node, so that nodes which
// begin together soon have something for each other, and on the turn, so that
// chunks nobody has do not stand in the way of the others for ever.
func (r *Replicator) shift(digest string, names []string) []string {
	h := fnv.New32a()
	h.Write([]byte(r.opts.Self + digest))
	r.mu.Lock()
	r.turn++
	start := (int(h.Sum32()) + 61*r.turn) % len(names)
	r.mu.Unlock()
	return append(names[start:len(names):len(names)], names[:start]...)
}

// copyChunk fetches one chunk in the background: after everything that somebody
// waits for, and no faster than is allowed.
func (r *Replicator) copyChunk(ctx context.Context, name string) error {
	r.mu.Lock()
	calm := r.calm
	r.mu.Unlock()
	select {
	case <-calm:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := r.chunkFlight(name, false).wait(ctx)
	return err
}

// copying is the list of chunks several workers share.
type copying struct {
	mu       sync.Mutex
	names    []string
	arrived  int
	failures int // in a row
	last     error
}

// next is the next chunk to fetch; false when none is left, or too many failed.
func (c *copying) next() (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.names) == 0 || c.failures >= giveUpAfter {
		return "", false
	}
	name := c.names[0]
	c.names = c.names[1:]
	return name, true
}

// ended notes how it went.
func (c *copying) ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var full *SpaceError
	switch {
	case err == nil:
		c.arrived++
		c.failures = 0
		return
	case errors.As(err, &full):
		c.failures = giveUpAfter // the others will not fit either
	default:
		c.failures++
	}
	c.last = err
}
