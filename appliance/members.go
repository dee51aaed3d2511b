package appliance

import (
	"context"
	"io"

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

func (m memberSeam) Status() consensus.Status { return m.node.Status() }

func (m memberSeam) NewToken(ctx context.Context, by string) (api.JoinToken, error) {
	return m.token(ctx, by)
}

func (m memberSeam) Promote(ctx context.Context, id, _ string) error { return m.node.Promote(ctx, id) }

func (m memberSeam) Demote(ctx context.Context, id, _ string) error { return m.node.Demote(ctx, id) }

func (m memberSeam) Remove(ctx context.Context, id, _ string) error { return m.node.Remove(ctx, id) }

func (m memberSeam) Transfer(ctx context.Context, to, _ string) error {
	return m.node.TransferLeadership(ctx, to)
}

func (m memberSeam) Backup(ctx context.Context, w io.Writer) error { return m.backup(ctx, w) }
