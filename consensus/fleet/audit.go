package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// AuditRecord says who did what, in a sentence and in words to search for.
//
// Records with a Seq are a chain: each holds the hash of the one before it and its
// own. The hash is the SHA-256 of the record's JSON, as json.Marshal gives it,
// without its last member, "hash"; fields that are empty do not stand in it, so
// that fields may be added. Whoever has kept one hash elsewhere can show that
// nothing before it was changed.
type AuditRecord struct {
	Index   uint64    `json:"index"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"` // a person; empty when a node or machine did it
	What    string    `json:"what"`
	Node    string    `json:"node,omitempty"`    // id
	Machine string    `json:"machine,omitempty"` // id
	Task    string    `json:"task,omitempty"`    // id

	Seq      uint64   `json:"seq,omitempty"`    // counts from 1; 0 before there was a chain
	From     string   `json:"from,omitempty"`   // the address it was asked from, or "socket"
	User     string   `json:"user,omitempty"`   // the name of the user it was done to
	Serial   string   `json:"serial,omitempty"` // of the machine
	Disks    []string `json:"disks,omitempty"`  // serial, else WWN, of those that are erased
	PlanHash string   `json:"plan_hash,omitempty"`
	Image    string   `json:"image,omitempty"`  // digest
	Result   string   `json:"result,omitempty"` // what the task is by it, or how it ended
	Prev     string   `json:"prev,omitempty"`
	Hash     string   `json:"hash,omitempty"` // stays the last
}

const (
	// maxAudit is how many records the state keeps; the oldest go first.
	maxAudit = 10_000
	// maxPlainAudit is how many it keeps before there is a chain: those logs are read
	// for ever, and give what they gave.
	maxPlainAudit = 1000
)

// maxSentence bounds, in bytes, a sentence the state keeps that may quote what
// people or machines have said.
const maxSentence = 1000

// Audit gives the newest n records, the newest first.
func (s *State) Audit(n int) []AuditRecord {
	n = max(0, min(n, len(s.audit)))
	out := make([]AuditRecord, 0, n)
	for i := len(s.audit) - 1; len(out) < n; i-- {
		out = append(out, *s.audit[i])
	}
	return out
}

// AuditTrail gives all records, the oldest first, as VerifyAudit wants them. The
// first holds in Prev the hash of the one that has gone before it.
func (s *State) AuditTrail() []*AuditRecord { return slices.Clone(s.audit) }

// chained reports whether what a command does is told in full. Logs of before know
// less, and give what they gave.
func chained(c Command) bool { return c.Version == 0 || c.Version >= 3 }

// note puts a record into the audit. Index and time are the command's. A log of
// version 1 knew no audit, nor does a snapshot made of it.
func (s *State) note(c Command, r AuditRecord) {
	if c.Version == 1 {
		return
	}
	r.Index, r.At, r.What, r.By = s.index, c.At, cut(r.What), cut(c.by(r.By))
	if r.From == "" {
		r.From = c.From
	}
	r.From = cut(r.From)
	var last *AuditRecord
	if len(s.audit) > 0 {
		last = s.audit[len(s.audit)-1]
	}
	most := maxPlainAudit
	// A chain that has begun goes on, whoever wrote the entry.
	if begun := last != nil && last.Seq > 0; begun || chained(c) {
		r.Seq, most = 1, maxAudit
		if begun {
			r.Seq, r.Prev = last.Seq+1, last.Hash
		}
		r.Hash = r.sum()
	}
	s.audit = append(s.audit, &r)
	if n := len(s.audit) - most; n > 0 {
		s.audit = s.audit[n:]
	}
	s.events = append(s.events, Event{Type: EventAudit, Audit: &r})
}

// noteAct is note for what only newer logs tell.
func (s *State) noteAct(c Command, r AuditRecord) {
	if chained(c) {
		s.note(c, r)
	}
}

// noteTask puts what was done about a task into the audit.
func (s *State) noteTask(c Command, t *Task, by, did string) {
	name := t.TargetMAC
	m := s.machines[t.MachineID]
	if m != nil {
		name = m.Name
	}
	r := AuditRecord{By: by, Machine: t.MachineID, Task: t.ID, What: "machine " + name + ", task " + t.ID + ": " + did}
	if chained(c) {
		r.Result = string(t.Status)
		if m != nil {
			r.Serial = m.IDs.Serial
		}
		if t.Plan != nil {
			r.Disks, r.PlanHash, r.Image = []string{t.Plan.Erase.String()}, t.PlanHash, t.Plan.Image.Digest
		}
	}
	s.note(c, r)
}

// noteTaskAct is noteTask for what only newer logs tell.
func (s *State) noteTaskAct(c Command, t *Task, by, did string) {
	if chained(c) {
		s.noteTask(c, t, by, did)
	}
}

// noteMachine puts what a person did to a machine into the audit, unless the log
// is of before.
func (s *State) noteMachine(c Command, m *Machine, did string) {
	s.noteAct(c, AuditRecord{Machine: m.ID, Serial: m.IDs.Serial, What: "machine " + m.Name + ": " + who(c.Actor) + did})
}

// answered says how a person has settled a question.
func answered(yes bool) string {
	if yes {
		return " said that the machine that raised the question is this one"
	}
	return " said that the machine that raised the question is another"
}

// sum is what the record's Hash has to be.
func (r AuditRecord) sum() string {
	r.Hash = ""
	sum := sha256.Sum256([]byte(asJSON(r)))
	return hex.EncodeToString(sum[:])
}

// VerifyAudit reads records, the oldest first, and names the first that is not
// what was written, or not where it was. The first may follow others that are not
// given; records of before there was a chain may come first and prove nothing.
func VerifyAudit(records []*AuditRecord) error {
	var last *AuditRecord
	for _, r := range records {
		if err := r.whole(); err != nil {
			return err
		}
		if err := r.follows(last); err != nil {
			return err
		}
		last = r
	}
	return nil
}

func (r *AuditRecord) broken(why string) error {
	return fmt.Errorf("the audit is broken at record %d (%s, log entry %d, %.100q): %s", r.Seq, r.At.Format(time.RFC3339), r.Index, r.What, why)
}

// whole checks a record by itself, which is most of the work and can be done for
// many at a time.
func (r *AuditRecord) whole() error {
	switch {
	case r.Seq == 0 && (r.Hash != "" || r.Prev != ""):
		return r.broken("it has a hash and no number")
	case r.Seq == 0:
		return nil
	case r.Hash != r.sum():
		return r.broken("it is not what was written")
	case r.Seq == 1 && r.Prev != "":
		return r.broken("it is the first and names one before it")
	case r.Seq > 1 && r.Prev == "":
		return r.broken("it does not name the one before it")
	}
	return nil
}

// follows checks a record against the one before it, nil if that is not known.
func (r *AuditRecord) follows(last *AuditRecord) error {
	switch {
	case last == nil, r.Seq == 0 && last.Seq == 0:
		return nil
	case r.Seq == 0:
		return r.broken("it has no number and stands behind one that has")
	case r.Seq != last.Seq+1:
		return r.broken(fmt.Sprintf("it stands behind record %d", last.Seq))
	case r.Prev != last.Hash:
		return r.broken("it was written behind another record than the one before it")
	}
	return nil
}

// who begins a sentence about what a person did.
func who(by string) string {
	if by == "" {
		return "somebody"
	}
	return by
}
