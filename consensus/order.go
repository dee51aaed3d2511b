package consensus

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// The leader carries out the rules of seats.go.

// keepOrder carries out what the rules say for as long as this node leads in
// that term.
func (n *Node) keepOrder(l *life, term uint64) {
	tick := time.NewTicker(min(time.Second, n.cfg.SettleAfter/2+time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-n.stop:
			return
		case <-l.over:
			return
		case <-tick.C:
		}
		if !n.Leads() || l.raft.CurrentTerm() != term {
			return
		}
		n.putInOrder(l)
	}
}

// putInOrder carries out one step.
func (n *Node) putInOrder(l *life) {
	defer n.order.take()()
	s, ok := nextStep(time.Now(), n.seats(), n.cfg.SettleAfter, n.cfg.DeadAfter)
	if !ok {
		return
	}
	name := n.nameOf(s.id)
	if err := n.carryOut(l, s); err != nil {
		n.log.Warn("the members could not be put in order", slog.String("step", string(s.kind)), slog.String("node", name), slog.Any("error", err))
		return
	}
	n.log.Info("the members were put in order", slog.String("step", string(s.kind)), slog.String("node", name), slog.String("because", s.why))
}

func (n *Node) carryOut(l *life, s step) error {
	at, ok := n.server(s.id)
	if !ok {
		return nil
	}
	switch s.kind {
	case promote:
		return n.await(l, l.raft.AddVoter(at.ID, at.Address, 0, memberTime))
	case demote:
		return n.await(l, l.raft.DemoteVoter(at.ID, 0, memberTime))
	case yield:
		return n.handOver(l, s.id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	if err := n.strike(ctx, s.id, "the cluster: "+s.why); err != nil { // first, as in changeHere
		return err
	}
	return n.await(l, l.raft.RemoveServer(at.ID, 0, memberTime))
}

// seats are the members as the rules see them.
func (n *Node) seats() []seat {
	goal := n.life().raft.LastIndex()
	var out []seat
	for _, s := range n.servers() {
		x := seat{id: string(s.ID), voter: s.Suffrage == raft.Voter}
		n.mu.RLock()
		if f := n.state.Node(x.id); f != nil {
			x.region, x.standsBy = f.RegionID, f.StandsBy
		}
		n.mu.RUnlock()
		if x.id == n.dir.id {
			x.leader, x.up = true, true
		} else {
			var last uint64
			x.up, x.since, last = n.peers.reach(x.id)
			if goal > last {
				x.behind = goal - last
			}
			x.filling = n.peers.filling(x.id)
		}
		out = append(out, x)
	}
	return out
}

// makeRoom takes the vote of another when there is one too many now: keepOrder
// might take that of the node a person has just given it to.
func (n *Node) makeRoom(l *life, id string) error {
	var voters []seat
	willing := 0
	for _, x := range n.seats() {
		if !x.standsBy {
			willing++
		}
		if x.voter {
			voters = append(voters, x)
		}
	}
	if len(voters) <= votersFor(willing) {
		return nil
	}
	in := byRegion(voters)
	others := slices.DeleteFunc(slices.Clone(voters), func(x seat) bool { return x.id == id })
	least, ok := leastNeeded(others, in)
	if !ok { // there is this node alone, which stands by once the other leads
		return n.handOver(l, id)
	}
	if !enough(voters, least.id) {
		return nil // it stays until somebody else is back
	}
	if err := n.await(l, l.raft.DemoteVoter(raft.ServerID(least.id), 0, memberTime)); err != nil {
		return fmt.Errorf("make room for one more voter: %w", err)
	}
	n.log.Info("the members have changed", slog.String("change", opDemote), slog.String("node", n.nameOf(least.id)), slog.String("because", "another was given its vote"))
	return nil
}
