package consensus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// proposeTimeout is how long the node's own commands may take.
const proposeTimeout = 10 * time.Second

// Propose puts a command into the log, stamped with this node's time and a new
// id. When it returns without error the command is on disk, agreed on and
// applied, and the result is the rule's own. A *fleet.Error is the rule's
// refusal: nothing was changed. ErrNotReady means the command was not taken;
// ErrUncertain, also when the context ends first, that it may yet be.
func (n *Node) Propose(ctx context.Context, body fleet.Body) (any, error) {
	if !n.enter() {
		return nil, n.whyNot()
	}
	defer n.inFlight.Done()
	if fin, ok := body.(fleet.FinishInstall); ok {
		// The rule asks which stage was reached; the newest answer may not be in
		// the log yet.
		if err := n.flush(ctx, fin.TaskID); err != nil {
			return nil, err
		}
	}
	return n.commit(ctx, body)
}

// enter counts a proposal in, unless the node is closing or has failed.
func (n *Node) enter() bool {
	n.gate.Lock()
	defer n.gate.Unlock()
	if n.closing || n.failure() != nil {
		return false
	}
	n.inFlight.Add(1)
	return true
}

func (n *Node) whyNot() error {
	if err := n.failure(); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is closing", ErrNotReady)
}

func (n *Node) commit(ctx context.Context, body fleet.Body) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	now := n.now()
	id, err := ulid.New(ulid.Timestamp(now), n.random)
	if err != nil {
		return nil, fmt.Errorf("make command id: %w", err)
	}
	b, err := fleet.Command{ID: strings.ToLower(id.String()), At: now, Body: body}.Encode()
	if err != nil {
		return nil, err
	}
	wait := proposeTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = min(wait, max(time.Until(deadline), time.Millisecond)) // 0 would mean for ever
	}
	if ctx.Done() == nil {
		return n.settle(n.raft.Apply(b, wait))
	}
	done := make(chan struct{})
	var result any
	go func() {
		defer close(done)
		result, err = n.settle(n.raft.Apply(b, wait))
	}()
	select {
	case <-done:
		return result, err
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrUncertain, ctx.Err())
	}
}

// settle waits for the entry and says what became of it.
func (n *Node) settle(f raft.ApplyFuture) (any, error) {
	err := f.Error()
	switch {
	case err == nil:
		out := f.Response().(outcome)
		return out.result, out.err
	case n.failure() != nil:
		return nil, fmt.Errorf("%w: %w", ErrUncertain, n.failure())
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return nil, fmt.Errorf("%w: %w", ErrUncertain, err)
}
