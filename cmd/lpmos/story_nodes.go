package main

import (
	"context"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

const (
	// askAgain is how long a story waits before it asks once more.
	askAgain = 500 * time.Millisecond
	// askLimit is how long it waits for an answer: a paused node gives none.
	askLimit = 10 * time.Second
)

// ask asks any node that is well, and another or the same again as long as the
// ones it asks are away. f is told when it is not the first try: an earlier one
// may have been heard.
func (s *story) ask(ctx context.Context, f func(ctx context.Context, c *client.Client, again bool) error) error {
	for again := false; ; again = true {
		c, err := s.choose(ctx)
		if err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, askLimit)
		err = f(try, c, again)
		cancel()
		if err == nil || !away(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

// away tells a node that is away, or whose cluster is, from one that refuses.
func away(err error) bool {
	status := client.StatusOf(err)
	return status == 0 || status == http.StatusServiceUnavailable
}

// choose gives a node that is well: the same while it is. It waits for one.
func (s *story) choose(ctx context.Context) (*client.Client, error) {
	for {
		state, err := s.rack.Client().State(ctx)
		if err != nil {
			return nil, err
		}
		if best := wellNode(state.Nodes, s.at); best != nil {
			s.at = best.Name
			return client.AtTheNode(best.DataDir()), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(askAgain):
		}
	}
}

// reach is the way to another node of the rack: by its own socket.
func (s *story) reach(m api.Member) *client.Client {
	for _, n := range s.rack.Nodes() {
		if n.Name == m.Name {
			return client.AtTheNode(n.DataDir())
		}
	}
	return nil
}

// wellNode is the named node if it is well, else the first that is, else nil.
func wellNode(nodes []lab.NodeState, name string) *lab.NodeState {
	var best *lab.NodeState
	for i, n := range nodes {
		if n.Well() && (best == nil || n.Name == name) {
			best = &nodes[i]
		}
	}
	return best
}

// refusedAgain says that a repeated call is refused for what its first try did.
func refusedAgain(err error, again bool) bool {
	return again && client.StatusOf(err) == http.StatusConflict
}
