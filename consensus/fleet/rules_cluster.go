package fleet

import (
	"fmt"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func (b PutCluster) apply(s *State, c Command) (any, error) {
	cl := b.Cluster
	switch {
	case cl.ID == "":
		return nil, invalid("id", "a cluster needs an id")
	case s.cluster != nil && s.cluster.ID == cl.ID:
		return s.cluster, nil
	case s.cluster != nil:
		return nil, refuse(Conflict, "this is cluster %s, not %s; take the data directory away to begin a new one", s.cluster.ID, cl.ID)
	}
	cl.Epoch, cl.CreatedAt = max(cl.Epoch, 1), c.At // an epoch that is missing somewhere reads as 0 and is never valid
	s.putCluster(&cl)
	return &cl, nil
}

func (s *State) putCluster(cl *Cluster) {
	s.cluster = cl
	s.events = append(s.events, Event{Type: EventCluster, ID: cl.ID, Cluster: cl})
}

func (b RaiseEpoch) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	if s.cluster == nil {
		return nil, refuse(Conflict, "this cluster has no identity yet; start its node with lpmos up")
	}
	cl := *s.cluster
	cl.Epoch++
	s.putCluster(&cl)
	voided := 0
	for _, old := range s.CurrentTasks() {
		if old.Status != wire.StatusApproved && old.FirstWord == nil {
			continue
		}
		t := old.clone()
		t.FirstWord = nil
		if t.Status == wire.StatusApproved {
			t.Status, t.Approval = wire.StatusPendingApproval, nil
		}
		t.log(c.At, cut("the approval is void, the cluster began a new epoch: "+b.Reason))
		s.putTask(t, EventStatus)
		voided++
	}
	for _, m := range s.Machines() {
		if m.NextBoot != nil {
			s.dropBoot(m, c, b.By, "the cluster began a new epoch, so it does not boot into profile "+m.NextBoot.Profile)
			voided++
		}
	}
	s.endAllSessions()
	if c.guarded() {
		for _, v := range sorted(s.apiTokens) { // the backup may know one that was revoked since
			s.dropAPIToken(v)
		}
	}
	s.note(c, AuditRecord{By: b.By, What: fmt.Sprintf("%s began epoch %d (%s); approvals that are void by it: %d", who(b.By), cl.Epoch, b.Reason, voided)})
	if b.NewIdentity {
		s.forgetCluster()
	}
	return &cl, nil
}

// forgetCluster leaves the state without an identity.
func (s *State) forgetCluster() {
	s.events = append(s.events, Event{Type: EventCluster, ID: s.cluster.ID})
	s.cluster = nil
	for _, t := range s.Tokens() {
		delete(s.tokens, t.ID)
		s.events = append(s.events, Event{Type: EventTokenDeleted, ID: t.ID})
	}
}

// tokenRest is how long a token that is of no use any more is still known, so
// that who tries it is told why it does not work.
const tokenRest = 24 * time.Hour

// maxTokens bounds the tokens that are known at once.
const maxTokens = 1000

const newToken = "print a new one with lpmos node token"

func (b CreateToken) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	switch {
	case b.ID == "" || s.tokens[b.ID] != nil:
		return nil, invalid("id", "a new join token needs a new id")
	case b.SecretHash == "":
		return nil, invalid("secret_hash", "a join token needs a secret")
	case !c.At.Before(b.ExpiresAt):
		return nil, invalid("expires_at", "a join token has to be of use for a while")
	}
	var old []*Token
	for _, t := range s.Tokens() {
		if gone := c.At.Add(-tokenRest); t.ExpiresAt.Before(gone) || t.UsedBy != "" && t.UsedAt.Before(gone) {
			old = append(old, t)
		}
	}
	if len(s.tokens)-len(old) >= maxTokens {
		return nil, refuse(Conflict, "%d join tokens are known already; wait until some have expired", maxTokens)
	}
	for _, t := range old {
		delete(s.tokens, t.ID)
		s.events = append(s.events, Event{Type: EventTokenDeleted, ID: t.ID})
	}
	t := &Token{ID: b.ID, SecretHash: b.SecretHash, ExpiresAt: b.ExpiresAt.UTC(), By: b.By, CreatedAt: c.At}
	s.putToken(t)
	s.note(c, AuditRecord{By: b.By, What: who(b.By) + " made join token " + t.ID + ", good until " + t.ExpiresAt.Format(time.RFC3339)})
	return t, nil
}

func (s *State) putToken(t *Token) {
	s.tokens[t.ID] = t
	s.events = append(s.events, Event{Type: EventToken, ID: t.ID, Token: t})
}

func (b RedeemToken) apply(s *State, c Command) (any, error) {
	if b.NodeID == "" {
		return nil, invalid("node_id", "a node that joins needs an id")
	}
	old := s.tokens[b.ID]
	switch {
	case old == nil || old.SecretHash != b.SecretHash:
		return nil, refuse(Precondition, "this join token is not known here; %s", newToken)
	case old.UsedBy == b.NodeID:
		return old, nil // the answer was lost, the question is repeated
	case old.UsedBy != "":
		return nil, refuse(Conflict, "this join token was used by node %s already; %s", s.nodeName(old.UsedBy), newToken)
	case !c.At.Before(old.ExpiresAt):
		return nil, refuse(Precondition, "this join token expired at %s; %s", old.ExpiresAt.Format(time.RFC3339), newToken)
	}
	t := *old
	t.UsedBy, t.UsedAt = b.NodeID, c.At
	s.putToken(&t)
	s.note(c, AuditRecord{Node: b.NodeID, What: "node " + b.NodeID + " used join token " + t.ID})
	return &t, nil
}

// nodeName is how people know the node: by its name, if it has told one.
func (s *State) nodeName(id string) string {
	if n := s.nodes[id]; n != nil && n.Name != "" {
		return n.Name
	}
	return id
}

func (b RemoveNode) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	n := s.nodes[b.ID]
	if n == nil {
		return nil, refuse(NotFound, "there is no node %s", b.ID)
	}
	what := who(b.By) + " removed node " + s.nodeName(n.ID)
	delete(s.nodes, n.ID)
	s.events = append(s.events, Event{Type: EventNodeDeleted, ID: n.ID, Name: n.Name})
	freed := c.At
	if b.Gone {
		freed = freed.Add(-aloneRest)
	}
	s.freePools(n.ID, freed)
	s.note(c, AuditRecord{By: b.By, Node: n.ID, What: what})
	return nil, nil
}

func (b SeatNode) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	old := s.nodes[b.ID]
	if old == nil {
		return nil, refuse(NotFound, "there is no node %s", b.ID)
	}
	if old.StandsBy == b.StandsBy {
		return old, nil
	}
	n := *old
	n.StandsBy = b.StandsBy
	s.nodes[n.ID] = &n
	s.events = append(s.events, Event{Type: EventNode, ID: n.ID, Name: n.Name, Node: &n})
	did := " gave node " + s.nodeName(n.ID) + " a vote"
	if b.StandsBy {
		did = " took the vote of node " + s.nodeName(n.ID)
	}
	s.note(c, AuditRecord{By: b.By, Node: n.ID, What: who(b.By) + did})
	return &n, nil
}

func (b NoteLeader) apply(s *State, c Command) (any, error) {
	if b.NodeID == "" {
		return nil, invalid("node_id", "a leader is a node")
	}
	if b.Term <= s.leader.Term {
		return nil, nil // noted already, or somebody later was
	}
	leader := Leader(b)
	s.leader = leader
	name := b.Name
	if name == "" {
		name = s.nodeName(b.NodeID)
	}
	s.events = append(s.events, Event{Type: EventLeader, ID: b.NodeID, Name: b.Name, Leader: &leader})
	s.note(c, AuditRecord{Node: b.NodeID, What: fmt.Sprintf("node %s leads since term %d", name, b.Term)})
	return nil, nil
}
