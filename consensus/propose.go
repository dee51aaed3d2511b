package consensus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// proposeTimeout is how long the node's own commands may take.
const proposeTimeout = 10 * time.Second

// Propose puts a command into the log, stamped with this node's time and a new
// id; any node takes it, and passes it on to the one that leads. When it returns
// without error the command is on disk on a majority, agreed on and applied here,
// and the result is the rule's own. A *fleet.Error is the rule's refusal: nothing
// was changed. ErrNotReady means the command was not taken; ErrUncertain, also
// when the context ends first, that it may yet be.
//
// An election is waited out, for as long as the context and proposeTimeout
// allow. ErrCutOff comes at once when there has been no leader for a while. Who
// asks is in the context (fleet.WithOrigin) and goes into the log with the command.
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

// commit proposes a body for as long as it takes. Every try carries the same id,
// by which the state machine knows a command that it has had: a try whose answer
// was lost may be repeated.
func (n *Node) commit(ctx context.Context, body fleet.Body) (any, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	now := n.now()
	id, err := ulid.New(ulid.Timestamp(now), n.random)
	if err != nil {
		return nil, fmt.Errorf("make command id: %w", err)
	}
	n.mu.RLock()
	since := n.machine().Index() // what readers see may be ahead of what is agreed on
	n.mu.RUnlock()
	c := fleet.Command{ID: strings.ToLower(id.String()), At: now, Since: since, Body: body}.AskedBy(fleet.OriginOf(ctx))
	raw, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if len(raw) > maxEntry {
		return nil, &fleet.Error{Code: fleet.Invalid, Message: fmt.Sprintf("a command of %d bytes; %d at most", len(raw), maxEntry)}
	}
	told := n.waiters.add(c.ID)
	defer n.waiters.drop(c.ID)
	var why error // why the last try was not taken
	for {
		_, _, changed := n.leader.now()
		err := n.sender.send(ctx, raw, told)
		var o outcome
		switch {
		case errors.As(err, &o):
			n.figures.commit.observe(time.Since(began))
			if fleet.ErrorCode(o.err) == fleet.Uncertain {
				return nil, fmt.Errorf("%w: %v", ErrUncertain, o.err) // it is no refusal, which errors.As would find
			}
			return o.result, o.err
		case errors.Is(err, ErrUncertain):
			if !c.Retry {
				c.Retry = true
				if raw, err = c.Encode(); err != nil {
					return nil, err
				}
			}
			why = err
		default:
			why = err
		}
		if failed := n.failure(); failed != nil {
			return nil, n.giveUp(c.Retry, failed)
		}
		select {
		case <-n.stop:
			return nil, n.giveUp(c.Retry, n.whyNot())
		default:
		}
		if off := n.cutOff(); off != nil {
			return nil, n.giveUp(c.Retry, off)
		}
		if ctx.Err() != nil {
			return nil, n.giveUp(c.Retry, errors.Join(why, ctx.Err()))
		}
		n.leader.wait(ctx, changed, retryPause)
	}
}

// retryPause is the rest before a command is tried again with the same leader.
const retryPause = 50 * time.Millisecond

func (n *Node) giveUp(maybe bool, why error) error {
	switch {
	case maybe:
		return fmt.Errorf("%w: %w", ErrUncertain, why)
	case errors.Is(why, ErrNotReady), errors.Is(why, ErrNoSpace):
		return why
	}
	return fmt.Errorf("%w: %w", ErrNotReady, why)
}

// Error makes an outcome what a try came to.
func (o outcome) Error() string { return "answered" }

// cutOff is the reason why it makes no sense to wait for a leader; nil while it does.
func (n *Node) cutOff() error {
	lost := n.leader.lost()
	if lost.IsZero() || time.Since(lost) < max(4*n.heartbeat(), patience) {
		return nil
	}
	if err := n.guard.state(); errors.Is(err, ErrNoSpace) {
		return err
	}
	return ErrCutOff
}

// patience is how long a cluster may be without a leader before commands are
// refused at once; an election takes a fraction of it.
const patience = 3 * time.Second
