package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const everybody = "n1>n2 n1>n3 n2>n1 n2>n3 n3>n1 n3>n2"

// Three nodes become one cluster: the first makes it, the others join by a token
// once and never again, also when the rack is opened anew.
func TestNodesBecomeACluster(t *testing.T) {
	o := Options{Dir: t.TempDir(), Nodes: 3, Regions: []string{"dc1", "dc2"}, StartOff: true}
	r := testRack(t, o)
	if got := reach(t, r.Nodes()...); got != everybody {
		t.Errorf("reach each other: %s, want %s", got, everybody)
	}
	for i, n := range r.Nodes() {
		seen := askNode(t, n.URL)
		if seen.Name != n.Name {
			t.Errorf("%s has %s's dashboard", n.Name, seen.Name)
		}
		if joins := len(seen.Args) == 3 && seen.Args[2] == "10.77.0.1:4747"; joins != (i > 0) {
			t.Errorf("%s was started with %q", n.Name, seen.Args)
		}
	}
	if err := r.Client().KillNode(patience(t), "n2", true); err != nil {
		t.Fatal(err)
	}
	if seen := askNode(t, r.Nodes()[1].URL); len(seen.Args) > 0 {
		t.Errorf("n2 has joined, but is started again with %q", seen.Args)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	again := testRack(t, o)
	if got := reach(t, again.Nodes()...); got != everybody {
		t.Errorf("opened again they reach each other: %s, want %s", got, everybody)
	}
	for _, n := range again.Nodes() {
		if seen := askNode(t, n.URL); len(seen.Args) > 0 {
			t.Errorf("%s of the rack opened again was started with %q", n.Name, seen.Args)
		}
	}
}

// What is done to a node is seen by the others, told by the rack, and undone by
// healing it.
func TestNodesAreHurtAndHealed(t *testing.T) {
	r := testRack(t, Options{Nodes: 3, StartOff: true})
	c := r.Client()
	all := r.Nodes()
	tests := []struct {
		name   string
		hurt   func(ctx context.Context) error
		asked  []Node // those that can be
		reach  string
		state  NodeState
		healed string // name of the node
	}{
		{"killed", func(ctx context.Context) error { return c.KillNode(ctx, "n2", false) },
			[]Node{all[0], all[2]}, "n1>n3 n3>n1", NodeState{State: NodeDead}, "n2"},
		{"paused", func(ctx context.Context) error { return c.PauseNode(ctx, "n2") },
			[]Node{all[0], all[2]}, "n1>n3 n3>n1", NodeState{State: NodePaused}, "n2"},
		{"cut", func(ctx context.Context) error { return c.CutNode(ctx, "n2") },
			all, "n1>n3 n3>n1", NodeState{State: NodeRunning, Cut: true}, "n2"},
		{"cut from n3", func(ctx context.Context) error { return c.CutPair(ctx, "n2", "n3") },
			all, "n1>n2 n1>n3 n2>n1 n3>n1", NodeState{State: NodeRunning, CutFrom: []string{"n3"}}, "n2"},
		{"cut from n3, healed there", func(ctx context.Context) error { return c.CutPair(ctx, "n2", "n3") },
			all, "n1>n2 n1>n3 n2>n1 n3>n1", NodeState{State: NodeRunning, CutFrom: []string{"n3"}}, "n3"},
		{"stopped", func(ctx context.Context) error { return c.StopNode(ctx, "n2") },
			[]Node{all[0], all[2]}, "n1>n3 n3>n1", NodeState{State: NodeDead}, "n2"},
		{"paused, cut and killed", func(ctx context.Context) error {
			for _, hurt := range []error{c.PauseNode(ctx, "n2"), c.CutNode(ctx, "n2"), c.KillNode(ctx, "n2", false)} {
				if hurt != nil {
					return hurt
				}
			}
			return nil
		}, []Node{all[0], all[2]}, "n1>n3 n3>n1", NodeState{State: NodeDead, Cut: true}, "n2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := patience(t)
			if err := tt.hurt(ctx); err != nil {
				t.Fatal(err)
			}
			if got := reach(t, tt.asked...); got != tt.reach {
				t.Errorf("reach each other: %s, want %s", got, tt.reach)
			}
			s, err := c.Node(ctx, "n2")
			if err != nil {
				t.Fatal(err)
			}
			if s.State != tt.state.State || s.Cut != tt.state.Cut || !slices.Equal(s.CutFrom, tt.state.CutFrom) || s.Well() {
				t.Errorf("the rack says %+v", s)
			}
			if err := c.HealNode(ctx, tt.healed); err != nil {
				t.Fatal(err)
			}
			// A node that starts takes a moment; its dashboard answers once it serves.
			askNode(t, all[1].URL)
			// ARP asks again once a second, so a healed wire may be found a little later.
			waitUntil(t, func() error {
				if got := reach(t, all...); got != everybody {
					return fmt.Errorf("healed, they reach each other: %s", got)
				}
				return nil
			})
			if s, err := c.Node(ctx, "n2"); err != nil || !s.Well() {
				t.Errorf("healed, the rack says %+v, %v", s, err)
			}
		})
	}
	if err := c.HealNode(patience(t), "n1"); err != nil {
		t.Errorf("healing who is well: %v", err)
	}
	if err := c.KillNode(patience(t), "n3", false); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"pause": c.PauseNode(patience(t), "n3"), "kill": c.KillNode(patience(t), "n3", false)} {
		if err == nil || !strings.Contains(err.Error(), "n3 is not running") {
			t.Errorf("%s of a dead node: %v, want an error that says so", what, err)
		}
	}
}

// A rack ends in its usual time with a node that is paused.
func TestPausedNodeDoesNotHoldTheRackUp(t *testing.T) {
	r := testRack(t, Options{StartOff: true})
	n, err := r.Client().Node(patience(t), "n1")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Client().PauseNode(patience(t), "n1"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > termLimit/2 {
		t.Errorf("stopping took %s", took)
	}
	if err := syscall.Kill(n.PID, 0); err != syscall.ESRCH {
		t.Errorf("node %d after the rack: %v, want no such process", n.PID, err)
	}
}
