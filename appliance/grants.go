package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// grantor signs the permission to erase with the cluster's key for that, which lies
// sealed in the log. Any node can; the first of a cluster makes the key.
type grantor struct {
	cluster interface {
		View(func(*fleet.State))
		Propose(context.Context, fleet.Body) (any, error)
	}
	secret trust.Secret
	now    func() time.Time
	log    *slog.Logger

	mu   sync.Mutex
	open *trust.GrantKey // nil until it is asked for
}

func (m *member) newGrantor() *grantor {
	return &grantor{cluster: m, secret: m.id.Secret, now: time.Now, log: m.log}
}

func (g *grantor) record() (record fleet.Cluster) {
	g.cluster.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil {
			record = *c
		}
	})
	return record
}

// sign signs a grant.
func (g *grantor) sign(grant wire.Grant) (wire.SignedGrant, error) {
	key, err := g.key()
	if err != nil {
		return wire.SignedGrant{}, err
	}
	payload, err := json.Marshal(grant)
	if err != nil {
		return wire.SignedGrant{}, fmt.Errorf("write the grant: %w", err)
	}
	return key.Sign(payload), nil
}

func (g *grantor) key() (*trust.GrantKey, error) {
	record := g.record()
	if len(record.GrantCert) == 0 {
		return nil, errors.New("the cluster has no key for grants yet: one is made as soon as a majority of the nodes can be reached")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil && bytes.Equal(g.open.Certificate(), record.GrantCert) {
		return g.open, nil
	}
	key, err := trust.OpenGrantKey(record.ID, record.CACert, record.GrantCert, record.GrantSealed, g.secret)
	if err != nil {
		return nil, err
	}
	g.open = key
	return key, nil
}

// make gives a cluster its key for grants, if it has none: a new one, or one from
// before there were such keys. Where several nodes make one the first is kept.
func (g *grantor) make(ctx context.Context) error {
	record := g.record()
	if record.ID == "" || len(record.GrantCert) > 0 {
		return nil
	}
	ca, err := trust.OpenCA(record.ID, record.CACert, record.Sealed, g.secret)
	if err != nil {
		return err
	}
	key, err := ca.NewGrantKey(g.now())
	if err != nil {
		return err
	}
	_, err = g.cluster.Propose(ctx, fleet.PutGrantKey{ClusterID: record.ID, Cert: key.Certificate(), Sealed: key.Seal(g.secret)})
	return err
}

// run sees to it that there is a key, and sends approvals that have ended back to
// people: the machines they were for may never ask again.
func (g *grantor) run(ctx context.Context) error {
	tick := time.NewTicker(lapseCheck)
	defer tick.Stop()
	for told := false; ; {
		err := g.make(ctx)
		if err != nil && ctx.Err() == nil && !told {
			g.log.Warn("the cluster has no key for grants yet; until it has, nothing new is erased", "err", err)
			told = true
		}
		g.lapse(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// lapseCheck is how often approvals are looked at. Every node does, since none
// knows whether another is at work; who comes second finds nothing to do.
const lapseCheck = 15 * time.Second

func (g *grantor) lapse(ctx context.Context) {
	var ended []string
	g.cluster.View(func(s *fleet.State) { ended = s.LapsedTasks(g.now()) })
	if err := lapseBoots(ctx, g.cluster, g.now()); err != nil {
		g.log.Debug("a boot into a profile whose time is over could not be written down as such; it is tried again", "err", err)
		return
	}
	for _, id := range ended {
		if _, err := g.cluster.Propose(ctx, fleet.LapseApproval{TaskID: id}); err != nil {
			g.log.Debug("an approval that has ended could not be written down as such; it is tried again", "task", id, "err", err)
			return
		}
	}
}
