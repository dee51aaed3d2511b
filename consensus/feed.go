package consensus

import (
	"context"
	"sync"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// feed hands events to watchers and keeps the newest for those who come back.
// It is written to inside the state change, so its order is the log's.
type feed struct {
	mu       sync.Mutex
	ring     []fleet.Event // oldest at start
	start    int
	capacity int
	floor    uint64 // events up to here may be missing from the ring
	watchers map[*Watcher]struct{}
	closed   bool
}

func newFeed(capacity int) *feed {
	return &feed{capacity: capacity, watchers: map[*Watcher]struct{}{}}
}

// reset forgets all events: the state was replaced by a snapshot that ends at
// index. Watchers cannot follow such a jump.
func (f *feed) reset(index uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ring, f.start, f.floor = nil, 0, index
	for w := range f.watchers {
		f.drop(w, ErrSlow)
	}
}

// publish appends the events of one log entry; told is what watchers see now,
// which may be ahead of what those who come back later are given.
func (f *feed) publish(logged, told []fleet.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range logged {
		if len(f.ring) < f.capacity {
			f.ring = append(f.ring, ev)
			continue
		}
		f.floor = f.ring[f.start].Index
		f.ring[f.start] = ev
		f.start = (f.start + 1) % f.capacity
	}
	f.tell(told)
}

// live tells watchers something the log does not know yet.
func (f *feed) live(ev fleet.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tell([]fleet.Event{ev})
}

func (f *feed) tell(events []fleet.Event) {
	for w := range f.watchers {
		if !w.offer(events) {
			f.drop(w, ErrSlow)
		}
	}
}

// watch makes a watcher of everything after index since; now is the index of
// the state at this moment.
func (f *feed) watch(since, now uint64) (*Watcher, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if since < f.floor || since > now {
		return nil, ErrTooOld
	}
	w := f.newWatcher()
	for i := range f.ring {
		if ev := f.ring[(f.start+i)%len(f.ring)]; ev.Index > since {
			w.queue = append(w.queue, ev)
		}
	}
	w.limit = f.capacity + len(w.queue)
	if len(w.queue) > 0 && w.err == nil {
		w.signal()
	}
	return w, nil
}

// follow makes a watcher of everything from now on.
func (f *feed) follow() *Watcher {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newWatcher()
}

func (f *feed) newWatcher() *Watcher {
	w := &Watcher{feed: f, wake: make(chan struct{}, 1), lastLive: map[string]int{}, limit: f.capacity}
	if f.closed {
		w.end(ErrClosed)
	} else {
		f.watchers[w] = struct{}{}
	}
	return w
}

// drop ends a watcher. The feed's lock is held.
func (f *feed) drop(w *Watcher, why error) {
	delete(f.watchers, w)
	w.end(why)
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for w := range f.watchers {
		f.drop(w, ErrClosed)
	}
}

func (f *feed) count() (events, watchers int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.ring), len(f.watchers)
}

// Watcher follows the state. It is read by one goroutine and must be closed.
type Watcher struct {
	feed *feed
	wake chan struct{} // holds a token when there is something to read

	mu    sync.Mutex
	queue []fleet.Event
	limit int
	// lastLive is the place in the queue of an unread live progress of a task
	// that nothing about this task has followed: a newer one may take its place,
	// so that a slow reader costs one event a task and not one an update.
	lastLive map[string]int
	err      error
}

// Next blocks until there is something to read and returns all of it: events in
// the order of the log, those of one entry never apart, so that the Index of the
// last one is a place to resume from. Live events stand between them and are
// never repeated.
//
// ErrSlow means that the watcher was cut, ErrClosed that it or the node was
// closed; any other error is the context's.
func (w *Watcher) Next(ctx context.Context) ([]fleet.Event, error) {
	select {
	case <-w.wake:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		w.signal() // for the next call
		return nil, w.err
	}
	out := w.queue
	w.queue = nil
	clear(w.lastLive)
	w.limit = w.feed.capacity
	return out, nil
}

// Close lets the node forget the watcher.
func (w *Watcher) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.drop(w, ErrClosed)
}

// offer puts events into the queue; false means that the reader lags too far.
func (w *Watcher) offer(events []fleet.Event) bool {
	if len(events) == 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ev := range events {
		if at, ok := w.lastLive[ev.TaskID]; ev.Live && ok {
			w.queue[at] = ev
			continue
		}
		if len(w.queue) >= w.limit {
			return false
		}
		if ev.Live {
			w.lastLive[ev.TaskID] = len(w.queue)
		} else {
			delete(w.lastLive, ev.TaskID)
		}
		w.queue = append(w.queue, ev)
	}
	w.signal()
	return true
}

// end makes Next return why, what is unread is let go: an event may be missing
// behind it.
func (w *Watcher) end(why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err, w.queue = why, nil
		w.signal()
	}
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
