package appliance

import (
	"context"
	"fmt"
	"time"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// NewToken makes a token by which one node can join until it expires, for by, who
// asked for it. The cluster keeps its hash alone: it is shown this once.
func NewToken(ctx context.Context, cluster *consensus.Node, by string, ttl time.Duration) (token string, expires time.Time, err error) {
	var ca []byte
	cluster.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil {
			ca = c.CACert
		}
	})
	if ca == nil {
		return "", time.Time{}, fmt.Errorf("%w: it does not know its cluster yet", consensus.ErrNotReady)
	}
	t, err := trust.NewToken(ca)
	if err != nil {
		return "", time.Time{}, err
	}
	expires = time.Now().Add(ttl).UTC()
	if _, err := cluster.Propose(ctx, fleet.CreateToken{ID: t.ID, SecretHash: t.SecretHash(), ExpiresAt: expires, By: by}); err != nil {
		return "", time.Time{}, err
	}
	return t.Text(), expires, nil
}
