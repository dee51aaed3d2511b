package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func node(id string) fleet.PutNode {
	return fleet.PutNode{Node: fleet.Node{ID: id, Name: "name of " + id}}
}

// load writes on every node until it is told to stop.
func load(nodes func() []*consensus.Node, every time.Duration, failed func(error)) (stop func()) {
	over := make(chan struct{})
	var all sync.WaitGroup
	for i := range nodes() {
		all.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-over:
					return
				case <-time.After(every):
				}
				if n := nodes()[i]; n != nil {
					if _, err := n.Propose(context.Background(), node(fmt.Sprintf("load-%d-%d", i, k%50))); err != nil {
						failed(err)
					}
				}
			}
		})
	}
	return func() { close(over); all.Wait() }
}

func terms(nodes []*consensus.Node) (out uint64) {
	for _, n := range nodes {
		out = max(out, n.Status().Term)
	}
	return out
}

// settled waits until there has been no election for a while.
func settled(t *testing.T, nodes []*consensus.Node, calm, atMost time.Duration) uint64 {
	t.Helper()
	term, since := terms(nodes), time.Now()
	for began := since; time.Since(since) < calm; time.Sleep(100 * time.Millisecond) {
		if now := terms(nodes); now != term {
			term, since = now, time.Now()
		}
		if time.Since(began) > atMost {
			t.Fatalf("elections go on for %v: term %d", atMost, term)
		}
	}
	return term
}

func (w *world) nodes() (out []*consensus.Node) {
	for _, s := range w.slots {
		out = append(out, s.node.Load())
	}
	return out
}

func TestNobodyIsElectedWithoutNeed(t *testing.T) {
	for _, trip := range []time.Duration{0, 80 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(trip.String(), func(t *testing.T) {
			root := shm(t)
			bubble(t, func(t *testing.T) {
				w := newWorld(t, root, 3, rand.New(rand.NewPCG(1, 1)), nil, func(_ *slot, c *consensus.Config) { c.Heartbeat = 0 })
				defer w.close()
				stop := load(w.nodes, 100*time.Millisecond, func(err error) { t.Errorf("a write failed: %v", err) })
				defer stop()
				began := time.Now()
				before := terms(w.nodes())
				w.cable.far(trip / 2)
				term := settled(t, w.nodes(), 10*time.Second, 2*time.Minute)
				t.Logf("%v round trip: settled after %v and %d elections", trip, time.Since(began)-10*time.Second, term-before)
				calm := time.Duration(number("LPMOS_CALM_SECONDS", 5)) * time.Second
				time.Sleep(calm)
				if now := terms(w.nodes()); now != term {
					t.Errorf("%d elections in %v", now-term, calm)
				}
			})
		})
	}
}

func TestNobodyIsElectedBecauseTheMachineIsBusy(t *testing.T) {
	if err := consensus.GoFirst(); err != nil {
		t.Logf("as any other process: %v", err)
	}
	c := consensustest.NewCluster(t, 3, func(_ int, c *consensus.Config) { c.Heartbeat = 0 })
	for range 2 * runtime.NumCPU() {
		hog := exec.Command("nice", "-n", "10", "sh", "-c", "while :; do :; done") // it begins with our own priority
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hog.Process.Kill(); hog.Wait() }) //nolint:errcheck // it is killed
	}
	defer load(func() []*consensus.Node { return c.Nodes }, 50*time.Millisecond, func(err error) { t.Errorf("a write failed: %v", err) })()
	before := terms(c.Nodes)
	began := time.Now()
	term := settled(t, c.Nodes, 4*time.Second, time.Minute)
	t.Logf("settled after %v and %d elections", time.Since(began)-4*time.Second, term-before)
	calm := time.Duration(number("LPMOS_CALM_SECONDS", 5)) * time.Second
	time.Sleep(calm)
	if now := terms(c.Nodes); now != term {
		t.Errorf("%d elections in %v with every core hogged", now-term, calm)
	}
}

func TestAFollowerNeverStaysBehind(t *testing.T) {
	root := shm(t)
	bubble(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(7, 7))
		w := newWorld(t, root, 3, random, nil, nil)
		defer w.close()
		defer load(w.nodes, 10*time.Millisecond, func(error) {})()
		var longest time.Duration
		faults := number("LPMOS_FAULTS", 60)
		for range faults {
			lead := w.leader()
			victim := w.any()
			for victim == lead {
				victim = w.any()
			}
			for range 1 + random.IntN(4) {
				switch random.IntN(4) {
				case 0:
					victim.port.reset()
				case 1:
					w.cable.oneWay(lead.id, victim.id)
				case 2:
					w.cable.oneWay(victim.id, lead.id)
				case 3:
					w.cable.split(map[string]bool{victim.id: true}, w.ids())
				}
				time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
				victim.port.reset()
			}
			w.cable.heal()
			healed := time.Now()
			goal := w.leader().node.Load().Status().Committed
			for victim.node.Load().Status().Committed < goal {
				if time.Since(healed) > 20*time.Second {
					t.Fatalf("20 s after the faults were mended the follower is at %d of %d", victim.node.Load().Status().Committed, goal)
				}
				time.Sleep(5 * time.Millisecond)
			}
			longest = max(longest, time.Since(healed))
		}
		t.Logf("%d times: back at the head after %v at most", faults, longest)
		if longest > 6*time.Second {
			t.Errorf("a follower was behind for %v after its connection was mended", longest)
		}
	})
}

func TestClocksThatJumpElectNobody(t *testing.T) {
	root := shm(t)
	bubble(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(3, 3))
		var mu sync.Mutex
		off := map[string]time.Duration{}
		w := newWorld(t, root, 3, random, nil, func(s *slot, c *consensus.Config) {
			c.Now = func() time.Time {
				mu.Lock()
				defer mu.Unlock()
				return time.Now().AddDate(26, 0, 0).Add(off[s.id])
			}
		})
		defer w.close()
		defer load(w.nodes, 50*time.Millisecond, func(err error) { t.Errorf("a write failed: %v", err) })()
		term := settled(t, w.nodes(), 3*time.Second, time.Minute)
		const year = 365 * 24 * time.Hour
		jumps := []time.Duration{0, time.Hour, -time.Hour, 10 * year, -10 * year, -55 * year}
		for range 60 {
			mu.Lock()
			off[w.any().id] = jumps[random.IntN(len(jumps))]
			mu.Unlock()
			time.Sleep(time.Second)
			for _, n := range w.nodes() {
				if err := n.Verify(w.within(time.Second)); err != nil {
					t.Errorf("verify: %v", err)
				}
			}
		}
		if now := terms(w.nodes()); now != term {
			t.Errorf("%d elections", now-term)
		}
		if n := len(w.nodes()[0].Status().Members); n != 3 {
			t.Errorf("%d members are left", n)
		}
	})
}

// One answer that is late says nothing about the wire. Timers that follow it cost
// two elections at once, and seconds at the next fail-over.
func TestAHiccupChangesNoTimers(t *testing.T) {
	root := shm(t)
	bubble(t, func(t *testing.T) {
		w := newWorld(t, root, 3, rand.New(rand.NewPCG(1, 1)), nil, func(_ *slot, c *consensus.Config) { c.Heartbeat = 0 })
		defer w.close()
		time.Sleep(20 * time.Second)
		term := terms(w.nodes())
		for range 3 {
			w.cable.far(80 * time.Millisecond)
			time.Sleep(600 * time.Millisecond)
			w.cable.far(0)
			time.Sleep(20 * time.Second)
		}
		if now := terms(w.nodes()); now != term {
			t.Errorf("%d elections", now-term)
		}
	})
}
