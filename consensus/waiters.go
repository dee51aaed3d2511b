package consensus

import (
	"sync"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// waiters are the proposals of this node that are under way, by the command's
// id. They are answered by this node's own state machine, wherever the command
// was put into the log: the result is then of this node's state, and who was
// answered sees what they wrote.
type waiters struct {
	mu sync.Mutex
	by map[string]chan outcome
}

// outcome is what a rule said, on its way back to who proposed.
type outcome struct {
	result any
	err    error
}

func (w *waiters) add(id string) chan outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]chan outcome{}
	}
	ch := make(chan outcome, 1)
	w.by[id] = ch
	return ch
}

func (w *waiters) drop(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by, id)
}

// tell answers who waits for a command; it reports whether anybody did.
func (w *waiters) tell(id string, o outcome) bool {
	w.mu.Lock()
	ch := w.by[id]
	delete(w.by, id)
	w.mu.Unlock()
	if ch != nil {
		ch <- o // it holds one, and nobody else has it any more
	}
	return ch != nil
}

// restored answers those whose commands came in a snapshot: they were applied
// elsewhere and will not be applied here.
func (w *waiters) restored(s *fleet.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, ch := range w.by {
		if result, err, done := s.Outcome(id); done {
			delete(w.by, id)
			ch <- outcome{result, err}
		}
	}
}

// failed tells all that the node has stopped.
func (w *waiters) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, ch := range w.by {
		delete(w.by, id)
		ch <- outcome{err: err}
	}
}
