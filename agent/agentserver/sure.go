package agentserver

import (
	"context"
	"errors"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// cutOff is what machines are told by a node without a majority.
const cutOff = "this node cannot reach the other nodes, so nothing new may be erased; what was begun goes on, and it asks them again and again"

const (
	maxChecking = 32              // questions to the other nodes at once: anybody on the wire may cause one
	checkTime   = 5 * time.Second // for the answer
)

// notReady reports whether an error is no refusal but the want of a majority, or of
// a leader with room on its disk. It
// may be that the command was carried out all the same.
func notReady(err error) bool {
	return errors.Is(err, consensus.ErrNotReady) || errors.Is(err, consensus.ErrUncertain) || errors.Is(err, consensus.ErrNoSpace)
}

// verify makes sure that this node knows all that was decided before.
func (s *Server) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return consensus.ErrNotReady
	}
	if err := s.cfg.Cluster.Verify(ctx); err != nil {
		return errors.Join(consensus.ErrNotReady, err)
	}
	return nil
}

// sure looks for what a machine says there is: a session, a task, an install under
// way. What is found is relied on; what is not, only after this node has made
// sure that it has heard all that another node may have told the machine. An
// error means that it could not.
func (s *Server) sure(ctx context.Context, look func(*fleet.State) bool) error {
	found := false
	s.cfg.Cluster.View(func(st *fleet.State) { found = look(st) })
	if found {
		return nil
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	s.cfg.Cluster.View(func(st *fleet.State) { look(st) })
	return nil
}

// isCutOff reports whether this node cannot reach a majority. An election, which
// passes, is waited out.
func (s *Server) isCutOff(ctx context.Context) bool {
	return !s.cfg.Cluster.Status().Quorum && s.verify(ctx) != nil
}
