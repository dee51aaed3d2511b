package fleet

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Evidence says what one install did to a machine: which disk was erased, on whose
// word, what was written and how it ended. It does not depend on how far back the
// audit reaches.
type Evidence struct {
	MachineID  string   `json:"machine_id"`
	TaskID     string   `json:"task_id"`
	Generation uint64   `json:"generation"`
	Serial     string   `json:"serial,omitempty"` // of the machine, then
	Disks      []string `json:"disks"`            // serial, else WWN, of those that were erased
	Held       string   `json:"held,omitempty"`   // the system that lay on it before, as far as it was known
	PlanHash   string   `json:"plan_hash"`

	ApprovedBy   string    `json:"approved_by,omitempty"`
	ApprovedFrom string    `json:"approved_from,omitempty"` // address, or "socket"
	ApprovedAt   time.Time `json:"approved_at,omitzero"`

	Image  string `json:"image"` // name
	Digest string `json:"digest"`

	StartedAt time.Time       `json:"started_at"` // first destructive byte allowed
	EndedAt   time.Time       `json:"ended_at,omitzero"`
	Result    wire.Status     `json:"result"`
	Error     *wire.TaskError `json:"error,omitempty"`
	CameUp    *CameUp         `json:"came_up,omitempty"`
}

const (
	// maxEvidence is how many installs of a machine are told.
	maxEvidence = 20
	// maxKeptEvidence is how many are kept in all of those whose tasks are gone.
	maxKeptEvidence = 10_000
	// evidenceTasks is how many tasks of a machine are looked at: people cancel some
	// before anything is erased.
	evidenceTasks = 200
)

// evidenceOf is what a task has done to its disk; nil if it never might.
func evidenceOf(t *Task) *Evidence {
	if t.StartedAt.IsZero() || t.Plan == nil {
		return nil
	}
	e := &Evidence{MachineID: t.MachineID, TaskID: t.ID, Generation: t.Generation, Serial: t.Plan.SystemSerial,
		Disks: []string{t.Plan.Erase.String()}, Held: t.Plan.Erase.Contents.OS, PlanHash: t.PlanHash, Image: t.Plan.Image.Name, Digest: t.Plan.Image.Digest,
		StartedAt: t.StartedAt, EndedAt: t.FinishedAt, Result: t.Status, Error: t.Error, CameUp: t.CameUp}
	if a := t.Approval; a != nil {
		e.ApprovedBy, e.ApprovedFrom, e.ApprovedAt = a.By, a.From, a.At
	}
	return e
}

// keepEvidence keeps what a task has done before a rule forgets it. All other
// evidence stands in the tasks themselves.
func (s *State) keepEvidence(c Command, t *Task) {
	e := evidenceOf(t)
	if e == nil || !chained(c) {
		return
	}
	s.addEvidence(e)
}

// addEvidence keeps it, and not more of one machine or of all than there is room for.
func (s *State) addEvidence(e *Evidence) {
	s.evidence = append(s.evidence, e)
	mine := 0
	for _, old := range s.evidence {
		if old.MachineID == e.MachineID {
			mine++
		}
	}
	if mine > maxEvidence {
		i := slices.IndexFunc(s.evidence, func(old *Evidence) bool { return old.MachineID == e.MachineID })
		s.evidence = slices.Delete(slices.Clone(s.evidence), i, i+1)
	}
	if n := len(s.evidence) - maxKeptEvidence; n > 0 {
		s.evidence = s.evidence[n:]
	}
	s.events = append(s.events, Event{Type: EventEvidence, ID: e.TaskID, Evidence: e})
}

// Evidence gives the newest installs of a machine, the newest first, also of one
// that was forgotten.
func (s *State) Evidence(machineID string) []*Evidence {
	var out []*Evidence
	for _, e := range s.evidence {
		if e.MachineID == machineID {
			out = append(out, e)
		}
	}
	for _, t := range s.TaskPage(TaskQuery{MachineID: machineID, Limit: evidenceTasks}).Tasks() {
		if e := evidenceOf(t); e != nil {
			out = append(out, e)
		}
	}
	slices.SortStableFunc(out, func(a, b *Evidence) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(b.TaskID, a.TaskID), cmp.Compare(b.Generation, a.Generation))
	})
	return out[:min(len(out), maxEvidence)]
}

func (s *State) restoreEvidence(e *Evidence) error {
	switch {
	case e.MachineID == "" || e.TaskID == "" || e.StartedAt.IsZero() || len(e.Disks) == 0:
		return errors.New("an install is kept that says not what was erased where and when")
	case len(s.evidence) == maxKeptEvidence:
		return errors.New("more installs are kept than there may be")
	}
	s.evidence = append(s.evidence, e)
	return nil
}
