package images

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"

	"github.com/lpmos/lpmos/agent/wire"
)

// Limits of the conversation about chunks.
const (
	maxFetch       = 8    // sources named in one answer: what an agent may have under way
	maxNeed        = 64   // chunks an agent may ask for at once, as wire.NextRequest says
	maxBad         = 64   // failures it may report at once
	strikes        = 3    // failures of one chunk at one source before it is given up
	retryMissingMS = 1000 // wait before asking again for a chunk that is nowhere yet
	maxTasks       = 8192 // tasks whose failures are remembered
	maxFailures    = 4096 // failures remembered of one task
)

// ErrBadRequest means that a NextRequest makes no sense for its image.
var ErrBadRequest = errors.New("bad request for chunks")

// ErrSourceExhausted means that a chunk could not be had from any source.
var ErrSourceExhausted = errors.New("no source left")

// Scheduler decides which chunk an installing machine fetches next and from
// where. It keeps only a count of failures: what a machine holds and what it
// wants comes with each request, so a node that restarts, or another node, goes
// on with the conversation.
//
// The node itself is the one source today; what it has not got it fetches while
// the machine waits. Every chunk is picked by source, so that a machine that holds
// chunks can become one without a change to what is said on the wire.
type Scheduler struct {
	replica *Replicator

	mu    sync.Mutex
	fails map[string]map[failure]int // by task
}

// failure is a chunk that could not be had from a source.
type failure struct {
	index  int
	source string // host of the URL
}

// NewScheduler returns a scheduler over what the replicator has and can get.
func NewScheduler(r *Replicator) *Scheduler {
	return &Scheduler{replica: r, fails: map[string]map[failure]int{}}
}

// Next answers a machine. base is the URL under which this node's Handler is
// reached by it, for instance "http://10.77.0.1:80". The error is ErrBadRequest
// for a request that makes no sense, ErrNotFound for an image the fleet does not
// know, ErrSourceExhausted or ErrCorrupt when a wanted chunk cannot be had from
// any node; these end the install. After ErrNotYet the machine asks again.
func (s *Scheduler) Next(ctx context.Context, base string, req wire.NextRequest) (wire.NextResponse, error) {
	m, err := s.replica.Manifest(ctx, req.Image)
	if err != nil {
		return wire.NextResponse{}, err
	}
	if err := checkRequest(m, req); err != nil {
		return wire.NextResponse{}, err
	}
	store := s.replica.store
	ours := map[int]bool{} // failures that are this node's
	for _, bad := range req.Bad {
		// Wrong bytes may be the machine's memory, the wire or this node's disk;
		// only the last can be looked into from here. A chunk that was not here was
		// on its way to the machine when something went wrong, and is waited for.
		ours[bad.Index] = store.VerifyChunk(m.Chunks[bad.Index]) != nil
	}
	s.note(req, ours)
	here := map[int]bool{}
	var lacking []string
	for _, index := range req.Need {
		if here[index] = store.HasChunk(m.Chunks[index]); !here[index] && len(lacking) < maxFetch {
			lacking = append(lacking, m.Chunks[index])
		}
	}
	offers := s.replica.offers(ctx, req.Image, lacking)
	resp := wire.NextResponse{Fetch: []wire.ChunkSource{}}
	for _, index := range req.Need {
		if len(resp.Fetch) == maxFetch {
			break
		}
		name := m.Chunks[index]
		source, err := s.pick(base, req.TaskID, index, name)
		switch {
		case err != nil:
			return wire.NextResponse{}, err
		case here[index] || offers[name].yes:
			resp.Fetch = append(resp.Fetch, wire.ChunkSource{Index: index, URL: source})
		case offers[name].final && store.state(name) == damaged:
			return wire.NextResponse{}, fmt.Errorf("chunk %d of the image, and no other node has it; import the image again: %w", index, ErrCorrupt)
		}
	}
	if len(resp.Fetch) == 0 && len(req.Need) > 0 {
		resp.RetryAfterMS = retryMissingMS
	}
	return resp, nil
}

// Forget drops what is remembered of a task that has ended.
func (s *Scheduler) Forget(taskID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.fails, taskID)
}

// pick names the URL of a chunk, unless it failed there too often.
func (s *Scheduler) pick(base, task string, index int, name string) (string, error) {
	own := strings.TrimSuffix(base, "/") + "/chunk/" + name
	s.mu.Lock()
	failed := s.fails[task][failure{index, hostOf(own)}]
	s.mu.Unlock()
	if failed >= strikes {
		return "", fmt.Errorf("chunk %d failed %d times from %s: %w", index, failed, hostOf(own), ErrSourceExhausted)
	}
	return own, nil
}

// note counts failures, all but those that are this node's, and forgives a chunk
// that has arrived since.
func (s *Scheduler) note(req wire.NextRequest, ours map[int]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fails := s.fails[req.TaskID]
	for _, bad := range req.Bad {
		if ours[bad.Index] {
			continue
		}
		if fails == nil {
			if len(s.fails) >= maxTasks {
				// Rather than grow for ever, begin anew: it costs a few
				// retries at most.
				clear(s.fails)
			}
			fails = map[failure]int{}
			s.fails[req.TaskID] = fails
		}
		f := failure{bad.Index, hostOf(bad.URL)}
		if _, known := fails[f]; known || len(fails) < maxFailures {
			fails[f]++
		}
	}
	if len(fails) == 0 {
		return
	}
	got := make(map[int]bool, len(req.Got))
	for _, index := range req.Got {
		got[index] = true
	}
	for f := range fails {
		if got[f.index] {
			delete(fails, f)
		}
	}
}

// checkRequest validates every index of a request against the manifest.
func checkRequest(m wire.Manifest, req wire.NextRequest) error {
	switch {
	case len(req.Need) > maxNeed:
		return fmt.Errorf("%w: %d chunks needed at once, at most %d", ErrBadRequest, len(req.Need), maxNeed)
	case len(req.Bad) > maxBad:
		return fmt.Errorf("%w: %d failures at once, at most %d", ErrBadRequest, len(req.Bad), maxBad)
	case len(req.Got) > len(m.Chunks):
		return fmt.Errorf("%w: %d chunks got of an image of %d", ErrBadRequest, len(req.Got), len(m.Chunks))
	}
	for _, index := range req.Got {
		if index < 0 || index >= len(m.Chunks) {
			return fmt.Errorf("%w: got: chunk %d of %d", ErrBadRequest, index, len(m.Chunks))
		}
	}
	for _, bad := range req.Bad {
		if bad.Index < 0 || bad.Index >= len(m.Chunks) || m.Chunks[bad.Index] == "" {
			return fmt.Errorf("%w: bad: chunk %d is none to fetch", ErrBadRequest, bad.Index)
		}
	}
	for _, index := range req.Need {
		if index < 0 || index >= len(m.Chunks) {
			return fmt.Errorf("%w: need: chunk %d of %d", ErrBadRequest, index, len(m.Chunks))
		}
		if m.Chunks[index] == "" {
			return fmt.Errorf("%w: need: chunk %d is zeros, there is nothing to fetch", ErrBadRequest, index)
		}
	}
	return nil
}

// hostOf is the host of a URL, empty for what is none.
func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Host
}
