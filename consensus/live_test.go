package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// bars is what a viewer of one node has seen.
type bars struct {
	t    testing.TB
	node string
	w    *consensus.Watcher

	at           map[string]float64 // by task
	live, logged int                // progress of either kind
}

func watchBars(t testing.TB, n *consensus.Node) *bars {
	t.Helper()
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	t.Cleanup(w.Close)
	return &bars{t: t, node: n.ID(), w: w, at: map[string]float64{}}
}

// follow reads on until it is so. No bar may run backwards.
func (b *bars) follow(what string, is func() bool) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	defer cancel()
	for !is() {
		events, err := b.w.Next(ctx)
		if err != nil {
			return fmt.Errorf("%s, until %s: %w; the bars are at %v", b.node, what, err, b.at)
		}
		for _, ev := range events {
			if ev.Type != fleet.EventProgress {
				continue
			}
			got := ev.Task.Progress.Percentage
			if got < b.at[ev.TaskID] {
				return fmt.Errorf("on %s the bar of %s ran from %v back to %v", b.node, ev.TaskID, b.at[ev.TaskID], got)
			}
			b.at[ev.TaskID] = got
			if ev.Live {
				b.live++
			} else {
				b.logged++
			}
		}
	}
	return nil
}

// to reads on until the bars of all tasks are there.
func (b *bars) to(percentage float64, tasks ...string) error {
	return b.follow(fmt.Sprintf("all bars are at %v", percentage), func() bool {
		for _, id := range tasks {
			if b.at[id] != percentage {
				return false
			}
		}
		return true
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// busyCluster is three nodes with so many installs, which all of them know of.
func busyCluster(t *testing.T, installs int, tune func(i int, cfg *consensus.Config)) (c *consensustest.Cluster, tasks []string) {
	t.Helper()
	c = consensustest.NewCluster(t, 3, func(i int, cfg *consensus.Config) {
		cfg.Heartbeat = 500 * time.Millisecond // nobody stands for election because this computer is busy
		tune(i, cfg)
	})
	for i := range installs {
		tasks = append(tasks, installing(t, c.Nodes[0], i).ID)
	}
	for _, n := range c.Nodes {
		if err := n.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return c, tasks
}

func progressEvery(every time.Duration) func(int, *consensus.Config) {
	return func(_ int, cfg *consensus.Config) { cfg.ProgressInterval = every }
}

func TestProgressReachesViewersOfAllNodesWithoutTheLog(t *testing.T) {
	c, tasks := busyCluster(t, 3, progressEvery(time.Hour))
	told, others := c.Nodes[0], []*bars{watchBars(t, c.Nodes[1]), watchBars(t, c.Nodes[2])}
	for step := range 10 {
		percentage := 20 + float64(step)
		for _, id := range tasks {
			told.Progress(id, 1, downloading(percentage-0.5)) // the newer takes its place
			told.Progress(id, 1, downloading(percentage))
		}
		for _, b := range others {
			must(t, b.to(percentage, tasks...))
		}
	}
	for _, b := range others {
		if b.logged != 0 || b.live < 10*len(tasks) {
			t.Errorf("%s has seen %d values live and %d in the log, want all live", b.node, b.live, b.logged)
		}
	}
	for _, n := range c.Nodes {
		n.View(func(s *fleet.State) {
			for _, id := range tasks {
				if p := s.Task(id).Progress; p != nil && p.Percentage >= 20 {
					t.Errorf("the log of %s has %s at %v", n.ID(), id, p.Percentage)
				}
			}
		})
	}
}

// The log and the live messages bring the same values on two ways, and either may
// be the faster one.
func TestNoBarRunsBackwardsOnAnyNode(t *testing.T) {
	c, tasks := busyCluster(t, 3, progressEvery(20*time.Millisecond))
	viewers := []*bars{watchBars(t, c.Nodes[0]), watchBars(t, c.Nodes[1]), watchBars(t, c.Nodes[2])}
	var all errgroup.Group
	for _, b := range viewers {
		all.Go(func() error { return b.to(60, tasks...) })
	}
	// Machines move from node to node, as they do when one goes silent.
	for i := range 400 {
		percentage := 20 + float64(i)/10
		for k, id := range tasks {
			c.Nodes[(i/50+k)%3].Progress(id, 1, downloading(percentage))
		}
		if i%5 == 4 {
			next := c.Nodes[(i/50+1)%3]
			c.Until("the next node knows of it", func() bool {
				p, ok := next.Latest(tasks[0])
				return ok && p.Percentage >= percentage
			})
		}
	}
	for k, id := range tasks {
		c.Nodes[k].Progress(id, 1, downloading(60))
	}
	must(t, all.Wait())
	for _, n := range c.Nodes {
		c.Until("the log has the last value", func() (is bool) {
			n.View(func(s *fleet.State) {
				is = true
				for _, id := range tasks {
					is = is && s.Task(id).Progress != nil && s.Task(id).Progress.Percentage == 60
				}
			})
			return is
		})
	}
}

// deaf is a network on which a node's calls to others are lost while it is told
// to; Raft goes on.
type deaf struct {
	consensus.Network
	lose *atomic.Bool
}

func (d deaf) Dial(ctx context.Context, address string, kind consensus.Kind) (net.Conn, error) {
	c, err := d.Network.Dial(ctx, address, kind)
	if err != nil || kind != consensus.KindCall {
		return c, err
	}
	return deafConn{c, d.lose}, nil
}

type deafConn struct {
	net.Conn
	lose *atomic.Bool
}

func (c deafConn) Write(b []byte) (int, error) {
	if c.lose.Load() {
		return 0, errors.New("lost")
	}
	return c.Conn.Write(b)
}

func TestALostLiveMessageIsMendedByTheLog(t *testing.T) {
	var lose [3]atomic.Bool
	c, tasks := busyCluster(t, 1, func(i int, cfg *consensus.Config) {
		cfg.ProgressInterval = 50 * time.Millisecond
		cfg.Network = deaf{cfg.Network, &lose[i]}
	})
	told := c.Leader() // its entries need no call
	b := watchBars(t, c.Nodes[c.Others(told)[0]])
	lose[told].Store(true)
	c.Nodes[told].Progress(tasks[0], 1, downloading(40))
	must(t, b.to(40, tasks...))
	if b.live != 0 || b.logged != 1 {
		t.Errorf("a value that was lost came %d times live and %d times by the log", b.live, b.logged)
	}
	lose[told].Store(false)
	percentage := 40.0
	must(t, b.follow("it is told live again", func() bool {
		percentage += 0.01
		c.Nodes[told].Progress(tasks[0], 1, downloading(percentage))
		return b.live > 0
	}))
}

func TestANodeThatStartsAgainIsToldAgain(t *testing.T) {
	c, tasks := busyCluster(t, 2, progressEvery(50*time.Millisecond))
	at := c.Others(c.Leader())[0]
	told := c.Nodes[c.Others(at)[0]]
	before := watchBars(t, c.Nodes[at])
	for _, id := range tasks {
		told.Progress(id, 1, downloading(30))
	}
	must(t, before.to(30, tasks...))
	if err := c.Stop(at); err != nil {
		t.Fatal(err)
	}
	for _, id := range tasks {
		told.Progress(id, 1, downloading(40))
	}
	c.Start(at)
	c.Ready(at)
	n := c.Nodes[at]
	c.Until("it has what it missed", func() bool {
		for _, id := range tasks {
			if p, ok := n.Latest(id); !ok || p.Percentage != 40 {
				return false
			}
		}
		return true
	})
	b := watchBars(t, n)
	b.at = before.at // whoever looked before looks on
	percentage := 40.0
	must(t, b.follow("it is told live", func() bool {
		percentage += 0.01
		for _, id := range tasks {
			told.Progress(id, 1, downloading(percentage))
		}
		return b.live > 0
	}))
}
