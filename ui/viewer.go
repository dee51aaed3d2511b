package ui

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// maxSightings is how many sightings wait for a viewer; the oldest go first.
const maxSightings = 50

// viewer is one who looks. Events are poured in as they come and leave as
// frames at the viewer's own pace: of each thing only the newest is kept.
type viewer struct {
	hub    *hub
	caller door.Caller
	send   func(ctx context.Context, frame []byte) error

	wake chan struct{} // something has to be told at once

	mu        sync.Mutex
	changes   map[thing]change
	poured    uint64                 // events so far
	progress  map[string]*fleet.Task // task → as of its newest progress
	wants     wants
	again     bool // a fresh snapshot is wanted
	seen      []api.Sighting
	importing map[string]api.ImportProgress
	replies   []api.Frame
	err       error // the feed has ended

	// Touched by run alone.
	stats    api.Stats
	lost     map[string]string
	cluster  clusterTold
	complete uint64 // everything up to this index was told
}

// thing is what a change is about.
type thing struct {
	kind rune // 't'ask, 'm'achine, 'i'mage, 'n'ode, or a record of the 'a'udit
	id   string
}

// change is the newest event of a thing that was not told yet.
type change struct {
	event fleet.Event
	order uint64 // in which the events came
	// created stays until it is told, whatever happens to the task meanwhile.
	created bool
}

// wants is what a viewer has subscribed to; nil means all.
type wants struct {
	tasks, machines, rows map[string]bool
}

func (w wants) has(taskID, machineID string) bool {
	return w.tasks == nil && w.machines == nil || w.tasks[taskID] || w.machines[machineID]
}

func (w wants) onScreen(machineID string) bool { return w.rows == nil || w.rows[machineID] }

func (h *hub) newViewer(caller door.Caller, send func(context.Context, []byte) error) *viewer {
	return &viewer{hub: h, caller: caller, send: send, wake: make(chan struct{}, 1),
		changes: map[thing]change{}, progress: map[string]*fleet.Task{}, importing: map[string]api.ImportProgress{}}
}

// poke wakes the writer.
func (v *viewer) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// waiting is how many changes have not been told yet.
func (v *viewer) waiting() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.changes)
}

// run tells the viewer everything from since on, or from a snapshot, until the
// context ends or the viewer cannot be told. The error says why it ended.
func (v *viewer) run(ctx context.Context, since *uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg := v.hub.cfg.API
	who := v.hub.api.WhoIs(v.caller)
	if err := v.tell(ctx, api.Frame{Type: api.FrameHello, Node: cfg.Name, Version: cfg.Version, Time: cfg.Now(), Who: &who}); err != nil {
		return err
	}
	w, err := v.begin(ctx, since)
	if err != nil {
		return err
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		v.drain(ctx, w)
	}()
	defer func() {
		cancel()
		<-drained
		w.Close()
	}()
	fast := time.NewTicker(v.hub.limits.Fast)
	defer fast.Stop()
	slow := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-v.wake:
			if err := v.tellChanges(ctx); err != nil {
				return err
			}
		case now := <-fast.C:
			all := now.Sub(slow) >= v.hub.limits.Slow-v.hub.limits.Fast/2
			if all {
				slow = now
			}
			// A session may end by the clock alone, of which there is no event.
			if all && !v.hub.door().Still(v.caller) {
				return errSignedOut
			}
			if err := v.tellPace(ctx, all); err != nil {
				return err
			}
		}
	}
}

// begin resumes after since if the events are still kept, and sends a snapshot
// otherwise.
func (v *viewer) begin(ctx context.Context, since *uint64) (api.Watcher, error) {
	if since != nil {
		if w, err := v.hub.cluster.Watch(*since); err == nil {
			if err := v.resume(ctx, *since); err != nil {
				w.Close()
				return nil, err
			}
			return w, nil
		}
	}
	var p *api.Picture
	w := v.hub.cluster.SnapshotAndWatch(func(s *fleet.State) { p = api.PictureOf(s) })
	if err := v.tellSnapshot(ctx, p); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// resume says so, and tells how far the installs are: progress that was missed is
// not among the events.
func (v *viewer) resume(ctx context.Context, since uint64) error {
	v.complete = since
	p := v.hub.api.Picture()
	v.mu.Lock()
	for _, t := range p.Tasks {
		if t.Open() && t.Progress != nil && v.wants.has(t.ID, t.MachineID) {
			v.progress[t.ID] = t
		}
	}
	v.mu.Unlock()
	return v.tell(ctx, api.Frame{Type: api.FrameResumed, Index: since, Time: v.hub.cfg.API.Now()})
}

func (v *viewer) tellSnapshot(ctx context.Context, p *api.Picture) error {
	v.mu.Lock()
	keep := v.wants.has
	v.mu.Unlock()
	snap := v.hub.api.Snapshot(p, keep)
	v.stats, v.complete = snap.Stats, max(v.complete, snap.Index)
	v.cluster.news(snap.Cluster)
	v.lost = v.hub.pulse().lost
	b, err := json.Marshal(snap)
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	return v.send(ctx, b)
}

func (v *viewer) tell(ctx context.Context, f api.Frame) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode frame %s: %w", f.Type, err)
	}
	return v.send(ctx, b)
}

// drain pours events in until the watcher ends. It never waits for the viewer,
// so the watcher is not cut because a browser is slow.
func (v *viewer) drain(ctx context.Context, w api.Watcher) {
	for {
		events, err := w.Next(ctx)
		if err == nil && slices.ContainsFunc(events, ofPeople) && !v.hub.door().Still(v.caller) {
			err = errSignedOut
		}
		v.mu.Lock()
		for _, e := range events {
			v.pour(e)
		}
		v.err = err
		urgent := len(v.changes) > 0 || err != nil
		v.mu.Unlock()
		if urgent {
			v.poke()
		}
		if err != nil {
			return
		}
	}
}

// errSignedOut ends a viewer whose session has ended.
var errSignedOut = errors.New("the session has ended")

// ofPeople reports whether somebody may have been let in or sent away.
func ofPeople(e fleet.Event) bool {
	switch e.Type {
	case fleet.EventUser, fleet.EventUserDeleted, fleet.EventSessionEnded, fleet.EventAPIToken, fleet.EventAPITokenDeleted:
		return true
	}
	return false
}

// pour keeps what is new in an event. v.mu is held.
func (v *viewer) pour(e fleet.Event) {
	var k thing
	switch e.Type {
	case fleet.EventProgress:
		if e.Task != nil && v.wants.has(e.TaskID, e.MachineID) {
			v.progress[e.TaskID] = e.Task
		}
		return
	case fleet.EventTaskCreated, fleet.EventStatus, fleet.EventTaskDeleted:
		k = thing{'t', e.TaskID}
	case fleet.EventHardware, fleet.EventMachine, fleet.EventMachineDeleted:
		k = thing{'m', e.MachineID}
	case fleet.EventImage, fleet.EventImageDeleted:
		k = thing{'i', e.Name}
	case fleet.EventNode, fleet.EventNodeDeleted:
		k = thing{'n', e.ID}
	case fleet.EventAudit:
		k = thing{'a', strconv.FormatUint(v.poured, 10)} // none takes another's place
	default:
		return
	}
	if (k.kind == 't' || k.kind == 'm') && !v.wants.has(e.TaskID, e.MachineID) {
		return
	}
	if k.kind == 't' {
		delete(v.progress, e.TaskID) // the task tells it
	}
	old, waiting := v.changes[k]
	v.poured++
	c := change{event: e, order: v.poured, created: e.Type == fleet.EventTaskCreated || waiting && old.created}
	if c.created && e.Type == fleet.EventStatus {
		c.event.Type = fleet.EventTaskCreated
	}
	if waiting && old.event.Type == fleet.EventHardware && e.Type == fleet.EventMachine {
		c.event.Type = fleet.EventHardware
	}
	v.changes[k] = c
}

// tellChanges sends every change that waits, in the order of the log.
func (v *viewer) tellChanges(ctx context.Context) error {
	v.mu.Lock()
	waiting := slices.Collect(maps.Values(v.changes))
	clear(v.changes)
	replies, again, err := v.replies, v.again, v.err
	v.replies, v.again = nil, false
	v.mu.Unlock()
	for _, f := range replies {
		if err := v.tell(ctx, f); err != nil {
			return err
		}
	}
	if again {
		if err := v.tellSnapshot(ctx, v.hub.api.Picture()); err != nil {
			return err
		}
	}
	slices.SortFunc(waiting, func(a, b change) int { return cmp.Compare(a.order, b.order) })
	for _, f := range v.frames(waiting) {
		if err := v.tell(ctx, f); err != nil {
			return err
		}
		v.complete = max(v.complete, f.Index)
	}
	if errors.Is(err, errSignedOut) {
		return err
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("follow the fleet: %w", err)
	}
	return nil
}

// frames draws changes as things are now.
func (v *viewer) frames(changes []change) []api.Frame {
	if len(changes) == 0 {
		return nil
	}
	drawn := make([]pair, len(changes))
	v.hub.cluster.View(func(s *fleet.State) {
		for i, c := range changes {
			drawn[i] = pairOf(s, c.event)
		}
	})
	lens, out := v.hub.api.Lens(), make([]api.Frame, 0, len(changes))
	for i, c := range changes {
		e, d := c.event, drawn[i]
		f := api.Frame{Type: string(e.Type), Index: e.Index, Time: lens.Now, TaskID: e.TaskID, MachineID: e.MachineID, Name: e.Name}
		switch e.Type {
		case fleet.EventTaskDeleted, fleet.EventMachineDeleted, fleet.EventImageDeleted:
		case fleet.EventNodeDeleted:
			f.ID = e.ID
		case fleet.EventAudit:
			f.Audit = e.Audit
		case fleet.EventImage:
			img := api.ImageView(e.Image, d.used)
			f.Image = &img
		case fleet.EventNode:
			f.Node = e.Node
		default:
			if d.task == nil && d.machine == nil {
				continue // deleted since; that is told next
			}
			if d.task != nil && e.Type != fleet.EventMachine && e.Type != fleet.EventHardware {
				t := lens.Task(d.task, d.machine)
				f.Task = &t
			}
			if d.machine != nil {
				m := lens.Machine(d.machine, d.latest)
				f.Machine = &m
			}
		}
		out = append(out, f)
	}
	return out
}

// pair is what a change is drawn from.
type pair struct {
	task    *fleet.Task // the event's
	machine *fleet.Machine
	latest  *fleet.Task // the machine's
	used    int
}

func pairOf(s *fleet.State, e fleet.Event) (p pair) {
	if e.Type == fleet.EventImage {
		p.used = api.PictureOf(s).ImageUse()[e.Name]
		return p
	}
	p.task, p.machine = s.Task(e.TaskID), s.Machine(e.MachineID)
	if p.machine != nil {
		p.latest = s.Task(p.machine.TaskID)
	}
	return p
}
