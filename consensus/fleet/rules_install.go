package fleet

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// agentOf finds the task an agent speaks of and its machine. The words have to
// come from the agent that reported last, and be about the task's generation.
func (s *State) agentOf(taskID string, generation uint64, session string) (*Task, *Machine, error) {
	t, err := s.task(taskID)
	if err != nil {
		return nil, nil, err
	}
	m := s.machines[t.MachineID]
	if m == nil {
		return nil, nil, refuse(NotFound, "task %s has no machine", t.ID)
	}
	if session == "" || m.SessionHash != session {
		return nil, nil, refuse(Conflict, "task %s belongs to another boot of machine %s", t.ID, m.Name)
	}
	if t.Generation != generation {
		return nil, nil, refuse(Conflict, "the grant is for generation %d of task %s, which is at %d", generation, t.ID, t.Generation)
	}
	return t, m, nil
}

// apply is the compare-and-set before the first destructive byte.
func (b StartInstall) apply(s *State, c Command) (any, error) {
	t, m, err := s.agentOf(b.TaskID, b.Generation, b.SessionHash)
	if err != nil {
		return nil, err
	}
	if err := b.checkEpoch(s, t); err != nil && c.guarded() {
		return nil, err
	}
	if t.Status == wire.StatusInstalling && t.InstallBootID == m.BootID {
		return t, nil // the answer was lost, the question is repeated
	}
	if t.Status != wire.StatusApproved {
		return nil, refuse(Conflict, "task %s is %s, not approved", t.ID, t.Status)
	}
	if b.PlanHash != t.PlanHash || t.Approval == nil || t.Approval.PlanHash != t.PlanHash {
		return nil, &Error{Code: Precondition, Message: "the plan of task " + t.ID + " is not the one that was approved"}
	}
	if err := b.checkEpoch(s, t); err != nil {
		return nil, err // here, as logs of before have it
	}
	if c.guarded() && t.Lapsed(c.At) {
		s.lapse(t, c)
		return nil, refuse(Precondition, "the approval of task %s has ended, %s after it was given; approve it again", t.ID, minutes(ApprovalLife))
	}
	t.Status = wire.StatusInstalling
	t.InstallBootID = m.BootID
	t.StartedAt = c.At
	t.Progress = &wire.Progress{Stage: wire.StagePartitioning}
	t.log(c.At, "the agent may erase disk "+t.Plan.Erase.String()+" now")
	changed := *m
	t.WasUnfinished = m.Unfinished
	changed.Unfinished, changed.Erasing, changed.LastBoot = true, nil, nil // what a profile put there has no more to say
	if c.guarded() && !m.Unfinished {
		disk := t.Plan.Erase
		changed.Erasing = &disk
	}
	s.putTask(t, EventStatus)
	s.putMachine(&changed, EventMachine)
	s.noteTask(c, t, "", "the agent was allowed to "+erasing(t)+", as approved by "+who(t.Approval.By))
	return t, nil
}

// checkEpoch refuses a grant of another epoch, also where its install has begun:
// what the agent holds is void, and it is given another.
func (b StartInstall) checkEpoch(s *State, t *Task) error {
	if b.Epoch != 0 && (s.cluster == nil || b.Epoch != s.cluster.Epoch) {
		return &Error{Code: Precondition, Message: fmt.Sprintf("the grant for task %s is of epoch %d, and another has begun since; ask for a new one", t.ID, b.Epoch)}
	}
	return nil
}

// apply takes the newest value of each install. Items that are late, of another
// generation or run backwards are dropped: they may arrive twice and in any order.
func (b Advance) apply(s *State, c Command) (any, error) {
	for _, it := range b.Items {
		old := s.tasks[it.TaskID]
		if old == nil || old.Status != wire.StatusInstalling || old.Generation != it.Generation {
			continue
		}
		if CheckProgress(old, it.Progress) != nil {
			continue
		}
		t := old.clone()
		p := it.Progress
		t.Progress = &p
		t.UpdatedAt = c.At
		if old.Progress == nil || old.Progress.Stage != p.Stage {
			t.log(c.At, string(p.Stage))
		}
		s.tasks[t.ID] = t // it is indexed as old was
		s.events = append(s.events, Event{Type: EventProgress, TaskID: t.ID, MachineID: t.MachineID, Task: t})
	}
	return nil, nil
}

// CheckProgress refuses a progress that cannot follow the task's last one.
func CheckProgress(t *Task, p wire.Progress) error {
	from, to, ok := p.Stage.Span()
	if !ok {
		return invalid("stage", "there is no stage %q", p.Stage)
	}
	if math.IsNaN(p.Percentage) || p.Percentage < from || p.Percentage > to {
		return invalid("percentage", "%v is not in stage %s, which runs from %v to %v", p.Percentage, p.Stage, from, to)
	}
	if v := p.Details.SpeedMbps; math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return invalid("details.speed_mbps", "%v is no speed", v)
	}
	if last := t.Progress; last != nil {
		if slices.Index(wire.Stages, p.Stage) < slices.Index(wire.Stages, last.Stage) || p.Percentage < last.Percentage {
			return refuse(Conflict, "task %s is at %.1f %% already; %.1f %% would run backwards", t.ID, last.Percentage, p.Percentage)
		}
	}
	return nil
}

func (b FinishInstall) apply(s *State, c Command) (any, error) {
	t, m, err := s.agentOf(b.TaskID, b.Generation, b.SessionHash)
	if err != nil {
		return nil, err
	}
	switch {
	case b.Error == nil && t.Status == wire.StatusCompleted, b.Error != nil && t.Status == wire.StatusFailed:
		return t, nil // told twice
	case b.Error != nil && t.Status == wire.StatusApproved:
		// The agent refused before it asked to erase: nothing was written.
	case t.Status != wire.StatusInstalling:
		return nil, refuse(Conflict, "task %s is %s, not installing", t.ID, t.Status)
	case b.Error == nil && (t.Progress == nil || t.Progress.Stage != wire.StageConfiguring):
		return nil, refuse(Conflict, "task %s cannot be complete: it has not been through its last stage", t.ID)
	}
	t.FinishedAt = c.At
	changed := *m
	if b.Error != nil {
		t.Status, t.Error = wire.StatusFailed, b.Error
		t.log(c.At, "failed: "+b.Error.Message)
		if untouched(b.Error.Code) || c.guarded() && b.Error.Untouched {
			changed.Unfinished = m.Unfinished && (t.WasUnfinished || t.StartedAt.IsZero())
		}
		if !changed.Unfinished {
			changed.Erasing = nil
		}
	} else {
		p := *t.Progress
		t.complete(&changed, p, c.At)
		t.log(c.At, "installed; the machine boots its own disk now")
		changed.Inventory = withContents(m.Inventory, t.Plan.Erase.DiskID, wire.Contents{Table: "gpt", OS: t.Plan.Image.Name,
			Marker: &wire.Marker{MachineID: m.ID, TaskID: t.ID, Generation: t.Generation, Image: t.Plan.Image.Digest}})
	}
	changed.AgentDone = b.Error == nil
	s.putTask(t, EventStatus)
	s.putMachine(&changed, EventMachine)
	if b.Error != nil {
		s.noteTask(c, t, "", "the install failed: "+b.Error.Message)
	} else {
		s.noteTask(c, t, "", t.Plan.Image.Name+" was installed")
	}
	return t, nil
}

// complete ends a task with its install done, and says so of its machine.
func (t *Task) complete(m *Machine, p wire.Progress, at time.Time) {
	t.Status, t.FinishedAt = wire.StatusCompleted, at
	p.Percentage, p.Message = 100, "installed"
	t.Progress = &p
	m.Unfinished, m.Erasing, m.LastBoot = false, nil, nil
	m.Installed = &Installed{TaskID: t.ID, Image: t.Plan.Image.Name, Digest: t.Plan.Image.Digest,
		Disk: t.Plan.Erase.DiskID, Hostname: t.Plan.FirstBoot.Hostname, At: at}
	if h := t.Plan.FirstBoot.Hostname; h != "" {
		m.Name = h
	}
}

// withContents is the inventory with what we know to lie on a disk now: until the
// agent looks again, nobody may be told that a disk we have written is blank.
func withContents(inv *wire.Inventory, disk wire.DiskID, c wire.Contents) *wire.Inventory {
	if inv == nil {
		return nil
	}
	out := *inv
	out.Disks = slices.Clone(inv.Disks)
	for i := range out.Disks {
		if out.Disks[i].ID() == disk {
			out.Disks[i].Contents = c
		}
	}
	return &out
}

// untouched reports whether an agent that fails with this code has, by contract,
// not written to the disk: it found the difference before the first byte.
func untouched(code string) bool {
	return code == wire.CodePlanMismatch || code == wire.CodeDiskTooSmall || code == wire.CodeDiskBusy
}

// spared reports whether the disk that the machine's unfinished install was allowed
// to erase holds what it did before. Only a disk with a table shows that: its first
// sector is what an install wipes before anything else.
func (m *Machine) spared() bool {
	was := m.Erasing
	if !m.Unfinished || was == nil || was.Contents.Table == "" || was.Contents.NoHead || was.Contents.Unreadable != "" {
		return false
	}
	for _, d := range m.Inventory.Disks {
		if d.ID() == was.DiskID {
			return asJSON(d.Contents) == asJSON(was.Contents)
		}
	}
	return false
}

// spare takes back that the machine's disk does not boot, and says so in the task.
func (s *State) spare(m *Machine, c Command) *Machine {
	text := "disk " + m.Erasing.String() + " holds what it held before the install, which had not begun to erase it"
	changed := *m
	changed.Unfinished, changed.Erasing = false, nil
	s.putMachine(&changed, EventMachine)
	if t, err := s.task(m.TaskID); err == nil {
		t.log(c.At, text)
		s.putTask(t, EventStatus)
	}
	return &changed
}

func (b ReportUp) apply(s *State, c Command) (any, error) {
	old := s.TaskByPhoneToken(b.PhoneToken)
	if old == nil {
		return s.bootUp(b, c)
	}
	if old.CameUp != nil {
		return old, nil
	}
	if old.Status != wire.StatusCompleted {
		return nil, refuse(Conflict, "task %s is %s, not completed", old.ID, old.Status)
	}
	t := old.clone()
	t.CameUp = &CameUp{At: c.At, Hostname: b.Hostname, IP: b.IP}
	t.log(c.At, "the installed system came up from its own disk as "+quoteOrNone(b.Hostname))
	s.putTask(t, EventStatus)
	if m := s.machines[t.MachineID]; m != nil && m.Installed != nil && m.Installed.TaskID == t.ID {
		changed := *m
		in := *m.Installed
		in.CameUp = c.At
		changed.Installed = &in
		s.putMachine(&changed, EventMachine)
	}
	return t, nil
}
