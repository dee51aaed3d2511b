package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// aloneTime is how long a log of one node may take to be replayed.
	aloneTime = time.Minute
	// majorityTime is how long a node waits for a majority before it serves what
	// was agreed on when it last ran.
	majorityTime = 5 * time.Second
	// stillWaiting is how often a node that has nothing to serve yet says so.
	stillWaiting = 30 * time.Second
	// retryTime is between two tries of what the node has to get into the log.
	retryTime = 2 * time.Second
	// renewalCheck is how often the node looks whether its certificate is due.
	renewalCheck = time.Hour
)

// member is this node as one of a cluster: its identity, its network to the other
// nodes, and what it knows.
type member struct {
	*consensus.Node
	id      *trust.Identity
	network *consensus.TLS
	listens net.Addr // for other nodes
	founded bool     // its cluster was made in this life
	log     *slog.Logger
}

// openMember finds out who this node is and opens its log, once there is a state
// in it to serve. What of c it does not decide itself it leaves as it is.
func openMember(ctx context.Context, cfg config.Config, inv Invitation, c consensus.Config) (*member, error) {
	// The address first: that it is taken is found out before a token is spent, and
	// whoever calls before this node answers waits in its queue.
	listener, err := listenCluster(cfg)
	if err != nil {
		return nil, err
	}
	m := &member{listens: listener.Addr(), log: c.Logger}
	if m.id, err = identify(ctx, cfg, inv, c.Version, listener, c.Logger); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	m.network = consensus.NewTLS(consensus.TLSConfig{Listener: listener, Address: clusterAddress(cfg, listener), Cluster: m.id.Cluster, CA: m.id.CA,
		Certificate: m.id.Certificate, NodeOf: trust.NodeOf, Now: time.Now, Logger: c.Logger})
	c.Dir, c.NodeID, c.Network = raftDir(cfg.DataDir), m.id.Node, m.network
	// Only who makes a cluster begins a log of its own. Any other whose log is gone
	// waits for the cluster to fill it: a second beginning would be a second truth.
	c.Join = m.id.Founding() == nil
	if m.Node, err = consensus.Open(c); err != nil {
		return nil, errors.Join(err, m.network.Close())
	}
	if err := m.awaken(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// awaken waits until this node has a state to serve, and finishes the making of a
// new cluster.
func (m *member) awaken(ctx context.Context) error {
	// A certificate that has ended is renewed out of what this node knows itself:
	// without one it could not ask the others.
	m.renew(time.Now())
	if m.id.Founding() != nil {
		if err := m.readyWithin(ctx, aloneTime); err != nil {
			return fmt.Errorf("wait for the log: %w", err)
		}
		if err := m.checkCluster(); err != nil {
			return err
		}
		record := fleet.Cluster{ID: m.id.Cluster, CACert: m.id.CA.Raw, Sealed: m.id.Founding()}
		if _, err := m.Propose(ctx, fleet.PutCluster{Cluster: record}); err != nil {
			return fmt.Errorf("record the new cluster: %w", err)
		}
		m.founded = true
		return m.id.Founded()
	}
	for wait := majorityTime; ; wait = stillWaiting {
		err := m.readyWithin(ctx, wait)
		known := m.cluster().ID
		if err := m.checkCluster(); err != nil {
			return err
		}
		switch {
		case err == nil && known == "":
			return fmt.Errorf("the log of this node is of no cluster, and its keys are of cluster %s: put the log back that belongs to the keys, or take the directory trust away too to begin a new cluster", m.id.Cluster)
		case err == nil:
			return nil
		case ctx.Err() != nil || !errors.Is(err, consensus.ErrNotReady):
			return fmt.Errorf("wait for the log: %w", err)
		case known != "":
			m.log.Warn("no majority of the cluster answers; this node serves what was agreed on when it last ran, and nothing new can be decided until one does")
			return nil
		}
		m.log.Info("waiting for the cluster to fill this node; if it was removed there, or the others are gone for ever, it waits in vain", "cluster", m.id.Cluster, "node", m.id.Node)
	}
}

// checkCluster refuses keys of one cluster with the log of another.
func (m *member) checkCluster() error {
	if known := m.cluster().ID; known != "" && known != m.id.Cluster {
		return fmt.Errorf("the log of this node is of cluster %s, and its keys are of cluster %s: put the directory trust back that belongs to the log", known, m.id.Cluster)
	}
	return nil
}

func (m *member) readyWithin(ctx context.Context, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return m.Ready(ctx)
}

// cluster is what the log says of the cluster; nothing, while it says nothing.
func (m *member) cluster() (record fleet.Cluster) {
	m.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil {
			record = *c
		}
	})
	return record
}

// letOthersIn answers nodes that bring a token.
func (m *member) letOthersIn(ctx context.Context) error {
	return serve(ctx, m.network.Joins(), newDoor(m, m.id, m.listens, m.log), m.log)
}

// announce tells the others what this node is, as soon as that can be agreed on.
func announce(ctx context.Context, cluster *consensus.Node, self fleet.Node, log *slog.Logger) error {
	told := false
	for {
		_, err := cluster.Propose(ctx, fleet.PutNode{Node: self})
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case fleet.ErrorCode(err) != "":
			return fmt.Errorf("record this node: %w", err)
		case !told:
			log.Warn("this node is not on record yet", "err", err)
			told = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(retryTime):
		}
	}
}

// keepCertificate renews this node's certificate when it is due.
func (m *member) keepCertificate(ctx context.Context) error {
	tick := time.NewTicker(renewalCheck)
	defer tick.Stop()
	for {
		m.renew(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (m *member) renew(now time.Time) {
	if !m.id.Due(now) {
		return
	}
	err := errors.New("the log does not hold the cluster's key yet")
	if record := m.cluster(); record.ID != "" {
		err = m.id.Renew(record.CACert, record.Sealed, now)
	}
	ends := m.id.Certificate().Leaf.NotAfter
	if err != nil {
		m.log.Error("the certificate of this node is not renewed; it is tried again every hour", "ends", ends, "err", err)
		return
	}
	m.log.Info("the certificate of this node is renewed", "ends", ends)
}
