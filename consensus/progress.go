package consensus

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// progress holds what is ahead of the log: the newest progress of each install
// until an entry has caught up with it.
type progress struct {
	mu    sync.Mutex
	ahead map[string]fleet.AdvanceItem // by task
	dirty map[string]struct{}          // tasks whose value no entry carries yet

	flushing sync.Mutex // one flush at a time
}

func newProgress() *progress {
	return &progress{ahead: map[string]fleet.AdvanceItem{}, dirty: map[string]struct{}{}}
}

func (p *progress) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.ahead)
	clear(p.dirty)
}

// of is the task with its newest progress, which may be ahead of the log.
func (p *progress) of(t *fleet.Task) *fleet.Task {
	it, ok := p.ahead[t.ID]
	if !ok || it.Generation != t.Generation || t.Status != wire.StatusInstalling {
		return t
	}
	newer := *t
	newer.Progress = &it.Progress
	return &newer
}

// applied lets go of what the log has caught up with, and returns the events as
// they are told now: a progress out of the log is replaced by the newer one that
// viewers have seen, for no bar may run backwards.
func (p *progress) applied(events []fleet.Event) []fleet.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ahead) == 0 {
		return events
	}
	told := events
	for i, ev := range events {
		it, ok := p.ahead[ev.TaskID]
		if !ok || ev.Machine != nil {
			continue
		}
		if t := ev.Task; t == nil || !follows(t, it) {
			delete(p.ahead, ev.TaskID)
			delete(p.dirty, ev.TaskID)
			continue
		}
		if &told[0] == &events[0] {
			told = slices.Clone(events)
		}
		told[i].Task = p.of(ev.Task)
	}
	return told
}

// follows reports whether the value is still ahead of the task.
func follows(t *fleet.Task, it fleet.AdvanceItem) bool {
	return t.Status == wire.StatusInstalling && t.Generation == it.Generation &&
		(t.Progress == nil || *t.Progress != it.Progress) && fleet.CheckProgress(t, it.Progress) == nil
}

// Progress takes the newest progress of an install. Watchers see it at once; the
// log gets the newest value of all installs in one entry a second. What does not
// fit the task (not installing, another generation, running backwards) is
// dropped: a late or repeated message is nothing to complain about. It never
// blocks on the disk.
func (n *Node) Progress(taskID string, generation uint64, p wire.Progress) {
	n.advance(fleet.AdvanceItem{TaskID: taskID, Generation: generation, Progress: p}, true)
}

// advance takes the newest progress of an install. One that was told to this
// node goes into the log by it, and to the other nodes; one that another node
// tells of does not.
func (n *Node) advance(it fleet.AdvanceItem, own bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	t := n.state.Task(it.TaskID)
	if t == nil || n.broken != nil {
		return
	}
	// The lock is kept while the event is told: two values of one task must reach
	// the watchers in the order they were taken in.
	n.progress.mu.Lock()
	defer n.progress.mu.Unlock()
	if !follows(n.progress.of(t), it) {
		return
	}
	n.progress.ahead[it.TaskID] = it
	if own {
		n.progress.dirty[it.TaskID] = struct{}{}
		if n.caller != nil {
			n.news.advance(it)
		}
	}
	now := n.now().UTC()
	newest := *n.progress.of(t)
	newest.UpdatedAt = now
	n.feed.live(fleet.Event{Index: n.state.Index(), Type: fleet.EventProgress, At: now, Live: true,
		TaskID: it.TaskID, MachineID: t.MachineID, Task: &newest})
}

// Latest is the newest progress of a task, which may be ahead of the log; false
// if the task has none.
func (n *Node) Latest(taskID string) (wire.Progress, bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	t := n.state.Task(taskID)
	if t == nil {
		return wire.Progress{}, false
	}
	n.progress.mu.Lock()
	defer n.progress.mu.Unlock()
	if newest := n.progress.of(t).Progress; newest != nil {
		return *newest, true
	}
	return wire.Progress{}, false
}

// flush writes what is ahead of the log into it, in one entry: of the given
// tasks, or of all.
func (n *Node) flush(ctx context.Context, tasks ...string) error {
	n.progress.flushing.Lock()
	defer n.progress.flushing.Unlock()
	items := n.progress.take(tasks)
	if len(items) == 0 {
		return nil
	}
	_, err := n.commit(ctx, fleet.Advance{Items: items})
	if err != nil {
		n.progress.putBack(items)
		return err
	}
	n.figures.flushed()
	return nil
}

func (p *progress) take(tasks []string) []fleet.AdvanceItem {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(tasks) == 0 {
		tasks = slices.Sorted(maps.Keys(p.dirty))
	}
	var items []fleet.AdvanceItem
	for _, id := range tasks {
		if _, ok := p.dirty[id]; ok {
			items = append(items, p.ahead[id])
			delete(p.dirty, id)
		}
	}
	return items
}

// putBack marks values for the next flush that are still the newest.
func (p *progress) putBack(items []fleet.AdvanceItem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range items {
		if _, ok := p.ahead[it.TaskID]; ok {
			p.dirty[it.TaskID] = struct{}{}
		}
	}
}

// flushProgress runs until the node closes.
func (n *Node) flushProgress(every time.Duration) {
	defer n.wg.Done()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-tick.C:
			if n.cutOff() != nil {
				continue // it is kept, and people are told why on every screen
			}
			ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
			if err := n.flush(ctx); err != nil {
				n.log.Warn("progress did not reach the log; it is kept for the next try", "error", err)
			}
			cancel()
		}
	}
}
