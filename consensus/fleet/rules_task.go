package fleet

import (
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func (b CreateTask) apply(s *State, c Command) (any, error) {
	mac := strings.ToLower(b.TargetMAC)
	if b.ID == "" || s.Task(b.ID) != nil {
		return nil, invalid("id", "a new task needs a new id")
	}
	if err := s.CheckTask(b.TargetMAC, b.Spec); err != nil {
		return nil, err
	}
	t := &Task{ID: b.ID, Generation: 1, RegionID: b.RegionID, TargetMAC: mac, Spec: b.Spec,
		Status: wire.StatusPending, PhoneToken: b.PhoneToken, CreatedAt: c.At, UpdatedAt: c.At}
	if err := s.unprotected(c, mac); err != nil {
		return nil, err
	}
	if err := s.notAsked(mac, c.At); err != nil {
		return nil, err
	}
	t.log(c.At, "task made: install "+b.Spec.ImageName())
	m := s.attach(t)
	if b.Approve != nil {
		if t.Status != wire.StatusPendingApproval {
			return nil, refuse(Conflict, "machine %s has not reported yet, so there is no plan to approve; make the task without approving", mac)
		}
		if err := s.approve(t, *b.Approve, c); err != nil {
			return nil, err
		}
	}
	if m != nil {
		s.putMachine(m, EventMachine)
	}
	s.putTask(t, EventTaskCreated)
	s.noteTaskAct(c, t, "", who(c.Actor)+" asked to install "+b.Spec.ImageName())
	if b.Approve != nil {
		s.noteWord(c, t, c.by(b.Approve.By))
	}
	return t, nil
}

// attach binds a task to its machine if that is known, and gives it the state
// that follows: an agent that waits there can be approved at once. It returns
// the machine as it has to be put.
func (s *State) attach(t *Task) *Machine {
	t.Status, t.MachineID = wire.StatusPending, "" // the one it had may be forgotten by now
	old := s.MachineByMAC(t.TargetMAC)
	if old == nil {
		return nil
	}
	m := *old
	m.TaskID, m.NextBoot, m.NotBooted = t.ID, nil, nil // of which nothing is left but one whose time is over
	if m.Held == nil {
		m.Netboots = 0 // those were for nothing in particular
	}
	if h := t.Spec.NetworkConfig.Hostname; h != "" {
		m.Name = h
	}
	t.MachineID = m.ID
	t.Status = wire.StatusReady
	if m.SessionHash != "" && !m.AgentDone && m.Inventory != nil {
		t.Status = wire.StatusPendingApproval
		s.replan(t, &m)
	}
	return &m
}

func (s *State) task(id string) (*Task, error) {
	t := s.Task(id)
	if t == nil {
		return nil, refuse(NotFound, "there is no task %s", id)
	}
	return t.clone(), nil
}

// apply is a person's decision. Approving binds the hash of the plan that was
// on the screen: any other plan is refused with what has changed.
func (b DecideTask) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if lapsed := c.guarded() && t.Lapsed(c.At); lapsed {
		t.Status = wire.StatusPendingApproval // as it would be, had its machine asked
		t.Approval = nil
	}
	if t.Approval != nil && t.Approval.Approved == b.Approved && t.Approval.PlanHash == b.PlanHash &&
		(t.Status == wire.StatusApproved || t.Status == wire.StatusRejected) {
		return t, nil // the same decision told twice
	}
	if t.Status != wire.StatusPendingApproval && t.Status != wire.StatusNeedsReview {
		return nil, refuse(Conflict, "task %s is %s: there is nothing to approve or reject", t.ID, t.Status)
	}
	if b.Approved {
		if err := s.approve(t, Decision{PlanHash: b.PlanHash, Notes: b.Notes, By: b.By, ConfirmSerial: b.ConfirmSerial, CheckSerial: b.CheckSerial}, c); err != nil {
			return nil, err
		}
	} else {
		t.Approval = &Approval{By: b.By, Notes: b.Notes, PlanHash: b.PlanHash, At: c.At, From: c.From}
		t.Status = wire.StatusRejected
		t.FinishedAt = c.At
		t.log(c.At, "rejected by "+b.By)
	}
	s.putTask(t, EventStatus)
	if b.Approved {
		s.noteWord(c, t, b.By)
	} else {
		s.noteTask(c, t, b.By, who(b.By)+" rejected the plan")
	}
	return t, nil
}

func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}

func (b CancelTask) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Status == wire.StatusCancelled {
		return t, nil
	}
	if !t.Open() {
		return nil, refuse(Conflict, "task %s is %s already", t.ID, t.Status)
	}
	text, did := "cancelled by "+b.By, " cancelled the task"
	if t.Status == wire.StatusInstalling {
		text += " while the disk was being written; the disk does not boot"
		did += " while the disk was being written"
	}
	t.Status = wire.StatusCancelled
	t.FinishedAt = c.At
	t.log(c.At, text)
	s.putTask(t, EventStatus)
	s.noteTask(c, t, b.By, who(b.By)+did)
	return t, nil
}

func (b RetryTask) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	t, err := s.task(b.TaskID)
	if err != nil {
		return nil, err
	}
	if t.Open() || t.Status == wire.StatusCompleted {
		return nil, refuse(Conflict, "task %s is %s: only an ended task that did not complete can be retried", t.ID, t.Status)
	}
	if open := s.TaskForMAC(t.TargetMAC); open != nil {
		return nil, refuse(Conflict, "machine %s already has open task %s", t.TargetMAC, open.ID)
	}
	s.keepEvidence(c, t)
	if err := s.unprotected(c, t.TargetMAC); err != nil {
		return nil, err
	}
	if err := s.notAsked(t.TargetMAC, c.At); err != nil {
		return nil, err
	}
	t.Generation++
	t.PhoneToken = b.PhoneToken
	t.Approval, t.Error, t.Progress, t.CameUp = nil, nil, nil, nil
	t.FirstWord, t.Review, t.Netboots, t.Held = nil, "", 0, nil
	t.Plan, t.FormerPlan, t.PlanHash, t.Problem, t.InstallBootID = nil, nil, "", "", ""
	t.ReportedAt, t.WasUnfinished = time.Time{}, false
	t.StartedAt, t.FinishedAt = time.Time{}, time.Time{}
	t.log(c.At, "tried again by "+b.By)
	if m := s.attach(t); m != nil {
		s.putMachine(m, EventMachine)
	}
	s.putTask(t, EventStatus)
	s.noteTask(c, t, b.By, who(b.By)+" had the task tried again")
	return t, nil
}

func (b DeleteTask) apply(s *State, c Command) (any, error) {
	t := s.Task(b.TaskID)
	if t == nil {
		return nil, refuse(NotFound, "there is no task %s", b.TaskID)
	}
	if t.Status == wire.StatusInstalling || t.Status == wire.StatusApproved {
		return nil, refuse(Conflict, "task %s is %s; cancel it before you delete it", t.ID, t.Status)
	}
	s.keepEvidence(c, t)
	delete(s.tasks, t.ID)
	s.past.remove(t.ID)
	delete(s.byToken, t.PhoneToken)
	if s.byTarget[t.TargetMAC] == t.ID {
		delete(s.byTarget, t.TargetMAC)
	}
	s.events = append(s.events, Event{Type: EventTaskDeleted, TaskID: t.ID, MachineID: t.MachineID})
	if m := s.machines[t.MachineID]; m != nil && m.TaskID == t.ID {
		changed := *m
		changed.TaskID = ""
		s.putMachine(&changed, EventMachine)
	}
	s.noteTaskAct(c, t, "", who(c.Actor)+" deleted the task")
	return nil, nil
}
