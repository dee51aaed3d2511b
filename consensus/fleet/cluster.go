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

// Cluster is the cluster's identity, or nil before it has one.
func (s *State) Cluster() *Cluster { return s.cluster }

// Token by id, or nil.
func (s *State) Token(id string) *Token { return s.tokens[id] }

// Tokens sorted by id.
func (s *State) Tokens() []*Token { return sorted(s.tokens) }

// Leader is who was noted last to lead; its zero value if nobody was.
func (s *State) Leader() Leader { return s.leader }

// erasing says what the approved plan of a task does to its disk.
func erasing(t *Task) string {
	return fmt.Sprintf("erase disk %s (%s) and write %s", t.Plan.Erase, Bytes(t.Plan.Erase.SizeBytes), t.Plan.Image.Name)
}
