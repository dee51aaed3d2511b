package fleet

import (
	"fmt"
	"time"
)

// A machine whose agent dies before it can say a word starts it again, and again.
// After a few times it is held: it waits, visibly, until a person has looked.

// maxNetboots is how often a machine is told to start the agent without a word
// from it.
const maxNetboots = 5

// Held says why a machine is kept from netbooting, and since when.
type Held struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
}

// ReleaseHold lets a machine that is held netboot again: the machine named, or the
// one that the task waits for when it was never seen. The result is the *Machine
// or *Task.
type ReleaseHold struct {
	MachineID string `json:",omitempty"`
	TaskID    string `json:",omitempty"`
	By        string
}

func (ReleaseHold) commandType() string { return "release_hold" }

// holdReason is shown by firmware, which takes few characters and no long line.
var holdReason = fmt.Sprintf("told %d times to start the agent, which never reported; it waits until somebody releases it", maxNetboots)

// countNetboot counts that the machine was told to start the agent, and holds it
// when that has been in vain too often. It reports whether it is held.
func (s *State) countNetboot(mac string, c Command) bool {
	if old := s.MachineByMAC(mac); old != nil {
		if old.Held != nil {
			return true
		}
		m := *old
		m.Netboots, m.Held = counted(m.Netboots, c.At)
		if s.TaskForMAC(mac) == nil && !m.Unfinished {
			m.Held = nil // nobody wants anything of it: it may boot its disk
		}
		s.putMachine(&m, EventMachine)
		if m.Held != nil {
			s.note(c, AuditRecord{Machine: m.ID, What: "machine " + m.Name + " is held: " + m.Held.Reason})
		}
		return m.Held != nil
	}
	old := s.TaskForMAC(mac)
	if old == nil || old.Held != nil {
		return old != nil
	}
	t := old.clone()
	if t.Netboots, t.Held = counted(t.Netboots, c.At); t.Held != nil {
		t.log(c.At, "the machine is held: "+t.Held.Reason)
	}
	s.putTask(t, EventStatus)
	if t.Held != nil {
		s.noteTask(c, t, "", "it is held: "+t.Held.Reason)
	}
	return t.Held != nil
}

// IsHeld reports whether it is on record that the machine is held.
func (s *State) IsHeld(mac string) bool {
	if m := s.MachineByMAC(mac); m != nil {
		return m.Held != nil
	}
	t := s.TaskForMAC(mac)
	return t != nil && t.Held != nil
}

// counted is the count after one more netboot, and the hold if that was too many.
func counted(n int, at time.Time) (int, *Held) {
	if n >= maxNetboots {
		return n, &Held{Reason: holdReason, Since: at}
	}
	return n + 1, nil
}

func (b ReleaseHold) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	if b.MachineID == "" {
		t, err := s.task(b.TaskID)
		switch {
		case err != nil:
			return nil, err
		case t.Held == nil && t.Netboots < maxNetboots:
			return t, nil
		}
		t.Held, t.Netboots = nil, 0
		t.log(c.At, "released by "+who(b.By)+"; the machine may netboot again")
		s.putTask(t, EventStatus)
		s.noteTask(c, t, b.By, who(b.By)+" let it netboot again")
		return t, nil
	}
	old := s.machines[b.MachineID]
	switch {
	case old == nil:
		return nil, refuse(NotFound, "there is no machine %s", b.MachineID)
	case old.Held == nil && old.Netboots < maxNetboots:
		return old, nil
	}
	m := *old
	m.Held, m.Netboots = nil, 0
	s.putMachine(&m, EventMachine)
	s.note(c, AuditRecord{By: b.By, Machine: m.ID, What: who(b.By) + " let machine " + m.Name + " netboot again"})
	return &m, nil
}
