package api

import (
	"maps"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Picture is what lies in the fleet's state at one index: values that never
// change, gathered under the lock to be drawn outside of it.
type Picture struct {
	Index    uint64
	Machines []*fleet.Machine // in the order first seen
	Tasks    []*fleet.Task    // those that matter and the newest of the others, in the order made
	Images   []*fleet.Image   // by name
	Nodes    []*fleet.Node

	machine map[string]*fleet.Machine
	task    map[string]*fleet.Task
	counts  map[wire.Status]int // of all tasks
}

// PictureOf takes the picture.
func PictureOf(s *fleet.State) *Picture {
	p := &Picture{Index: s.Index(), Machines: s.Machines(), Tasks: s.RecentTasks(), Images: s.Images(), Nodes: s.Nodes(), counts: s.TaskCounts()}
	p.machine = make(map[string]*fleet.Machine, len(p.Machines))
	for _, m := range p.Machines {
		p.machine[m.ID] = m
	}
	p.task = make(map[string]*fleet.Task, len(p.Tasks))
	for _, t := range p.Tasks {
		p.task[t.ID] = t
	}
	return p
}

// Machine by id, or nil.
func (p *Picture) Machine(id string) *fleet.Machine { return p.machine[id] }

// Task by id, or nil; of those that are long past there is none.
func (p *Picture) Task(id string) *fleet.Task { return p.task[id] }

// ImageUse counts, by name, the open tasks that want an image and the machines
// that run it.
func (p *Picture) ImageUse() map[string]int {
	use := map[string]int{}
	for _, t := range p.Tasks {
		if t.Open() {
			use[t.Spec.ImageName()]++
		}
	}
	for _, m := range p.Machines {
		if m.Installed != nil {
			use[m.Installed.Image]++
		}
	}
	return use
}

// Count is the fleet in numbers. Every phase is named, also with nobody in it.
func (l Lens) Count(p *Picture) Stats {
	st := Stats{Machines: make(map[Phase]int, len(phases)), Tasks: maps.Clone(p.counts), Index: p.Index, Images: len(p.Images)}
	for _, phase := range phases {
		st.Machines[phase] = 0
	}
	for _, m := range p.Machines {
		t := p.Task(m.TaskID)
		phase := PhaseLost
		if !l.Lost(m, t) {
			// The log knows every change of stage, and phases need no more.
			var progress *wire.Progress
			if t != nil {
				progress = t.Progress
			}
			phase, _ = machinePhase(m, t, progress)
		}
		st.Machines[phase]++
		if phase == PhaseWaiting || phase == PhaseFailed || phase == PhaseLost {
			st.NeedsYou++
		}
	}
	return st
}
