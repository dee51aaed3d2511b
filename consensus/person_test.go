package consensus_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// S06: a code is used once, however many ask, at whatever node. The compare is
// where the set is: in the rules, not in who takes the request.
func TestS06_OneOfAHundredParallelRedeemsSucceeds(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	expires := time.Now().Add(time.Hour)
	consensustest.Propose[*fleet.Token](t, c.Nodes[1], fleet.CreateToken{ID: "j", SecretHash: "join", ExpiresAt: expires})
	for _, race := range []struct {
		name string
		code *fleet.CreateCode
		body func(i int) fleet.Body
	}{
		{"setup", &fleet.CreateCode{ID: "c-1", Kind: fleet.CodeSetup, SecretHash: fleet.HashSecret("setup"), ExpiresAt: expires}, func(i int) fleet.Body {
			return fleet.RedeemSetup{SecretHash: fleet.HashSecret("setup"), User: fleet.PutUser{ID: fmt.Sprint("u-", i), Name: fmt.Sprint("user", i)}}
		}},
		{"login", &fleet.CreateCode{ID: "c-2", Kind: fleet.CodeLogin, Role: fleet.Admin, SecretHash: fleet.HashSecret("login"), ExpiresAt: expires}, func(i int) fleet.Body {
			return fleet.RedeemLogin{SecretHash: fleet.HashSecret("login"), Session: fleet.CreateSession{SecretHash: fleet.HashSecret(fmt.Sprint(i))}}
		}},
		{"join", nil, func(i int) fleet.Body {
			return fleet.RedeemToken{ID: "j", SecretHash: "join", NodeID: fmt.Sprint("n", i)}
		}},
	} {
		if race.code != nil {
			consensustest.Propose[*fleet.OneUseCode](t, c.Nodes[0], *race.code)
		}
		begin := make(chan struct{})
		errs := make([]error, 100)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() {
				<-begin
				_, errs[i] = c.Nodes[i%3].Propose(t.Context(), race.body(i))
			})
		}
		close(begin)
		all.Wait()
		won := 0
		for i, err := range errs {
			switch code := fleet.ErrorCode(err); {
			case err == nil:
				won++
			case code != fleet.Precondition && code != fleet.Conflict:
				t.Errorf("%s %d: %v", race.name, i, err)
			}
		}
		if won != 1 {
			t.Errorf("%s: %d of 100 succeeded", race.name, won)
		}
	}
	for i, n := range c.Nodes {
		if err := n.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		n.View(func(s *fleet.State) {
			if users, sessions := s.Users(), s.Sessions(time.Now()); len(users) != 1 || users[0].Role != fleet.Admin || len(sessions) != 1 {
				t.Errorf("%s knows users %v and sessions %v", consensustest.Name(i), users, sessions)
			}
		})
	}
}

// S07, the nodes' half: what a user holds is void at a node as soon as it has the
// entry, and a node that has verified its state has it.
func TestS07_WhoIsDisabledHoldsNothingAtAnyNode(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	now := time.Now()
	consensustest.Propose[*fleet.User](t, c.Nodes[0], fleet.PutUser{ID: "u-1", Name: "ann", Role: fleet.Admin})
	consensustest.Propose[*fleet.User](t, c.Nodes[1], fleet.PutUser{ID: "u-2", Name: "eve", Role: fleet.Operator})
	consensustest.Propose[*fleet.Session](t, c.Nodes[2], fleet.CreateSession{SecretHash: fleet.HashSecret("s"), UserID: "u-2"})
	consensustest.Propose[*fleet.APIToken](t, c.Nodes[0], fleet.CreateAPIToken{ID: "t", Name: "t", SecretHash: fleet.HashSecret("t"), Role: fleet.Operator, UserID: "u-2", ExpiresAt: now.Add(time.Hour)})
	holds := func(i int) (out string) {
		c.Nodes[i].View(func(s *fleet.State) {
			if s.SessionByHash(fleet.HashSecret("s"), now) != nil {
				out += "session "
			}
			if s.APITokenByHash(fleet.HashSecret("t"), now) != nil {
				out += "token"
			}
		})
		return out
	}
	for i := range c.Nodes {
		c.Until("everybody knows what eve holds", func() bool { return holds(i) == "session token" })
	}
	watchers := make([]*consensus.Watcher, len(c.Nodes))
	for i, n := range c.Nodes {
		var index uint64
		n.View(func(s *fleet.State) { index = s.Index() })
		w, err := n.Watch(index)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		watchers[i] = w
	}
	disabled := true
	consensustest.Propose[*fleet.User](t, c.Nodes[1], fleet.ChangeUser{ID: "u-2", Disabled: &disabled})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for i, n := range c.Nodes {
		ended := map[fleet.EventType]bool{}
		for !ended[fleet.EventSessionEnded] || !ended[fleet.EventAPITokenDeleted] {
			events, err := watchers[i].Next(ctx)
			if err != nil {
				t.Fatalf("%s tells only %v within a second: %v", consensustest.Name(i), ended, err)
			}
			for _, ev := range events {
				ended[ev.Type] = true
			}
		}
		if err := n.Verify(ctx); err != nil {
			t.Fatal(err)
		}
		if got := holds(i); got != "" {
			t.Errorf("at %s eve holds a %s still", consensustest.Name(i), got)
		}
	}
}

func TestWhoAsksIsToldWhereverTheLeaderIs(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	for i, n := range c.Nodes {
		ctx := fleet.WithOrigin(t.Context(), fleet.Origin{Name: fmt.Sprint("person", i), From: "192.0.2.7"})
		name := fmt.Sprint("image", i)
		if _, err := n.Propose(ctx, fleet.PutImage{Image: fleet.Image{Name: name, Digest: strings.Repeat("ab", 32), SizeBytes: 1}}); err != nil {
			t.Fatal(err)
		}
		n.View(func(s *fleet.State) {
			if a := s.Audit(1)[0]; a.By != fmt.Sprint("person", i) || a.From != "192.0.2.7" || !strings.Contains(a.What, name) {
				t.Errorf("by way of %s it is told as %+v", consensustest.Name(i), a)
			}
		})
	}
	// A change of the members is made by the leader, in the name of who asked elsewhere.
	leader := c.Leader()
	others := c.Others(leader)
	consensustest.Propose[*fleet.Node](t, c.Nodes[0], putNode(c.Nodes[others[1]].ID()))
	ctx := fleet.WithOrigin(t.Context(), fleet.Origin{Name: "ann", From: "192.0.2.8"})
	if err := c.Nodes[others[0]].Demote(ctx, c.Nodes[others[1]].ID(), ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Nodes[others[0]].Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Nodes[others[0]].View(func(s *fleet.State) {
		for _, a := range s.Audit(100) {
			if a.By == "ann" && a.From == "192.0.2.8" && strings.HasPrefix(a.What, "ann took the vote of node") {
				return
			}
		}
		t.Errorf("it is not told: %+v", s.Audit(3))
	})
}
