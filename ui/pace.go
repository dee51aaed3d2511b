package ui

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// tellPace sends what may wait: progress of the rows on the screen, and if all,
// of the others too, with the counts and who is lost.
func (v *viewer) tellPace(ctx context.Context, all bool) error {
	// Changes first, so that no progress is told of a task not heard of.
	if err := v.tellChanges(ctx); err != nil {
		return err
	}
	due, seen, importing := v.due(all)
	if err := v.tellProgress(ctx, due); err != nil {
		return err
	}
	now := v.hub.cfg.API.Now()
	for _, s := range seen {
		if err := v.tell(ctx, api.Frame{Type: api.FrameSighting, Time: now, At: s.At, MAC: s.MAC, Kind: s.Kind, Text: s.Text, Step: s.Step, Stall: s.Stall, Hint: s.Hint, Seen: s.Node}); err != nil {
			return err
		}
	}
	for _, p := range importing {
		if err := v.tell(ctx, api.Frame{Type: api.FrameImport, Time: now, Name: p.Name, Import: &p}); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	return v.tellPulse(ctx)
}

// due takes out what is to be told now.
func (v *viewer) due(all bool) (progress []*fleet.Task, seen []api.Sighting, importing []api.ImportProgress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, t := range v.progress {
		if all || v.wants.onScreen(t.MachineID) {
			progress = append(progress, t)
			delete(v.progress, id)
		}
	}
	seen, v.seen = v.seen, nil
	importing = slices.Collect(maps.Values(v.importing))
	clear(v.importing)
	return progress, seen, importing
}

// tellProgress sends the newest progress of tasks: one by itself, several in one
// frame. The index is that of the changes told before: progress needs none of
// its own, since a viewer that resumes is told where every install is.
func (v *viewer) tellProgress(ctx context.Context, tasks []*fleet.Task) error {
	if len(tasks) == 0 {
		return nil
	}
	lens := v.hub.api.Lens()
	items := make([]api.ProgressItem, 0, len(tasks))
	for _, t := range tasks {
		// Asked for again here: what the log says may be behind what was told.
		p := lens.Progress(t)
		phase, text := api.TaskPhase(t, p)
		items = append(items, api.ProgressItem{TaskID: t.ID, MachineID: t.MachineID, Progress: p, Phase: phase, PhaseText: text})
	}
	f := api.Frame{Type: api.FrameProgressBatch, Index: v.complete, Time: lens.Now, Items: items}
	if len(items) == 1 {
		i := items[0]
		f = api.Frame{Type: string(fleet.EventProgress), Index: v.complete, Time: lens.Now, TaskID: i.TaskID, MachineID: i.MachineID,
			Progress: i.Progress, Phase: i.Phase, PhaseText: i.PhaseText}
	}
	return v.tell(ctx, f)
}

// tellPulse sends the counts and the cluster if they are others now, and the
// machines that were lost or found.
func (v *viewer) tellPulse(ctx context.Context) error {
	p := v.hub.pulse()
	before, after := v.stats, p.stats
	before.Index, after.Index = 0, 0
	if !reflect.DeepEqual(before, after) {
		v.stats = p.stats
		if err := v.tell(ctx, api.Frame{Type: api.FrameStats, Index: v.complete, Time: v.hub.cfg.API.Now(), Stats: &p.stats}); err != nil {
			return err
		}
	}
	if v.cluster.news(p.cluster) {
		if err := v.tell(ctx, api.Frame{Type: api.FrameCluster, Index: v.complete, Time: v.hub.cfg.API.Now(), Cluster: p.cluster}); err != nil {
			return err
		}
	}
	var moved []change
	for id, text := range p.lost {
		if v.lost[id] != text {
			moved = append(moved, movedBy(id))
		}
	}
	for id := range v.lost {
		if _, still := p.lost[id]; !still {
			moved = append(moved, movedBy(id))
		}
	}
	v.lost = p.lost
	for _, f := range v.frames(moved) {
		if f.Index = v.complete; !v.wanted(f) {
			continue
		}
		if err := v.tell(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// taskMark tells the tasks of a pulse from its machines.
const taskMark = "task "

func movedBy(id string) change {
	if task, ok := strings.CutPrefix(id, taskMark); ok {
		return change{event: fleet.Event{Type: fleet.EventStatus, TaskID: task}}
	}
	return change{event: fleet.Event{Type: fleet.EventMachine, MachineID: id}}
}

// wanted says whether the viewer has asked for what a pulse has moved.
func (v *viewer) wanted(f api.Frame) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.Machine != nil {
		return v.wants.has(f.Machine.TaskID, f.MachineID)
	}
	return f.Task != nil && v.wants.has(f.TaskID, f.Task.MachineID)
}

// sighting keeps what a machine did until the next pace.
func (v *viewer) sighting(s api.Sighting) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.seen) == maxSightings {
		v.seen = v.seen[1:]
	}
	v.seen = append(v.seen, s)
}

// imports keeps how far an import is until the next pace.
func (v *viewer) imports(p api.ImportProgress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.importing[p.Name] = p
}
