package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// How long somebody is kept waiting for what is not here. An agent gives a chunk
// 30 s to begin and a manifest 20 s, and should hear from us before that.
const (
	chunkWait    = 25 * time.Second
	manifestWait = 10 * time.Second
	// memberTime is how long a machine may take to read a chunk out of memory.
	memberTime = time.Minute
)

// Handler serves machines: the store's Handler, and what is not here yet by
// fetching it from another node while the machine waits. That is done for chunks
// that an image of the store names and for manifests the fleet wants, and for
// nothing else: whoever is on the machines' network can ask. What cannot be had
// just now is answered with 503 and a sentence, what the fleet does not know with
// 404.
func (r *Replicator) Handler() http.Handler {
	return byDigest(r.serveChunk, r.serveManifest)
}

func (r *Replicator) serveChunk(w http.ResponseWriter, req *http.Request, digest string) {
	f, err := r.store.openChecked(digest, false)
	if err == nil {
		r.store.serveFile(w, req, digest, f)
		return
	}
	if !r.store.names(digest) {
		r.store.serveError(w, req, err)
		return
	}
	if errors.Is(err, ErrCorrupt) {
		r.log.Error("a chunk of this node's image store is damaged; it is fetched from another node", "chunk", digest, "error", err)
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), chunkWait, ErrNotYet)
	defer cancel()
	// A chunk on its way is in memory, and one the disk has no room for stays there
	// until the machine has read it: not more than so many at a time.
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		r.unavailable(w, req, context.Cause(ctx))
		return
	}
	leave := sync.OnceFunc(func() { <-r.slots })
	defer leave()
	member, err := r.chunkFlight(digest, true).wait(ctx)
	if member != nil {
		r.log.Debug("a chunk is given to a machine without being kept", "chunk", digest, "reason", err)
		// A machine that was switched off must not keep its place. A writer that
		// knows no deadlines is no connection that could hang.
		timed := http.NewResponseController(w)
		_ = timed.SetWriteDeadline(time.Now().Add(memberTime))
		serveMember(w, req, digest, int64(len(member)), bytes.NewReader(member))
		_ = timed.SetWriteDeadline(time.Time{})
		return
	}
	leave()
	if err == nil {
		f, err = r.store.OpenChunk(digest)
	}
	if err != nil {
		r.unavailable(w, req, err)
		return
	}
	r.store.serveFile(w, req, digest, f)
}

func (r *Replicator) serveManifest(w http.ResponseWriter, req *http.Request, digest string) {
	if _, err := r.Manifest(req.Context(), digest); err != nil {
		r.unavailable(w, req, err)
		return
	}
	r.store.serveManifest(w, req, digest)
}

// Manifest returns the manifest of an image, from another node if it is not here.
// ErrNotFound means that the fleet does not want such an image, ErrNotYet that it
// cannot be had just now.
func (r *Replicator) Manifest(ctx context.Context, digest string) (wire.Manifest, error) {
	m, err := r.store.Manifest(digest)
	if err == nil || !r.wants(digest) {
		return m, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, manifestWait, ErrNotYet)
	defer cancel()
	if _, err := r.manifestFlight(digest).wait(ctx); err != nil {
		return wire.Manifest{}, err
	}
	return r.store.Manifest(digest)
}

// unavailable answers 404 for what is nowhere and never will be, and 503 for what
// may be here in a moment, with a body the agent can tell people.
func (r *Replicator) unavailable(w http.ResponseWriter, req *http.Request, err error) {
	if errors.Is(err, ErrNotFound) {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	if req.Context().Err() == nil {
		r.log.Debug("what a machine asks for is not here", "path", req.URL.Path, "from", req.RemoteAddr, "reason", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "1")
	w.WriteHeader(http.StatusServiceUnavailable)
	json.NewEncoder(w).Encode(map[string]any{ //nolint:errcheck // the machine asks again
		"title": http.StatusText(http.StatusServiceUnavailable), "status": http.StatusServiceUnavailable, "detail": err.Error()})
}
