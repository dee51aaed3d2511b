package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/ui/api/client"
)

// lookEvery is how often a story looks whether its node is still well.
const lookEvery = 500 * time.Millisecond

// awayError means that a node could not be asked. Another can be, or the same later.
type awayError struct{ error }

func (e *awayError) Unwrap() error { return e.error }

// asked tells a node that is away, or whose cluster is, from one that refuses.
func asked(err error) error {
	if status := client.StatusOf(err); status == 0 || status == http.StatusServiceUnavailable {
		return &awayError{err}
	}
	return err
}

// follow tells what happens by any node that is well, and goes on by another
// when something is done to that one.
func (s *story) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := s.choose(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		well, hurt := context.WithCancel(ctx)
		go s.look(well, s.at, hurt)
		opened := false
		err := follow(well, s.node, func(u client.Update) error {
			opened = true
			return s.update(well, u)
		})
		hurt()
		if err != nil && !opened {
			err = asked(err)
		}
		var away *awayError
		if err != nil && !errors.As(err, &away) {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookEvery):
		}
	}
	return nil
}

// choose makes sure that the node spoken to is well: it stays the same while it is.
func (s *story) choose(ctx context.Context) error {
	for {
		state, err := s.rack.Client().State(ctx)
		if err != nil {
			return err
		}
		if best := wellNode(state.Nodes, s.at); best != nil {
			if s.at != "" && s.at != best.Name {
				s.say("rack", "going on by %s", best.Name)
			}
			s.at = best.Name
			s.node, err = client.New(best.URL, nil)
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
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

// look watches over a node and calls hurt when it is not well.
func (s *story) look(ctx context.Context, name string, hurt func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
		state, err := s.rack.Client().State(ctx)
		if best := wellNode(state.Nodes, name); err != nil || best == nil || best.Name != name {
			hurt()
			return
		}
	}
}
