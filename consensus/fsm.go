package consensus

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// fsm is the Node as the Raft library sees it: committed entries come in here,
// one batch after the other, always from the same goroutine.
type fsm struct{ n *Node }

// Apply applies one entry.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order. Readers are kept out once a batch; what
// can be done without the state is done before. The answer to each is where it
// stands in the log; what the rules said goes to the waiters.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	for i, l := range logs {
		out[i] = entered{Index: l.Index, Term: l.Term}
	}
	d := decodeEntries(logs)
	n := f.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, l := range logs {
		n.tail.add(int64(len(l.Data)))
		switch {
		case l.Type != raft.LogCommand, n.broken != nil:
		case l.Index <= n.machine().Index(): // an earlier life of Raft brought it
		case d.errs[i] != nil:
			n.breakdown(fmt.Errorf("%w (entry %d): %w", ErrApply, l.Index, d.errs[i]))
		default:
			n.apply(l.Index, d.cmds[i])
		}
	}
	n.overtake()
	n.move()
	n.grown(d.size)
	return out
}

// apply changes the state by the commands of one entry and tells the feed. The
// state's lock is held.
func (n *Node) apply(index uint64, cmds []fleet.Command) {
	defer func() {
		if r := recover(); r != nil {
			n.log.Error("a rule panicked", "index", index, "panic", r, "stack", string(debug.Stack()))
			n.breakdown(fmt.Errorf("%w (entry %d): panic: %v", ErrApply, index, r))
		}
	}()
	s := n.machine()
	answered := false
	all := s.ApplyAll(index, cmds, func(c fleet.Command, result any, err error) {
		answered = n.waiters.tell(c.ID, outcome{result, err}) || answered
	})
	switch {
	case n.next == nil:
		n.feed.publish(all, n.progress.applied(all))
	case answered:
		n.show() // who was answered here sees here what they wrote
	}
	// Else readers see an older state, to which these events do not belong.
}

// machine is the state of the state machine. n.mu is held.
func (n *Node) machine() *fleet.State {
	if n.next != nil {
		return n.next
	}
	return n.state
}

// move wakes who waits for the state machine. n.mu is held.
func (n *Node) move() {
	close(n.moved)
	n.moved = make(chan struct{})
}

// breakdown stops the node: it may not go on with a state that others do not
// have, nor write a snapshot of it. The state's lock is held.
func (n *Node) breakdown(err error) {
	if n.broken == nil {
		n.broken = err
		n.failed <- err
		close(n.brokenDown)
	}
}

// Snapshot takes a picture of the state; writing it does not hold anybody up.
func (f fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.n.mu.RLock()
	defer f.n.mu.RUnlock()
	if f.n.broken != nil {
		return nil, f.n.broken
	}
	f.n.unsaved.Store(0)
	return picture{f.n.machine().Snapshot()}, nil
}

// Restore puts the state of a snapshot in place of the present one.
func (f fsm) Restore(r io.ReadCloser) (err error) {
	defer r.Close()
	s, err := unpackState(r)
	n := f.n
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.restoreErr = err
		return err
	}
	if n.next != nil {
		n.next = s
		n.overtake()
	} else {
		n.state = s
		n.progress.reset()
		n.feed.reset(s.Index())
	}
	n.waiters.restored(s)
	n.move()
	return nil
}

type picture struct{ *fleet.Snapshot }

// Persist writes the picture; the sink syncs it to disk before it counts.
func (p picture) Persist(sink raft.SnapshotSink) error {
	if err := packState(sink, p.Snapshot); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to let go of: the picture holds pointers only.
func (picture) Release() {}
