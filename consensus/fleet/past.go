package fleet

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// Past tasks have ended and are no machine's latest any more. They are looked at
// seldom and there are many: 100,000 of them as values fill 300 MB. So all but
// the newest are kept packed, in memory and in snapshots, and Tasks gives them
// only to those who ask for everything.

// unpackedPast is how many past tasks, the newest, are kept as they are: screens
// show them.
const unpackedPast = 256

// pastTask is a past task, with what is asked for without unpacking it. Like
// every value of the state it is never changed.
type pastTask struct {
	ID         string      `json:"id"`
	Status     wire.Status `json:"status"`
	RegionID   string      `json:"region_id,omitempty"`
	MachineID  string      `json:"-"` // stands with the pack
	PhoneToken string      `json:"phone_token,omitempty"`

	task *Task // all of it; nil if that is in pack
	pack *pack
}

func newPast(t *Task) *pastTask {
	return &pastTask{ID: t.ID, Status: t.Status, RegionID: t.RegionID, MachineID: t.MachineID, PhoneToken: t.PhoneToken, task: t}
}

// full is the task itself.
func (t *pastTask) full() *Task {
	if t.task != nil {
		return t.task
	}
	return t.from(t.pack.lines())
}

// pastTasks are in the order of their ids. The newest are unpacked, all
// others packed, whatever the order they came in: equal states give equal snapshots.
type pastTasks struct {
	list     []*pastTask
	unpacked int // how many of the newest are
	packs
}

func (p *pastTasks) place(id string) (int, bool) {
	return slices.BinarySearchFunc(p.list, id, func(t *pastTask, id string) int { return strings.Compare(t.ID, id) })
}

// get gives a past task by its id, or nil.
func (p *pastTasks) get(id string) *pastTask {
	if i, ok := p.place(id); ok {
		return p.list[i]
	}
	return nil
}

func (p *pastTasks) add(t *Task) {
	i, _ := p.place(t.ID)
	p.list = slices.Insert(p.list, i, newPast(t))
	p.tidy(i)
	p.tidy(len(p.list) - p.unpacked - 1)
}

func (p *pastTasks) remove(id string) {
	i, ok := p.place(id)
	if !ok {
		return
	}
	if t := p.list[i]; t.pack != nil {
		p.put(p.packs.remove(t))
	}
	p.list = slices.Delete(p.list, i, i+1)
	p.tidy(len(p.list) - p.unpacked)
}

// tidy packs or unpacks the task at a place, as the place asks for.
func (p *pastTasks) tidy(i int) {
	if i < 0 || i >= len(p.list) {
		return
	}
	t := p.list[i]
	if old := i < len(p.list)-p.unpacked; old && t.pack == nil {
		p.put(p.packs.add(t))
	} else if !old && t.pack != nil {
		p.put(p.packs.remove(t))
		p.list[i] = newPast(t.full())
	}
}

// put gives the list those that are packed in another way now.
func (p *pastTasks) put(changed []*pastTask) {
	for _, t := range changed {
		i, _ := p.place(t.ID)
		p.list[i] = t
	}
}

// restored puts a list as it was read in order.
func (p *pastTasks) restored() error {
	slices.SortStableFunc(p.list, func(a, b *pastTask) int { return strings.Compare(a.ID, b.ID) })
	for i, t := range p.list {
		if i > 0 && p.list[i-1].ID == t.ID {
			return fmt.Errorf("read snapshot: task %q is there twice", t.ID)
		}
	}
	for i := range p.list {
		p.tidy(i)
	}
	return nil
}

// isPast reports whether nobody waits for the task any more.
func (s *State) isPast(t *Task) bool {
	m := s.machines[t.MachineID]
	return !t.Open() && (m == nil || m.TaskID != t.ID)
}

// settle puts a task where it belongs after it or its machine has changed.
func (s *State) settle(id string) {
	if t := s.tasks[id]; t != nil {
		if s.isPast(t) {
			delete(s.tasks, id)
			s.past.add(t)
		}
		return
	}
	if p := s.past.get(id); p != nil {
		if m := s.machines[p.MachineID]; m != nil && m.TaskID == id {
			s.tasks[id] = p.full()
			s.past.remove(id)
		}
	}
}

// CurrentTasks are those somebody may wait for, sorted by id: the open ones and
// the last one of each machine.
func (s *State) CurrentTasks() []*Task { return sorted(s.tasks) }

// RecentTasks are the current ones and the newest of those that are past, sorted
// by id: what screens show.
func (s *State) RecentTasks() []*Task {
	return s.withPast(s.past.list[max(0, len(s.past.list)-s.past.unpacked):])
}

// Tasks are all tasks, sorted by id, which is the order they were made in. They
// may be very many: RecentTasks, TaskCounts and TaskPage serve most who ask.
func (s *State) Tasks() []*Task { return s.withPast(s.past.list) }

func (s *State) withPast(past []*pastTask) []*Task {
	out := append(s.CurrentTasks(), unpack(past)...)
	slices.SortFunc(out, func(a, b *Task) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// TaskCounts says how many tasks there are in each status.
func (s *State) TaskCounts() map[wire.Status]int {
	out := map[wire.Status]int{}
	for _, t := range s.tasks {
		out[t.Status]++
	}
	for _, p := range s.past.list {
		out[p.Status]++
	}
	return out
}

// TaskQuery narrows down a list of tasks. What is empty narrows nothing.
type TaskQuery struct {
	Status    wire.Status
	RegionID  string
	MachineID string
	Before    string // only ids that are smaller: the page after the one that ended there
	Limit     int
}

// TaskPage is a part of the list of tasks, the newest first.
type TaskPage struct {
	More  bool // there are older ones
	tasks []*pastTask
}

// Tasks are those on the page. Unpacking takes a while, so it is not for who
// holds the state's lock.
func (p TaskPage) Tasks() []*Task { return unpack(p.tasks) }

// MachineIDs are the machines of those on the page, where they are known.
func (p TaskPage) MachineIDs() []string {
	out := make([]string, len(p.tasks))
	for i, t := range p.tasks {
		out[i] = t.MachineID
	}
	return out
}

// TaskPage gives the newest tasks the query asks for.
func (s *State) TaskPage(q TaskQuery) (page TaskPage) {
	current, past := s.CurrentTasks(), s.past.list
	for len(current)+len(past) > 0 {
		var t *pastTask
		if n, m := len(current)-1, len(past)-1; m < 0 || n >= 0 && current[n].ID > past[m].ID {
			t, current = newPast(current[n]), current[:n]
		} else {
			t, past = past[m], past[:m]
		}
		if q.Before != "" && t.ID >= q.Before || q.Status != "" && t.Status != q.Status ||
			q.RegionID != "" && t.RegionID != q.RegionID || q.MachineID != "" && t.MachineID != q.MachineID {
			continue
		}
		if len(page.tasks) == q.Limit {
			page.More = true
			return page
		}
		page.tasks = append(page.tasks, t)
	}
	return page
}
