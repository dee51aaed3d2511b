package images

import (
	"context"
	"time"
)

const (
	// newFor is how long an import may be unknown to the fleet: its command takes
	// seconds. After that nobody is going to ask for it.
	newFor = 10 * time.Minute
	// confirmTime is how long the cluster is waited for before images are deleted.
	confirmTime = 10 * time.Second
)

// unwanted is an import that the fleet did not want when it was first looked at.
type unwanted struct {
	stamp int
	since time.Time
}

// forgetLoop deletes what the fleet does not want any more.
func (r *Replicator) forgetLoop(ctx context.Context) {
	for ctx.Err() == nil {
		wait := idlePause
		if !r.forget(ctx) {
			wait = 10 * r.opts.Retry
		}
		r.rest(ctx, r.wakeForget, wait)
	}
}

// forget deletes the images of the store that the fleet does not want, and
// reports whether none is left that it could not be sure about.
func (r *Replicator) forget(ctx context.Context) bool {
	if len(r.surplus()) == 0 {
		return true
	}
	// Bytes that are deleted may be the last ones. So it is made sure that this is
	// the newest state, and then asked again.
	sure, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	if err := r.fleet.Confirm(sure); err != nil {
		if ctx.Err() == nil {
			r.log.Debug("images the fleet seems not to want are kept until the cluster can be asked", "reason", err)
		}
		return false
	}
	done := true
	freed := false
	for digest, by := range r.surplus() {
		if !by.settled && !r.expired(digest, by.stamp) {
			done = false
			continue
		}
		if err := r.store.deleteStamped(digest, by.stamp); err != nil {
			r.log.Error("an image that was deleted in the fleet cannot be deleted here; it is tried again", "digest", digest, "error", err)
			done = false
			continue
		}
		r.log.Info("deleted an image that the fleet does not want any more", "digest", digest)
		freed = true
	}
	if freed { // there may be space now for one that waits
		select {
		case r.wakePull <- struct{}{}:
		default:
		}
	}
	return done
}

// surplus are the images of the store that the fleet does not want.
func (r *Replicator) surplus() map[string]imported {
	// In this order: what was wanted once, and is not in a state read later, was
	// deleted in between.
	out := r.store.stamped()
	for _, w := range r.fleet.Wanted() {
		delete(out, w.Digest)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for digest := range r.unwanted {
		if _, still := out[digest]; !still {
			delete(r.unwanted, digest)
		}
	}
	return out
}

// expired reports whether an import has been unknown to the fleet for so long
// that it will stay so.
func (r *Replicator) expired(digest string, stamp int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	u, known := r.unwanted[digest]
	if !known || u.stamp != stamp {
		r.unwanted[digest] = unwanted{stamp: stamp, since: r.now()}
		return false
	}
	return r.now().Sub(u.since) >= newFor
}
