package fleet

import (
	"fmt"
	"time"
)

// Cluster is the identity the nodes share.
type Cluster struct {
	ID     string `json:"id"`
	CACert []byte `json:"ca_cert"` // DER
	// Sealed are the cluster's keys, readable only with the secret every node has.
	Sealed []byte `json:"sealed,omitempty"`
	// GrantCert is the certificate of the key that signs grants, as DER, and
	// GrantSealed that key, sealed like the others; empty until a node has made one.
	GrantCert   []byte `json:"grant_cert,omitempty"`
	GrantSealed []byte `json:"grant_sealed,omitempty"`
	// Epoch is raised when a majority was lost for ever: a grant of an older one is void.
	Epoch     uint64    `json:"epoch"`
	CreatedAt time.Time `json:"created_at"`
}

// Token lets one node join, once. The secret itself is known to who was given it.
type Token struct {
	ID         string    `json:"id"`
	SecretHash string    `json:"secret_hash"`
	ExpiresAt  time.Time `json:"expires_at"`
	By         string    `json:"by,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	UsedBy     string    `json:"used_by,omitempty"` // id of the node
	UsedAt     time.Time `json:"used_at,omitzero"`
}

// Open reports whether a node could join with the token at that time.
func (t *Token) Open(at time.Time) bool { return t.UsedBy == "" && at.Before(t.ExpiresAt) }

// Leader is who led last, as far as it was noted.
type Leader struct {
	NodeID string `json:"node_id"`
	Name   string `json:"name,omitempty"`
	Term   uint64 `json:"term"`
}

// AuditRecord says who did what, in a sentence.
type AuditRecord struct {
	Index   uint64    `json:"index"`
	At      time.Time `json:"at"`
	By      string    `json:"by,omitempty"` // a person; empty when a node or machine did it
	What    string    `json:"what"`
	Node    string    `json:"node,omitempty"`    // id
	Machine string    `json:"machine,omitempty"` // id
	Task    string    `json:"task,omitempty"`    // id
}

// maxAudit is how many records the state keeps; the oldest go first.
const maxAudit = 1000

// maxSentence bounds, in bytes, a sentence the state keeps that may quote what
// people or machines have said.
const maxSentence = 1000

// Cluster is the cluster's identity, or nil before it has one.
func (s *State) Cluster() *Cluster { return s.cluster }

// Token by id, or nil.
func (s *State) Token(id string) *Token { return s.tokens[id] }

// Tokens sorted by id.
func (s *State) Tokens() []*Token { return sorted(s.tokens) }

// Leader is who was noted last to lead; its zero value if nobody was.
func (s *State) Leader() Leader { return s.leader }

// Audit gives the newest n records, the newest first.
func (s *State) Audit(n int) []AuditRecord {
	n = max(0, min(n, len(s.audit)))
	out := make([]AuditRecord, 0, n)
	for i := len(s.audit) - 1; len(out) < n; i-- {
		out = append(out, *s.audit[i])
	}
	return out
}

// note puts a record into the audit. Index and time are the command's. A log of
// version 1 knew no audit, nor does a snapshot made of it.
func (s *State) note(c Command, r AuditRecord) {
	if c.Version == 1 {
		return
	}
	r.Index, r.At, r.What = s.index, c.At, cut(r.What)
	s.audit = append(s.audit, &r)
	if n := len(s.audit) - maxAudit; n > 0 {
		s.audit = s.audit[n:]
	}
	s.events = append(s.events, Event{Type: EventAudit, Audit: &r})
}

// noteTask puts what was done about a task into the audit.
func (s *State) noteTask(c Command, t *Task, by, did string) {
	name := t.TargetMAC
	if m := s.machines[t.MachineID]; m != nil {
		name = m.Name
	}
	s.note(c, AuditRecord{By: by, Machine: t.MachineID, Task: t.ID, What: "machine " + name + ", task " + t.ID + ": " + did})
}

// erasing says what the approved plan of a task does to its disk.
func erasing(t *Task) string {
	return fmt.Sprintf("erase disk %s (%s) and write %s", t.Plan.Erase, Bytes(t.Plan.Erase.SizeBytes), t.Plan.Image.Name)
}

// who begins a sentence about what a person did.
func who(by string) string {
	if by == "" {
		return "somebody"
	}
	return by
}
