package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Figures of asking other nodes.
const (
	pieceBytes  = 64 << 10                            // read at once; the limiter is asked for each piece
	maxMember   = wire.ChunkBytes + wire.ChunkBytes/4 // gzip adds a few bytes to what it cannot compress
	longestRead = 5 * time.Minute                     // of one answer, the limiter's pauses left out: four at once over a slow line
	absentFor   = time.Second                         // how long it is believed that nobody has a chunk
	maxAbsent   = 4096                                // chunks of which that is remembered
	maxPenalty  = time.Minute                         // how long a peer that failed comes last
)

// errSlow means that a peer let us wait too long for a piece, or for the whole.
var errSlow = errors.New("it sends nothing, or too slowly")

// peerState is what a replicator remembers of a peer.
type peerState struct {
	underway int // requests
	fails    int // in a row
	last     time.Time
}

// penalty is how long a peer comes last after it failed.
func (p *peerState) penalty() time.Duration {
	if p.fails == 0 {
		return 0
	}
	return min(time.Second<<min(p.fails, 6), maxPenalty)
}

// absence is the error that no peer has what was asked for.
type absence struct {
	at     time.Time
	reason string
	final  bool // every other node was asked, and has it not
}

// Error gives the reason.
func (a *absence) Error() string { return ErrNotYet.Error() + ": " + a.reason }

// Unwrap makes it an ErrNotYet.
func (a *absence) Unwrap() error { return ErrNotYet }

// findChunk asks peers for a chunk until one sends it, good.
func (r *Replicator) findChunk(pace context.Context, digest, name string) ([]byte, error) {
	if a := r.absent(name); a != nil {
		return nil, fmt.Errorf("chunk %.12s: %w", name, a)
	}
	member, err := r.search(digest, func(p Peer) ([]byte, error) { return r.askChunk(pace, p, name) })
	var nowhere *absence
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		delete(r.nowhere, name)
		return member, nil
	case errors.As(err, &nowhere):
		if len(r.nowhere) >= maxAbsent {
			clear(r.nowhere)
		}
		r.nowhere[name] = nowhere
	}
	return nil, fmt.Errorf("chunk %.12s: %w", name, err)
}

// absent returns a moment-old finding that nobody has a chunk, or nil.
func (r *Replicator) absent(name string) *absence {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.nowhere[name]
	if a != nil && r.now().Sub(a.at) > absentFor {
		delete(r.nowhere, name)
		return nil
	}
	return a
}

// findManifest asks peers for a manifest.
func (r *Replicator) findManifest(digest string) ([]byte, error) {
	data, err := r.search(digest, func(p Peer) ([]byte, error) {
		data, err := r.get(r.hurried(), p, "/x/manifest/"+digest, maxManifest)
		if err == nil {
			_, err = parseNamed(digest, data)
		}
		return data, err
	})
	if err != nil {
		return nil, fmt.Errorf("image %.12s: %w", digest, err)
	}
	return data, nil
}

// search asks one peer after the other, each once, the most promising first. The
// error is an *absence when all that were asked said that they have it not; any
// other wraps ErrNotYet.
func (r *Replicator) search(digest string, ask func(Peer) ([]byte, error)) ([]byte, error) {
	peers := r.fleet.Peers()
	var asked []string
	var failed error
	for r.life.Err() == nil {
		p, ok := r.choose(peers, digest, asked)
		if !ok {
			break
		}
		asked = append(asked, p.ID)
		data, err := ask(p)
		r.answered(p, err)
		switch {
		case err == nil:
			return data, nil
		case !errors.Is(err, ErrNotFound):
			failed = fmt.Errorf("%w: node %s: %w", ErrNotYet, p.ID, err)
		}
	}
	if failed == nil {
		failed = r.life.Err()
	}
	if failed != nil {
		return nil, failed
	}
	a := &absence{at: r.now(), final: len(asked) == len(peers)}
	switch {
	case len(peers) == 0:
		a.reason = "there is no other node to fetch it from"
	case len(asked) == 0:
		a.reason = "no other node is in reach"
	default:
		a.reason = "no node in reach has it"
	}
	return nil, a
}

// choose takes the peer to ask next: one that has not failed lately before one
// that has, then one that is asked little by us and has much of the image. Peers
// that are alike take turns.
func (r *Replicator) choose(peers []Peer, digest string, not []string) (best Peer, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.turn++
	lowest := 0.0
	for i := range peers {
		p := peers[(i+r.turn)%len(peers)]
		if !p.Reachable || slices.Contains(not, p.ID) {
			continue
		}
		state := r.peers[p.ID]
		if state == nil {
			state = &peerState{}
			r.peers[p.ID] = state
		}
		// A peer that has nothing costs a round trip to be told so: it is worth
		// trying when one that has all is asked for two chunks already.
		cost := float64(state.underway)
		if p.Holds != nil {
			h := p.Holds(digest)
			cost += 2 * (1 - float64(h.Have)/float64(max(h.Total, 1)))
		}
		if r.now().Sub(state.last) < state.penalty() {
			cost += 1000
		}
		if !ok || cost < lowest {
			best, ok, lowest = p, true, cost
		}
	}
	if ok {
		r.peers[best.ID].underway++
	}
	return best, ok
}

// answered notes how a peer answered, and logs when that changes.
func (r *Replicator) answered(p Peer, err error) {
	fine := err == nil || errors.Is(err, ErrNotFound)
	r.mu.Lock()
	state := r.peers[p.ID]
	state.underway--
	was := state.fails
	switch {
	case fine:
		state.fails = 0
	case r.life.Err() == nil:
		state.fails++
		state.last = r.now()
	}
	is := state.fails
	r.mu.Unlock()
	switch {
	case was == 0 && is > 0:
		r.log.Warn("a node does not give a part of an image; others are asked first for a while", "node", p.ID, "reason", err)
	case was > 0 && is == 0:
		r.log.Info("a node gives parts of images again", "node", p.ID)
	}
}

// askChunk asks one peer for a chunk and checks what it sends.
func (r *Replicator) askChunk(pace context.Context, p Peer, name string) ([]byte, error) {
	path := "/x/chunk/" + name
	for suspect := false; ; suspect = true {
		member, err := r.get(pace, p, path, maxMember)
		if err != nil {
			return nil, err
		}
		err = verifyMember(bytes.NewReader(member), name)
		if err == nil {
			return member, nil
		}
		r.log.Warn("a node sent bytes that are not the chunk they should be", "node", p.ID, "chunk", name, "reason", err)
		if suspect {
			return nil, err
		}
		// It does not know that its copy is damaged. Asked like this it looks, says
		// that it has none, and fetches a good one itself.
		path += "?" + suspected
	}
}

// hurried is a pace that has ended: no limit holds.
func (r *Replicator) hurried() context.Context {
	ctx, cancel := context.WithCancel(r.life)
	cancel()
	return ctx
}

// get reads one answer of a peer in memory. It keeps to the limit for as long as
// pace lives.
func (r *Replicator) get(pace context.Context, p Peer, path string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(r.life)
	defer cancel(nil)
	timer := time.AfterFunc(r.opts.Stall, func() { cancel(errSlow) })
	defer timer.Stop()
	resp, err := r.send(ctx, http.MethodGet, p, path)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	defer resp.Body.Close()
	body := &pacedBody{r: resp.Body, timer: timer, stall: r.opts.Stall, left: longestRead}
	body.pace = func(n int) {
		// Its error means that somebody is in a hurry, or that the node stops.
		_ = r.limiter.WaitN(pace, n)
	}
	data, err := readAtMost(body, limit)
	if err != nil {
		return nil, causeOf(ctx, err)
	}
	return data, nil
}

// send sends one request. Any answer but a 200 is an error, ErrNotFound for a 404.
func (r *Replicator) send(ctx context.Context, method string, p Peer, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.Base+path, nil)
	if err != nil {
		return nil, err
	}
	// The bytes are wanted as they lie there.
	req.Header.Set("Accept-Encoding", "identity")
	// A copy with rules of our own: a node does not send elsewhere, and a time
	// limit for the whole would count the limiter's pauses.
	client := *p.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Timeout = 0
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return resp, nil
	case http.StatusNotFound:
		err = ErrNotFound
	default:
		err = fmt.Errorf("it answered %s", resp.Status)
	}
	resp.Body.Close()
	return nil, err
}

// pacedBody reads in pieces, is patient for so long with each and for so long in
// all, and lets the limiter pause it in between.
type pacedBody struct {
	r     io.Reader
	timer *time.Timer // cancels the request
	stall time.Duration
	left  time.Duration
	pace  func(n int)
}

// Read reads a piece.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.timer.Reset(min(b.stall, b.left))
	began := time.Now()
	n, err := b.r.Read(p[:min(len(p), pieceBytes)])
	b.timer.Stop()
	b.left = max(b.left-time.Since(began), time.Millisecond)
	if n > 0 {
		b.pace(n)
	}
	return n, err
}

// causeOf prefers why a context was cancelled to what came of it.
func causeOf(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
