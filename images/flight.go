package images

import (
	"context"
	"fmt"
)

// flight is one thing on its way from a peer. Whoever wants the same waits for
// the same flight, so that nothing is fetched twice at a time. It goes on though
// those who wanted it have left.
type flight struct {
	done chan struct{} // closed when it has ended; what is below is set then

	// member is a chunk that could not be kept, because space is short or the
	// disk fails: err says so, and yet the bytes are good.
	member []byte
	err    error

	urgent bool               // somebody waits for it; under the replicator's lock
	pace   context.Context    // while it lives the flight keeps to the limit
	hurry  context.CancelFunc // ends pace
}

// wait waits for the end of the flight or of ctx.
func (f *flight) wait(ctx context.Context) (member []byte, err error) {
	select {
	case <-f.done:
		return f.member, f.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fly returns the flight of that key, and begins it if there is none and nothing
// is here yet.
func (r *Replicator) fly(key string, urgent bool, here func() bool, fetch func(f *flight) ([]byte, error)) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := r.flights[key]
	if f == nil {
		f = &flight{done: make(chan struct{})}
		f.pace, f.hurry = context.WithCancel(r.life)
		// One that has just landed is seen here: it leaves the table later.
		if f.err = r.life.Err(); f.err != nil || here() {
			f.hurry()
			close(f.done)
			return f
		}
		r.flights[key] = f
		r.running.Go(func() {
			f.member, f.err = fetch(f)
			r.land(key, f)
		})
	}
	if urgent && !f.urgent {
		f.urgent = true
		f.hurry()
		if r.urgent++; r.urgent == 1 {
			r.calm = make(chan struct{})
		}
	}
	return f
}

// land ends a flight.
func (r *Replicator) land(key string, f *flight) {
	r.mu.Lock()
	delete(r.flights, key)
	if f.urgent {
		if r.urgent--; r.urgent == 0 {
			close(r.calm)
		}
	}
	r.mu.Unlock()
	f.hurry()
	close(f.done)
}

// chunkFlight brings a chunk that an image of the store names.
func (r *Replicator) chunkFlight(name string, urgent bool) *flight {
	here := func() bool { return r.store.HasChunk(name) }
	return r.fly("chunk "+name, urgent, here, func(f *flight) (member []byte, err error) {
		digest, ok := r.store.claimNamed(name)
		if !ok {
			return nil, fmt.Errorf("chunk %.12s: %w", name, ErrNotFound)
		}
		defer func() {
			if err := r.store.release(map[string]bool{name: true}); err != nil {
				r.log.Error("a chunk nobody needs any more cannot be removed", "chunk", name, "error", err)
			}
		}()
		if member, err = r.findChunk(f.pace, digest, name); err != nil {
			return nil, err
		}
		err = r.store.checkSpace(uint64(len(member)))
		if err == nil {
			err = r.store.putMember(name, member)
		}
		if err != nil {
			return member, err
		}
		return nil, nil
	})
}

// manifestFlight brings the manifest of an image. It is small, and everything
// waits for it.
func (r *Replicator) manifestFlight(digest string) *flight {
	here := func() bool {
		_, err := r.store.Manifest(digest)
		return err == nil
	}
	return r.fly("manifest "+digest, true, here, func(*flight) ([]byte, error) {
		data, err := r.findManifest(digest)
		if err != nil {
			return nil, err
		}
		if err := r.store.addManifest(digest, data); err != nil {
			return nil, fmt.Errorf("image %.12s: %w", digest, err)
		}
		if !r.wants(digest) {
			r.Wake() // it was deleted while its manifest was on the way
		}
		return nil, nil
	})
}
