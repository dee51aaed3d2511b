// Package apitest is a fleet in memory for tests of what stands on the cluster:
// the real rules, with a lock in place of the log.
package apitest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// ErrTooOld is met by a watcher that asks for events that are not kept.
var ErrTooOld = errors.New("the events asked for are not kept any more")

// Cluster is an api.Cluster in memory.
type Cluster struct {
	mu       sync.RWMutex
	now      func() time.Time
	state    *fleet.State
	index    uint64
	events   []fleet.Event
	keep     int
	watchers map[*watcher]struct{}
	latest   map[string]wire.Progress
}

// NewCluster keeps the newest keep events for those who resume.
func NewCluster(now func() time.Time, keep int) *Cluster {
	return &Cluster{now: now, state: fleet.NewState(), keep: keep, watchers: map[*watcher]struct{}{}, latest: map[string]wire.Progress{}}
}

// ID of the only node.
func (c *Cluster) ID() string { return "n-1" }

// Propose applies a command.
func (c *Cluster) Propose(ctx context.Context, body fleet.Body) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index++
	cmd := fleet.Command{Version: 3, ID: fmt.Sprintf("c-%d", c.index), At: c.now(), Body: body}.AskedBy(fleet.OriginOf(ctx))
	result, events, err := c.state.Apply(c.index, cmd)
	c.publish(events)
	return result, err
}

func (c *Cluster) publish(events []fleet.Event) {
	for _, e := range events {
		if !e.Live {
			c.events = append(c.events, e)
		}
	}
	if n := len(c.events) - c.keep; n > 0 {
		c.events = append([]fleet.Event(nil), c.events[n:]...)
	}
	for w := range c.watchers {
		w.add(events)
	}
}

// View runs f under a read lock.
func (c *Cluster) View(f func(*fleet.State)) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	f(c.state)
}

// Watch follows the events after an index.
func (c *Cluster) Watch(since uint64) (api.Watcher, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if since > c.index || since < c.index && (len(c.events) == 0 || c.events[0].Index > since+1) {
		return nil, ErrTooOld
	}
	w := c.watch()
	for _, e := range c.events {
		if e.Index > since {
			w.add([]fleet.Event{e})
		}
	}
	return w, nil
}

// SnapshotAndWatch runs f and watches from the same index on.
func (c *Cluster) SnapshotAndWatch(f func(*fleet.State)) api.Watcher {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(c.state)
	return c.watch()
}

func (c *Cluster) watch() *watcher {
	w := &watcher{c: c, more: make(chan struct{}, 1)}
	c.watchers[w] = struct{}{}
	return w
}

// Watchers is how many watchers are open.
func (c *Cluster) Watchers() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.watchers)
}

// Progress is the fast path: viewers at once, the log later or never.
func (c *Cluster) Progress(taskID string, p wire.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.state.Task(taskID)
	if t == nil {
		return
	}
	c.latest[taskID] = p
	live := *t
	live.Progress = &p
	c.publish([]fleet.Event{{Index: c.index, Type: fleet.EventProgress, At: c.now(), TaskID: taskID, MachineID: t.MachineID, Live: true, Task: &live}})
}

// Latest progress of a task.
func (c *Cluster) Latest(taskID string) (wire.Progress, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	p, ok := c.latest[taskID]
	return p, ok
}

type watcher struct {
	c    *Cluster
	mu   sync.Mutex
	got  []fleet.Event
	more chan struct{}
	err  error
}

func (w *watcher) add(events []fleet.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got = append(w.got, events...)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) Next(ctx context.Context) ([]fleet.Event, error) {
	for {
		w.mu.Lock()
		got, err := w.got, w.err
		w.got = nil
		w.mu.Unlock()
		if err != nil {
			return nil, err
		}
		if len(got) > 0 {
			return got, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-w.more:
		}
	}
}

func (w *watcher) Close() {
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	delete(w.c.watchers, w)
}
