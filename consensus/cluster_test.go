package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestAnyNodeTakesACommandAndSeesItAtOnce(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	for round := range 30 {
		for i, n := range c.Nodes {
			id := fmt.Sprintf("%d-%d", round, i)
			got := consensustest.Propose[*fleet.Node](t, n, putNode(id))
			if got == nil || got.Name != "name of "+id {
				t.Fatalf("%s answers %+v", consensustest.Name(i), got)
			}
			var seen *fleet.Node
			n.View(func(s *fleet.State) { seen = s.Node(id) })
			if seen == nil {
				t.Fatalf("%s has acknowledged %s and does not show it", consensustest.Name(i), id)
			}
			for j, other := range c.Nodes {
				if err := other.Verify(t.Context()); err != nil {
					t.Fatalf("%s verifies: %v", consensustest.Name(j), err)
				}
				other.View(func(s *fleet.State) { seen = s.Node(id) })
				if seen == nil {
					t.Fatalf("%s has verified its state and lacks %s, which %s acknowledged before", consensustest.Name(j), id, consensustest.Name(i))
				}
			}
		}
	}
	_, err := c.Nodes[2].Propose(t.Context(), fleet.DeleteTask{TaskID: "none"})
	if fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("a refusal comes back as %v", err)
	}
}

func TestLosingTheLeaderLosesNothing(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	var mu sync.Mutex
	acked := map[string]bool{}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	dead := c.Leader()
	var once sync.Once
	finish := func() { once.Do(func() { close(stop); writers.Wait() }) }
	defer finish() // also when something before it fails
	for _, i := range c.Others(dead) {
		writers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("w%d-%d", i, k)
				_, err := c.Nodes[i].Propose(context.Background(), putNode(id))
				if err == nil {
					mu.Lock()
					acked[id] = true
					mu.Unlock()
				} else if !errors.Is(err, consensus.ErrUncertain) && !errors.Is(err, consensus.ErrNotReady) {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
	c.Until("100 writes are acknowledged", func() bool { return count() > 100 })
	c.Isolate(dead)
	before := count()
	c.Until("writes are acknowledged again", func() bool { return count() > before+100 })
	// The one that is cut off says so, and serves what it has.
	c.Until("the node that is cut off says so", func() bool { return c.Nodes[dead].Status().Problem != "" })
	if _, err := c.Nodes[dead].Propose(t.Context(), putNode("alone")); !errors.Is(err, consensus.ErrNotReady) && !errors.Is(err, consensus.ErrUncertain) {
		t.Errorf("a node that is cut off answers %v", err)
	}
	c.Net.Heal()
	finish()
	c.Until("the node that was cut off is back", func() bool { return c.Nodes[dead].Status().Leader != "" })
	for i, n := range c.Nodes {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if err := n.Verify(ctx); err != nil {
			t.Fatalf("%s: %v", consensustest.Name(i), err)
		}
		cancel()
		n.View(func(s *fleet.State) {
			for id := range acked {
				if s.Node(id) == nil {
					t.Errorf("%s lacks %s, which was acknowledged", consensustest.Name(i), id)
				}
			}
		})
	}
}

func TestHandingOverFailsNoWrite(t *testing.T) {
	c := consensustest.NewCluster(t, 3, func(_ int, cfg *consensus.Config) { cfg.Heartbeat = 250 * time.Millisecond })
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i, n := range c.Nodes {
		writers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := n.Propose(context.Background(), putNode(fmt.Sprintf("w%d-%d", i, k))); err != nil {
					t.Errorf("a write failed while leadership was handed over: %v", err)
				}
			}
		})
	}
	defer writers.Wait() // also when what follows fails
	defer close(stop)
	for range 10 {
		was := c.Leader()
		if err := c.Nodes[(was+1)%3].TransferLeadership(t.Context(), "", "ann"); err != nil {
			t.Errorf("hand over: %v", err)
		}
	}
}

func TestANodeThatStartsWithoutOthersShowsWhatItHas(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	for i := range 50 {
		consensustest.Propose[*fleet.Node](t, c.Nodes[i%3], putNode(fmt.Sprint(i)))
	}
	at := c.Others(c.Leader())[0]
	if err := c.Nodes[at].Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	was := content(t, c.Nodes[at])
	if err := c.Stop(at); err != nil {
		t.Fatal(err)
	}
	c.Isolate(at)
	c.Start(at)
	if got := content(t, c.Nodes[at]); got != was {
		t.Errorf("without the others it shows\n%.300s\nit had\n%.300s", got, was)
	}
	c.Net.Heal()
	c.Ready(at)
	consensustest.Propose[*fleet.Node](t, c.Nodes[at], putNode("back"))
}

func TestMembers(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	ctx := t.Context()
	leader := c.Leader()
	other := c.Others(leader)[0]
	if err := c.Nodes[other].Remove(ctx, "nobody", "ann"); fleet.ErrorCode(err) != fleet.NotFound {
		t.Errorf("removing a stranger: %v", err)
	}
	// A person takes a vote away; two would be left, so one more goes by itself.
	if err := c.Nodes[other].Demote(ctx, consensustest.Name(other), "ann"); err != nil {
		t.Fatal(err)
	}
	votes := func() (n int) {
		for _, m := range c.Nodes[other].Status().Members {
			if m.Voter {
				n++
			}
		}
		return n
	}
	c.Until("one voter is left", func() bool { return votes() == 1 })
	var last string
	for _, m := range c.Nodes[other].Status().Members {
		if m.Voter {
			last = m.ID
		}
	}
	for what, f := range map[string]func(ctx context.Context, id, by string) error{"remove": c.Nodes[other].Remove, "demote": c.Nodes[other].Demote} {
		if err := f(ctx, last, "ann"); fleet.ErrorCode(err) != fleet.Conflict {
			t.Errorf("%s the last voter: %v", what, err)
		}
	}
	if err := c.Nodes[other].Promote(ctx, consensustest.Name(other), "ann"); err != nil {
		t.Fatal(err)
	}
	c.Until("three vote again", func() bool { return votes() == 3 })
	// The leader itself can be removed.
	leader = c.Leader()
	rest := c.Others(leader)
	if err := c.Nodes[rest[0]].Remove(ctx, consensustest.Name(leader), "ann"); err != nil {
		t.Fatal(err)
	}
	c.Until("the removed node says so", func() bool { return c.Nodes[leader].Status().Problem != "" })
	consensustest.Propose[*fleet.Node](t, c.Nodes[rest[1]], putNode("after"))
}

// A vote that a person gives stays given, and another goes for it. So the only
// voter of two nodes can be removed, by the way that its refusal names.
func TestAVoteThatIsGivenStays(t *testing.T) {
	voters := func(n *consensus.Node) (out []string) {
		for _, m := range n.Status().Members {
			if m.Voter {
				out = append(out, m.ID)
			}
		}
		return out
	}
	c := consensustest.NewCluster(t, 2, nil)
	if err := c.Nodes[1].Remove(t.Context(), "n1", "ann"); fleet.ErrorCode(err) != fleet.Conflict {
		t.Fatalf("remove the only voter: %v", err)
	}
	if err := c.Nodes[0].Promote(t.Context(), "n2", "ann"); err != nil {
		t.Fatal(err)
	}
	c.Until("the other votes alone", func() bool { return slices.Equal(voters(c.Nodes[1]), []string{"n2"}) && c.Nodes[1].Leads() })
	if err := c.Nodes[1].Remove(t.Context(), "n1", "ann"); err != nil {
		t.Fatal(err)
	}
	if got := len(c.Nodes[1].Status().Members); got != 1 {
		t.Errorf("there are %d members", got)
	}
	consensustest.Propose[*fleet.Node](t, c.Nodes[1], putNode("after"))

	c = consensustest.NewCluster(t, 4, nil)
	by := c.Nodes[c.Leader()]
	var standby string
	for _, m := range by.Status().Members {
		if !m.Voter {
			standby = m.ID
		}
	}
	if err := by.Promote(t.Context(), standby, "ann"); err != nil {
		t.Fatal(err)
	}
	if got := voters(by); len(got) != 3 || !slices.Contains(got, standby) {
		t.Errorf("%s was given a vote, and now these vote: %v", standby, got)
	}
}

func TestADamagedNodeIsFilledAgain(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	for i := range 20 {
		consensustest.Propose[*fleet.Node](t, c.Nodes[0], putNode(fmt.Sprint(i)))
	}
	at := c.Others(c.Leader())[0]
	c.Until("it knows where the others are", func() bool { return exists(c.Dir(at), "members") })
	if err := c.Stop(at); err != nil {
		t.Fatal(err)
	}
	scribble(t, c.Dir(at))
	c.Start(at)
	c.Ready(at)
	if got, want := content(t, c.Nodes[at]), content(t, c.Nodes[c.Leader()]); got == "" || len(got) < len(want)/2 {
		t.Errorf("it was filled with %d bytes, the leader has %d", len(got), len(want))
	}
	c.Until("it votes again", func() bool {
		for _, m := range c.Nodes[at].Status().Members {
			if m.ID == consensustest.Name(at) {
				return m.Voter
			}
		}
		return false
	})
}
