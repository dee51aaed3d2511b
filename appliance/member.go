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

// connect makes the network to the other nodes.
func connect(cfg config.Config, id *trust.Identity, l net.Listener, log *slog.Logger) *consensus.TLS {
	return consensus.NewTLS(consensus.TLSConfig{Listener: l, Address: clusterAddress(cfg, l), Cluster: id.Cluster, CA: id.CA,
		Certificate: id.Certificate, NodeOf: trust.NodeOf, Now: time.Now, Logger: log})
}

// awaken waits until this node has a state to serve, and finishes the making of a
// new cluster.
func awaken(ctx context.Context, cluster *consensus.Node, id *trust.Identity, log *slog.Logger) error {
	// A certificate that has ended is renewed out of what this node knows itself:
	// without one it could not ask the others.
	if err := renew(cluster, id, time.Now(), log); err != nil {
		log.Error("the certificate of this node is not renewed", "ends", id.Certificate().Leaf.NotAfter, "err", err)
	}
	if id.Founding() != nil {
		ready, cancel := context.WithTimeout(ctx, aloneTime)
		defer cancel()
		if err := cluster.Ready(ready); err != nil {
			return fmt.Errorf("wait for the log: %w", err)
		}
		record := fleet.Cluster{ID: id.Cluster, CACert: id.CA.Raw, Sealed: id.Founding()}
		if _, err := cluster.Propose(ctx, fleet.PutCluster{Cluster: record}); err != nil {
			return fmt.Errorf("record the new cluster: %w", err)
		}
		return id.Founded()
	}
	wait := majorityTime
	for {
		err := ready(ctx, cluster, wait)
		known := clusterOf(cluster)
		switch {
		case known != "" && known != id.Cluster:
			return fmt.Errorf("the log of this node is of cluster %s, and its keys are of cluster %s: put the directory trust back that belongs to the log", known, id.Cluster)
		case err == nil && known == "":
			return fmt.Errorf("the log of this node is of no cluster, and its keys are of cluster %s: put the log back that belongs to the keys, or take the directory trust away too to begin a new cluster", id.Cluster)
		case err == nil:
			return nil
		case ctx.Err() != nil || !errors.Is(err, consensus.ErrNotReady):
			return fmt.Errorf("wait for the log: %w", err)
		case known != "":
			log.Warn("no majority of the cluster answers; this node serves what was agreed on when it last ran, and nothing new can be decided until one does")
			return nil
		}
		log.Info("waiting for the cluster to fill this node; if it was removed there, or the others are gone for ever, it waits in vain", "cluster", id.Cluster, "node", id.Node)
		wait = stillWaiting
	}
}

func ready(ctx context.Context, cluster *consensus.Node, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return cluster.Ready(ctx)
}

func clusterOf(cluster *consensus.Node) (id string) {
	cluster.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil {
			id = c.ID
		}
	})
	return id
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
func keepCertificate(ctx context.Context, cluster *consensus.Node, id *trust.Identity, log *slog.Logger) error {
	tick := time.NewTicker(renewalCheck)
	defer tick.Stop()
	for {
		if err := renew(cluster, id, time.Now(), log); err != nil {
			log.Error("the certificate of this node is not renewed; trying again in an hour", "ends", id.Certificate().Leaf.NotAfter, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func renew(cluster interface{ View(func(*fleet.State)) }, id *trust.Identity, now time.Time, log *slog.Logger) error {
	if !id.Due(now) {
		return nil
	}
	var record fleet.Cluster
	cluster.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil {
			record = *c
		}
	})
	if record.ID == "" {
		return errors.New("the log does not hold the cluster's key yet")
	}
	if err := id.Renew(record.CACert, record.Sealed, now); err != nil {
		return err
	}
	log.Info("the certificate of this node is renewed", "ends", id.Certificate().Leaf.NotAfter)
	return nil
}
