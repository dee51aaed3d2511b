package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
)

// Invitation is a token and the address of a node that knows it. The zero value
// is none.
type Invitation struct {
	Token   string
	Address string
}

// String keeps the token out of logs and messages.
func (i Invitation) String() string { return "invitation to the node at " + i.Address }

// GoString is what %#v prints.
func (i Invitation) GoString() string { return i.String() }

// identify says who this node is: who it was, or the first of a new cluster, or
// the newest of the one it is invited to.
func identify(ctx context.Context, cfg config.Config, inv Invitation, version string, listener net.Listener, log *slog.Logger) (*trust.Identity, error) {
	invited := inv != Invitation{}
	var token trust.Token
	var err error
	if invited {
		if token, err = trust.ParseToken(inv.Token); err != nil {
			return nil, err
		}
	}
	id, err := trust.Load(cfg.DataDir)
	switch {
	case err == nil && !invited:
		return id, nil
	case err == nil && trust.FingerprintOf(id.CA) == token.CA:
		log.Info("this node is of the cluster already; it starts, and its token is not used", "cluster", id.Cluster, "node", id.Node)
		return id, nil
	case err == nil:
		return nil, fmt.Errorf("%s is the data directory of a node of another cluster (%s) than the token is for: give this node another data directory, or take that one away if what it holds is not needed", cfg.DataDir, id.Cluster)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	// A directory from before there were clusters has a node's log, and no keys.
	kept, err := consensus.KeptID(raftDir(cfg.DataDir))
	if err != nil {
		return nil, err
	}
	if invited {
		if kept != "" {
			return nil, fmt.Errorf("%s holds the log of a node of its own: give this node another data directory to join with, or take that one away if what it holds is not needed", cfg.DataDir)
		}
		return join{cfg: cfg, token: token, to: inv.Address, version: version, listener: listener, now: time.Now, log: log}.run(ctx)
	}
	if dir, is := trust.Unfinished(cfg.DataDir); is {
		return nil, fmt.Errorf("%s is a join that did not end: finish it with lpmos up --join TOKEN ADDRESS, with the same token or a new one, or remove that directory to make a cluster of this node alone", dir)
	}
	id, err = trust.Found(cfg.DataDir, kept, time.Now())
	if err != nil {
		return nil, err
	}
	log.Info("made a new cluster of this node alone", "cluster", id.Cluster, "node", id.Node, "fingerprint", trust.FingerprintOf(id.CA).String())
	return id, nil
}
