package apitest

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// Membership is a cluster of three nodes in memory. It refuses what the real one
// refuses, and the fleet hears what the real one tells it.
type Membership struct {
	mu      sync.Mutex
	status  consensus.Status
	tokens  int
	err     error
	now     func() time.Time
	cluster *Cluster
}

// NewMembership is a cluster in which all is well, as n1 sees it.
func NewMembership(now func() time.Time, cluster *Cluster) *Membership {
	at := now()
	m := &Membership{now: now, cluster: cluster, status: consensus.Status{
		Node: "n-1", Role: "leader", Leader: "n-1", Term: 4, Applied: 1204, Committed: 1204, Quorum: true, HeardAt: at,
	}}
	for i, region := range []string{"dc1", "dc1", "dc2"} {
		id, held := fmt.Sprint(i+1), 86
		if i == 2 {
			held = 31
		}
		n := consensus.Member{ID: "n-" + id, Name: "n" + id, Region: region, Version: "test", Address: "10.77." + id + ".1:4747",
			Dashboard: "http://10.77." + id + ".1:8080", Voter: true, Leader: i == 0, Reachable: true, SeenAt: at, Applied: 1204,
			Described: consensus.Described{FreeBytes: uint64(i+2) * 100 * gb, Images: map[string]consensus.Hold{
				digest("d"): {Have: held, Total: 86}, digest("7"): {Have: 4, Total: 4}}}}
		if i > 0 {
			n.RoundTrip, n.ClockOff = 0.4*float64(1+60*(i-1)), -0.02
		}
		m.status.Members = append(m.status.Members, n)
	}
	return m
}

// Silence makes node n3 silent for a minute and a half, with its clock off.
func (m *Membership) Silence() {
	m.Set(func(s *consensus.Status) {
		n := &s.Members[2]
		n.Reachable, n.SeenAt, n.Lag, n.Applied, n.ClockOff = false, m.now().Add(-90*time.Second), 412, s.Committed-412, 3.2
	})
}

// CutOff lets n1 reach nobody.
func (m *Membership) CutOff() {
	m.Set(func(s *consensus.Status) {
		at := m.now().Add(-40 * time.Second)
		s.Role, s.Leader, s.Quorum, s.HeardAt = "candidate", "", false, at
		s.Problem = "This node cannot reach a majority of the cluster: it goes on booting known machines and finishing approved installs; nothing new can be approved."
		s.Members[0].Leader = false
		for i := 1; i < len(s.Members); i++ {
			s.Members[i].Reachable, s.Members[i].SeenAt = false, at
		}
	})
}

// Set changes how things are.
func (m *Membership) Set(f func(*consensus.Status)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.status)
}

// Fail lets every change end with an error from now on.
func (m *Membership) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// Status is a copy.
func (m *Membership) Status() consensus.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.Members = slices.Clone(s.Members)
	return s
}

// NewToken counts.
func (m *Membership) NewToken(ctx context.Context, by string) (api.JoinToken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return api.JoinToken{}, m.err
	}
	m.tokens++
	id, until := fmt.Sprintf("j-%d", m.tokens), m.now().Add(time.Hour)
	if _, err := m.cluster.Propose(ctx, fleet.CreateToken{ID: id, SecretHash: digest("0"), ExpiresAt: until, By: by}); err != nil {
		return api.JoinToken{}, err
	}
	return api.JoinToken{Token: fmt.Sprintf("lpmos-join-%04d", m.tokens), ExpiresAt: until, Address: m.status.Members[0].Address}, nil
}

// change runs f on a member, unless changes fail.
func (m *Membership) change(id string, f func(i int) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	i := slices.IndexFunc(m.status.Members, func(n consensus.Member) bool { return n.ID == id })
	if i < 0 {
		return refused(fleet.NotFound, "%s is no node of this cluster; lpmos node list shows those that are", id)
	}
	return f(i)
}

func refused(code fleet.Code, format string, args ...any) error {
	return &fleet.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// lastVoter refuses to take the vote of the only one that has one.
func (m *Membership) lastVoter(i int) error {
	for j, n := range m.status.Members {
		if j != i && n.Voter {
			return nil
		}
	}
	if m.status.Members[i].Voter {
		return refused(fleet.Conflict, "%s is the last voter: without it nothing can be agreed on; promote another node first", m.status.Members[i].Name)
	}
	return nil
}

// Promote gives a vote.
func (m *Membership) Promote(_ context.Context, id, _ string) error {
	return m.change(id, func(i int) error {
		m.status.Members[i].Voter = true
		return nil
	})
}

// Demote takes it away.
func (m *Membership) Demote(ctx context.Context, id, _ string) error {
	return m.change(id, func(i int) error {
		if err := m.lastVoter(i); err != nil {
			return err
		}
		m.status.Members[i].Voter = false
		return m.resign(ctx, i)
	})
}

// Remove takes a node out.
func (m *Membership) Remove(ctx context.Context, id, by string) error {
	return m.change(id, func(i int) error {
		if err := m.lastVoter(i); err != nil {
			return err
		}
		if err := m.resign(ctx, i); err != nil {
			return err
		}
		m.status.Members = slices.Delete(slices.Clone(m.status.Members), i, i+1)
		_, err := m.cluster.Propose(ctx, fleet.RemoveNode{ID: id, By: by})
		return err
	})
}

// Transfer lets another lead.
func (m *Membership) Transfer(ctx context.Context, to, _ string) error {
	if to == "" {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.err != nil {
			return m.err
		}
		return m.resign(ctx, slices.IndexFunc(m.status.Members, func(n consensus.Member) bool { return n.Leader }))
	}
	return m.change(to, func(i int) error {
		if n := m.status.Members[i]; !n.Voter {
			return refused(fleet.Conflict, "%s has no vote and cannot lead; promote it first", n.Name)
		}
		return m.lead(ctx, i)
	})
}

// resign lets the first other voter lead if node i does.
func (m *Membership) resign(ctx context.Context, i int) error {
	if i < 0 || !m.status.Members[i].Leader {
		return nil
	}
	for j, n := range m.status.Members {
		if j != i && n.Voter {
			return m.lead(ctx, j)
		}
	}
	return nil
}

func (m *Membership) lead(ctx context.Context, i int) error {
	for j := range m.status.Members {
		m.status.Members[j].Leader = j == i
	}
	n := m.status.Members[i]
	m.status.Term++
	m.status.Leader, m.status.Role = n.ID, "follower"
	if n.ID == m.status.Node {
		m.status.Role = "leader"
	}
	_, err := m.cluster.Propose(ctx, fleet.NoteLeader{NodeID: n.ID, Name: n.Name, Term: m.status.Term})
	return err
}

// Backup writes a few words.
func (m *Membership) Backup(_ context.Context, w io.Writer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	_, err := io.WriteString(w, "a backup")
	return err
}
