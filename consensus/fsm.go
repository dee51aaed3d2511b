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

// outcome is what a rule said, on its way back to who proposed.
type outcome struct {
	result any
	err    error
}

// Apply applies one entry.
func (f fsm) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch applies entries in order. Readers are kept out once a batch; what
// can be done without the state is done before.
func (f fsm) ApplyBatch(logs []*raft.Log) []any {
	out := make([]any, len(logs))
	cmds := make([][]fleet.Command, len(logs))
	errs := make([]error, len(logs))
	var size int64
	for i, l := range logs {
		if l.Type == raft.LogCommand {
			cmds[i], errs[i] = fleet.DecodeEntry(l.Data)
			size += int64(len(l.Data))
		}
	}
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	for i, l := range logs {
		switch {
		case l.Type != raft.LogCommand:
		case f.n.broken != nil:
			out[i] = outcome{err: f.n.broken}
		case errs[i] != nil:
			f.n.breakdown(fmt.Errorf("%w (entry %d): %w", ErrApply, l.Index, errs[i]))
			out[i] = outcome{err: f.n.broken}
		default:
			for _, c := range cmds[i] {
				out[i] = f.n.apply(l.Index, c)
			}
		}
	}
	f.n.grown(size)
	return out
}

// apply changes the state by one command and tells the feed. The state's lock is held.
func (n *Node) apply(index uint64, c fleet.Command) (out outcome) {
	defer func() {
		if r := recover(); r != nil {
			n.log.Error("a rule panicked", "index", index, "panic", r, "stack", string(debug.Stack()))
			n.breakdown(fmt.Errorf("%w (entry %d): panic: %v", ErrApply, index, r))
			out = outcome{err: n.broken}
		}
	}()
	result, events, err := n.state.Apply(index, c)
	n.feed.publish(events, n.progress.applied(events))
	return outcome{result: result, err: err}
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
	return picture{f.n.state.Snapshot()}, nil
}

// Restore puts the state of a snapshot in place of the present one.
func (f fsm) Restore(r io.ReadCloser) (err error) {
	defer r.Close()
	s, err := fleet.Restore(r)
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	if err != nil {
		f.n.restoreErr = err
		return err
	}
	f.n.state = s
	f.n.progress.reset()
	f.n.feed.reset(s.Index())
	return nil
}

type picture struct{ *fleet.Snapshot }

// Persist writes the picture; the sink syncs it to disk before it counts.
func (p picture) Persist(sink raft.SnapshotSink) error {
	if err := p.Write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release has nothing to let go of: the picture holds pointers only.
func (picture) Release() {}
