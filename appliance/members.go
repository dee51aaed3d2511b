package appliance

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api"
)

// memberSeam is who is of the cluster, as the API sees it: the consensus node,
// with tokens that trust makes and backups as they are kept.
type memberSeam struct {
	node   *consensus.Node
	token  func(ctx context.Context, by string) (api.JoinToken, error)
	backup func(ctx context.Context, w io.Writer) error
}

var _ api.Membership = memberSeam{}

// tokenLife is how long a join token can be used.
const tokenLife = time.Hour

func membersOf(m *member) memberSeam {
	return memberSeam{node: m.Node,
		token: func(ctx context.Context, by string) (api.JoinToken, error) {
			token, expires, err := NewToken(ctx, m.Node, by, tokenLife)
			return api.JoinToken{Token: token, ExpiresAt: expires, Address: m.network.Address()}, err
		},
		backup: func(ctx context.Context, w io.Writer) error {
			_, err := m.Node.Backup(ctx, w)
			return err
		}}
}

// contactSeam tells nodes which machines' agents the others have heard. It is
// made before there is anybody to hear them.
type contactSeam struct {
	agents atomic.Pointer[agentserver.Server]
}

func (c *contactSeam) since(t time.Time) map[string]time.Time {
	if s := c.agents.Load(); s != nil {
		return s.Contacts(t)
	}
	return nil
}

func (c *contactSeam) elsewhere(machineID string, at time.Time) {
	if s := c.agents.Load(); s != nil {
		s.Touched(machineID, at)
	}
}

func (m memberSeam) Status() consensus.Status { return m.node.Status() }

func (m memberSeam) NewToken(ctx context.Context, by string) (api.JoinToken, error) {
	return m.token(ctx, by)
}

func (m memberSeam) Promote(ctx context.Context, id, by string) error {
	return m.node.Promote(ctx, id, by)
}

func (m memberSeam) Demote(ctx context.Context, id, by string) error {
	return m.node.Demote(ctx, id, by)
}

func (m memberSeam) Remove(ctx context.Context, id, by string) error {
	return m.node.Remove(ctx, id, by)
}

func (m memberSeam) Transfer(ctx context.Context, to, by string) error {
	return m.node.TransferLeadership(ctx, to, by)
}

func (m memberSeam) Backup(ctx context.Context, w io.Writer) error { return m.backup(ctx, w) }
