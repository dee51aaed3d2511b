package images

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// offerWait is how long other nodes are waited for when it is found out what they
// have.
const offerWait = 3 * time.Second

// offer is whether a chunk that is not here can be had from another node.
type offer struct {
	yes   bool
	final bool // no, and every other node was asked
}

// offers finds out which chunks of an image, none of them here, other nodes in
// reach have. Nothing is fetched.
func (r *Replicator) offers(ctx context.Context, digest string, names []string) map[string]offer {
	out := make(map[string]offer, len(names))
	if len(names) == 0 {
		return out
	}
	peers := r.fleet.Peers()
	var reachable []Peer
	whole := false
	for _, p := range peers {
		if !p.Reachable {
			continue
		}
		reachable = append(reachable, p)
		// Its own word will do while nothing speaks against it: should it be wrong,
		// fetching fails, and the word does not count for a while.
		whole = whole || p.Holds != nil && p.Holds(digest).Whole() && r.trusted(p.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, offerWait)
	defer cancel()
	var mu sync.Mutex // of out, once probes run
	var probes errgroup.Group
	probes.SetLimit(16)
	var ask []string
	for _, name := range names {
		switch a := r.absent(name); {
		case a != nil:
			out[name] = offer{final: a.final}
		case whole:
			out[name] = offer{yes: true}
		default:
			out[name] = offer{final: len(reachable) == len(peers)}
			ask = append(ask, name)
		}
	}
	for _, name := range ask {
		for _, p := range reachable {
			probes.Go(func() error {
				resp, err := r.send(ctx, http.MethodHead, p, "/x/chunk/"+name)
				if err == nil {
					resp.Body.Close()
				}
				mu.Lock()
				defer mu.Unlock()
				o := out[name]
				o.yes = o.yes || err == nil
				o.final = o.final && errors.Is(err, ErrNotFound)
				out[name] = o
				return nil
			})
		}
	}
	_ = probes.Wait() // none gives an error
	return out
}

// trusted reports whether a peer has not failed lately.
func (r *Replicator) trusted(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	state := r.peers[id]
	return state == nil || r.now().Sub(state.last) >= state.penalty()
}
