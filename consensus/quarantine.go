package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/raft"
)

// A node whose log or snapshots are damaged must not answer out of them, and has
// no need to: the others have the same. It puts what it has aside and is filled
// anew. What it must not do is vote meanwhile: it has forgotten whom it voted for
// and what it has acknowledged. So the others take its vote away first.

// membersFile remembers where the others are, for a node that cannot read its log.
const membersFile = "members"

// refillTime is how long the others are asked to take a damaged node back.
const refillTime = 20 * time.Second

// openOrRefill opens the log and the snapshots, or makes them empty, to be
// filled by the others.
func (n *Node) openOrRefill() (*disk, error) {
	cfg, others := n.cfg, n.rememberedMembers()
	var damage error
	if n.dir.has(dbFile) || n.dir.has(joiningFile) || len(others) == 0 {
		cfg.Join = cfg.Join || n.dir.has(joiningFile)
		k, err := openDisk(n.dir, cfg)
		if err == nil || !errors.Is(err, ErrCorrupt) {
			return k, err
		}
		damage = err
	} else {
		damage = fmt.Errorf("%w: %s holds no log any more", ErrCorrupt, n.dir.path)
	}
	if len(others) == 0 || n.caller == nil {
		return nil, damage
	}
	n.log.Error("the log of this node is damaged; asking the other nodes to fill it again", "error", damage)
	if err := n.askForRefill(others); err != nil {
		return nil, errors.Join(damage, fmt.Errorf("and no other node takes it back yet: %w", err))
	}
	if err := n.putAside(); err != nil {
		return nil, fmt.Errorf("put the damaged log aside: %w", err)
	}
	cfg.Join = true
	return openDisk(n.dir, cfg)
}

// askForRefill has the others take this node's vote away.
func (n *Node) askForRefill(others []raft.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), refillTime)
	defer cancel()
	c := change{Op: opRefill, ID: n.dir.id, Address: n.cfg.Network.Address()}
	var last error
	for {
		for _, s := range others {
			one, cancel := context.WithTimeout(ctx, memberTime)
			err := n.ask(one, http.MethodPost, string(s.Address), "/member", c, nil)
			cancel()
			if err == nil {
				return nil
			}
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(time.Second):
		}
	}
}

// putAside moves log and snapshots into a folder of their own, for whoever wants
// to know what happened. A crash in between leaves a node that joins.
func (n *Node) putAside() error {
	if err := n.dir.write(joiningFile, "to be filled again by the others"); err != nil {
		return err
	}
	to := n.dir.file("damaged-" + n.now().UTC().Format("20060102T150405"))
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{dbFile, "snapshots"} {
		if err := os.Rename(n.dir.file(name), to+"/"+name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	n.log.Warn("what was damaged lies aside; it can be deleted", "folder", to)
	return syncDir(n.dir.path)
}

// rememberMembers keeps where the others are.
func (n *Node) rememberMembers(servers []raft.Server) {
	raw, err := json.Marshal(servers)
	if err != nil || len(servers) == 0 {
		return
	}
	if had, err := os.ReadFile(n.dir.file(membersFile)); err == nil && string(had) == string(raw)+"\n" {
		return
	}
	if err := n.dir.write(membersFile, string(raw)); err != nil {
		n.log.Warn("the addresses of the other nodes are not remembered", "error", err)
	}
}

func (n *Node) rememberedMembers() []raft.Server {
	raw, err := os.ReadFile(n.dir.file(membersFile))
	if err != nil {
		return nil
	}
	var all, others []raft.Server
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	for _, s := range all {
		if string(s.ID) != n.dir.id {
			others = append(others, s)
		}
	}
	return others
}
