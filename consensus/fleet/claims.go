package fleet

import (
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// UsedClaim is a claim code that an agent has begun its session with. The code
// itself is checked by the node that is shown it and costs the log nothing; that it
// was used is agreed on, or each node would let it be used once. It is kept for
// a day after the code has expired: whether it has is a node's own clock to say.
type UsedClaim struct {
	ID          string    `json:"id"`
	SessionHash string    `json:"session_hash"`
	MachineID   string    `json:"machine_id"`
	ExpiresAt   time.Time `json:"expires_at"`
	// Doubled is set when somebody else has shown the code as well: the alarm is
	// given once, however often that is tried.
	Doubled bool `json:"doubled,omitempty"`
}

const (
	// maxClaims bounds the codes that are remembered; the oldest are forgotten first.
	maxClaims = maxMachines
	// claimRest is for how long after its end a code is remembered. If one node with a
	// fast clock had it forgotten at its end, the others would let it be used again.
	claimRest = 24 * time.Hour
)

// UsedClaim is a claim code that was used lately, or nil.
func (s *State) UsedClaim(id string) *UsedClaim { return s.claims[id] }

// checkClaim refuses a code that another agent has used. An agent may repeat the
// report it began its session with, for as long as the session is its machine's:
// if another has reported for the machine since, there are two of them.
func (s *State) checkClaim(b ReportMachine, c Command) error {
	if b.Claim == "" {
		return nil
	}
	used := s.claims[b.Claim]
	switch {
	case b.SessionHash == "":
		return invalid("session_hash", "a claim code begins a session, and there is none")
	case c.At.After(b.ClaimExpires):
		return refuse(Precondition, "the claim code has expired; start the machine anew")
	case used == nil && s.liveClaims(c.At) >= maxClaims:
		return refuse(Conflict, "%d machines have reported in the last minutes and there is no room for another; try again later", maxClaims)
	case used == nil:
		return nil
	}
	m := s.machines[used.MachineID]
	if used.SessionHash == b.SessionHash && (m == nil || m.SessionHash == b.SessionHash) {
		return nil
	}
	if !used.Doubled && m != nil {
		u := *used
		u.Doubled = true
		s.claims[u.ID] = &u
		doubled := *m
		s.alarm(c, &doubled, b.SessionHash)
	}
	return refuse(Conflict, "the claim code of this boot was used by another agent; start the machine anew, and look which machines there are with its ids")
}

// alarm holds a machine's approval back: two agents say that they are this
// machine, and at least one is wrong. The machine is the caller's own copy; the
// session, of who should not be there, gives no alarm again.
func (s *State) alarm(c Command, m *Machine, session string) {
	m.Doubled = c.At
	if former := without(m.FormerSessions, session); len(former) < len(m.FormerSessions) {
		m.FormerSessions = former
	}
	s.putMachine(m, EventMachine)
	const what = "a second agent reported as this machine: either there are two with its ids, or somebody pretends to be it"
	did := what
	if t := s.tasks[m.TaskID]; t != nil && t.Open() {
		t = t.clone()
		if t.Status == wire.StatusApproved {
			t.Status, t.Approval, t.Review = wire.StatusNeedsReview, nil, what
			did += "; the approval of task " + t.ID + " is held until a person looks again"
		}
		t.log(c.At, did)
		s.putTask(t, EventStatus)
	}
	s.note(c, AuditRecord{Machine: m.ID, Task: m.TaskID, What: "ALARM: machine " + m.Name + ": " + did})
	s.dropErasing(m, c, what)
}

// liveClaims counts the codes that were used and could be shown again.
func (s *State) liveClaims(at time.Time) int {
	n := len(s.claims)
	if n < maxClaims {
		return n // as good as any
	}
	for _, u := range s.claims {
		if at.After(u.ExpiresAt) {
			n--
		}
	}
	return n
}

// useClaim remembers with which code a session was begun, and forgets those that
// are of no use to anybody any more.
func (s *State) useClaim(b ReportMachine, m *Machine, c Command) {
	rest := claimRest
	if !c.guarded() {
		rest = 0
	}
	var oldest *UsedClaim
	for id, u := range s.claims {
		switch {
		case c.At.After(u.ExpiresAt.Add(rest)):
			delete(s.claims, id)
		case oldest == nil || u.ExpiresAt.Before(oldest.ExpiresAt) || u.ExpiresAt.Equal(oldest.ExpiresAt) && id < oldest.ID:
			oldest = u
		}
	}
	if b.Claim == "" {
		return
	}
	if len(s.claims) >= maxClaims && s.claims[b.Claim] == nil {
		delete(s.claims, oldest.ID)
	}
	s.claims[b.Claim] = &UsedClaim{ID: b.Claim, SessionHash: b.SessionHash, MachineID: m.ID, ExpiresAt: b.ClaimExpires}
}

// checkRenewal lets an agent go on with the session it has, and as the machine it
// was: its key proves that it is the agent, and nothing about any other machine.
func (s *State) checkRenewal(b ReportMachine, known *Machine) error {
	if !b.Renew {
		return nil
	}
	m := s.MachineBySession(b.SessionHash)
	switch {
	case m == nil:
		return refuse(Precondition, "nobody knows this session any more; start the machine anew")
	case known != m:
		return refuse(Precondition, "the session is machine %s's, and what was reported is not; start the machine anew", m.Name)
	case m.BootID != b.BootID:
		return refuse(Precondition, "the session is of another boot of machine %s; start the machine anew", m.Name)
	}
	return nil
}
