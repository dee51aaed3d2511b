package consensus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// memberTime bounds one change of the members.
const memberTime = 10 * time.Second

// change is a wish to change the members, as it goes to the leader.
type change struct {
	Op      string `json:"op"` // one of the op constants
	ID      string `json:"id"`
	Address string `json:"address,omitempty"`
	By      string `json:"by,omitempty"` // the person who wants it

	Origin fleet.Origin `json:"origin,omitzero"` // as that person's node knows it
}

const (
	opAdmit    = "admit"  // a new node, or one with a new address: it stands by
	opRefill   = "refill" // a node that has lost its log: it may not vote until it has one again
	opRemove   = "remove"
	opPromote  = "promote"
	opDemote   = "demote"
	opTransfer = "transfer" // of leadership, to ID or to anybody
)

// Admit makes a node a member that stands by. A member whose address has changed
// is found at the new one from then on.
func (n *Node) Admit(ctx context.Context, id, address string) error {
	return n.change(ctx, change{Op: opAdmit, ID: id, Address: address})
}

// Remove takes a node off the cluster, for good. by is the person who wants it;
// so it is below.
func (n *Node) Remove(ctx context.Context, id, by string) error {
	return n.change(ctx, change{Op: opRemove, ID: id, By: by})
}

// Promote makes a node that stands by a voter.
func (n *Node) Promote(ctx context.Context, id, by string) error {
	return n.change(ctx, change{Op: opPromote, ID: id, By: by})
}

// Demote makes a voter stand by: it has all state and serves everybody, and has
// no say in what is agreed on.
func (n *Node) Demote(ctx context.Context, id, by string) error {
	return n.change(ctx, change{Op: opDemote, ID: id, By: by})
}

// TransferLeadership lets another voter lead: the named one, or the one that has
// come furthest. It returns when that is known here.
func (n *Node) TransferLeadership(ctx context.Context, id, by string) error {
	return n.change(ctx, change{Op: opTransfer, ID: id, By: by})
}

// change asks the leader, whoever that is, for as long as the context allows.
func (n *Node) change(ctx context.Context, c change) error {
	ctx, cancel := context.WithTimeout(ctx, 2*memberTime)
	defer cancel()
	c.Origin = fleet.OriginOf(ctx)
	for {
		id, addr, changed := n.leader.now()
		err := ErrNotReady
		switch {
		case id == "":
		case string(id) == n.dir.id:
			err = n.changeHere(ctx, c)
		default:
			err = n.ask(ctx, http.MethodPost, string(addr), "/member", c, nil)
			var said *callError
			switch {
			case errors.As(err, &said) && said.status == http.StatusUnprocessableEntity:
				return &fleet.Error{Code: fleet.Conflict, Message: said.text}
			case errors.As(err, &said) && said.status == http.StatusNotFound:
				return &fleet.Error{Code: fleet.NotFound, Message: said.text}
			}
		}
		if err == nil || fleet.ErrorCode(err) != "" {
			return err
		}
		if off := n.cutOff(); off != nil {
			return off
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, errors.Join(err, ctx.Err()))
		}
		n.leader.wait(ctx, changed, 4*retryPause)
	}
}

// answerMember takes a change from another node. One that is no member may ask
// for itself alone.
func (n *Node) answerMember(w http.ResponseWriter, r *http.Request) {
	raw, err := readAll(r)
	var c change
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	peer, _ := r.Context().Value(peerKey{}).(string)
	if own := c.ID == peer && (c.Op == opRefill || c.Op == opAdmit && n.mayTalk(peer)); !own && !n.mayTalk(peer) {
		http.Error(w, "this node is no member of the cluster", http.StatusForbidden)
		return
	}
	ctx, cancel := context.WithTimeout(fleet.WithOrigin(r.Context(), c.Origin), memberTime)
	defer cancel()
	err = n.changeHere(ctx, c)
	switch {
	case err == nil:
		reply(w, struct{}{})
	case fleet.ErrorCode(err) == fleet.NotFound:
		http.Error(w, err.Error(), http.StatusNotFound)
	case fleet.ErrorCode(err) != "":
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	default:
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

func refused(format string, args ...any) error {
	return &fleet.Error{Code: fleet.Conflict, Message: fmt.Sprintf(format, args...)}
}

// changeHere changes the members, on the leader.
func (n *Node) changeHere(ctx context.Context, c change) error {
	if !n.Leads() {
		return ErrNotReady
	}
	defer n.order.take()()
	l := n.life()
	s, known := n.server(c.ID)
	name := n.nameOf(c.ID)
	if !known && c.Op != opAdmit && c.ID != "" {
		return &fleet.Error{Code: fleet.NotFound, Message: fmt.Sprintf("there is no node %s in this cluster; lpmos node list shows them", c.ID)}
	}
	voter := known && s.Suffrage == raft.Voter
	if voter && n.voters() == 1 && (c.Op == opRemove || c.Op == opDemote || c.Op == opRefill) {
		return refused("%s is the only voting node: promote another first (lpmos node promote NODE), or nobody could decide anything", name)
	}
	if c.ID == n.dir.id && (c.Op == opRemove || c.Op == opDemote) {
		// Whoever is left does it, and answers for it.
		if err := n.handOver(l, ""); err != nil {
			return fmt.Errorf("hand over leadership before leaving: %w", err)
		}
		return ErrNotReady
	}
	var f raft.Future
	switch c.Op {
	case opAdmit:
		switch {
		case known && string(s.Address) == c.Address:
			return nil
		case voter:
			f = l.raft.AddVoter(s.ID, raft.ServerAddress(c.Address), 0, memberTime)
		default:
			f = l.raft.AddNonvoter(raft.ServerID(c.ID), raft.ServerAddress(c.Address), 0, memberTime)
		}
	case opRefill:
		if voter {
			f = l.raft.DemoteVoter(s.ID, 0, memberTime)
		}
	case opRemove:
		// The record first: should the rest not come about, the node is a member still,
		// and who asks again finds it.
		if err := n.strike(ctx, c.ID, c.By); err != nil {
			return err
		}
		f = l.raft.RemoveServer(s.ID, 0, memberTime)
	case opPromote:
		if voter {
			return n.seat(ctx, c, false)
		}
		if up, _, _ := n.peers.reach(c.ID); !up {
			return refused("%s does not answer; a voter that is silent makes the cluster weaker", name)
		}
		if n.peers.filling(c.ID) {
			return fmt.Errorf("%w: %s has not got all yet that was agreed on, and gives no vote before", ErrNotReady, name)
		}
		f = l.raft.AddVoter(s.ID, s.Address, 0, memberTime)
	case opDemote:
		// The wish first: keepOrder would give the vote back in between.
		if err := n.seat(ctx, c, true); err != nil {
			return err
		}
		if voter {
			f = l.raft.DemoteVoter(s.ID, 0, memberTime)
		}
	case opTransfer:
		switch {
		case c.ID == n.dir.id:
			return nil
		case c.ID != "" && !voter:
			return refused("%s stands by and cannot lead; promote it first", name)
		case !n.hasOtherVoters(l):
			return refused("there is no other voting node to lead; promote one first (lpmos node promote NODE)")
		}
		if err := n.handOver(l, c.ID); err != nil {
			return refused("leadership stays here: %v", err)
		}
		return nil
	default:
		return &fleet.Error{Code: fleet.Invalid, Message: fmt.Sprintf("there is no change %.20q of members", c.Op)}
	}
	if f != nil {
		if err := n.await(l, f); err != nil {
			return fmt.Errorf("%s %s: %w", c.Op, name, err)
		}
		n.log.Info("the members have changed", slog.String("change", c.Op), slog.String("node", name))
	}
	if c.Op == opPromote {
		if err := n.seat(ctx, c, false); err != nil {
			return err
		}
		return n.makeRoom(l, c.ID)
	}
	return nil
}

// strike takes a node off the record, if it ever said who it is.
func (n *Node) strike(ctx context.Context, id, by string) error {
	_, err := n.commit(ctx, fleet.RemoveNode{ID: id, By: by})
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil
	}
	return err
}

// seat keeps what a person wants of a node.
func (n *Node) seat(ctx context.Context, c change, standsBy bool) error {
	_, err := n.commit(ctx, fleet.SeatNode{ID: c.ID, StandsBy: standsBy, By: c.By})
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil
	}
	return err
}

func (n *Node) voters() int {
	count := 0
	for _, s := range n.servers() {
		if s.Suffrage == raft.Voter {
			count++
		}
	}
	return count
}

// tookOffice is what a new leader does first: it says so in the record, and makes
// known where it is reached now.
func (n *Node) tookOffice(l *life, term uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	go func() {
		select {
		case <-n.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	if n.cfg.Network != nil {
		own := raft.ServerAddress(n.cfg.Network.Address())
		if s, ok := n.server(n.dir.id); ok && s.Address != own {
			if err := n.await(l, l.raft.AddVoter(s.ID, own, 0, memberTime)); err != nil {
				n.log.Warn("the new address of this node is not recorded", "address", string(own), "error", err)
			}
		}
	}
	if _, err := n.commit(ctx, fleet.NoteLeader{NodeID: n.dir.id, Name: n.cfg.Name, Term: term}); err != nil && ctx.Err() == nil {
		n.log.Warn("the change of leader is not in the record", "error", err)
	}
	if n.Leads() {
		n.setReady(true)
	}
	if l.wire != nil {
		n.keepOrder(l, term)
	}
}
