package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// viewer follows a node and leaves and comes back at random.
type viewer struct {
	index uint64
	nodes map[string]*fleet.Node
}

// follow reads until it knows a node called last; it returns what went wrong.
func (v *viewer) follow(n *consensus.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	snapshot := func() *consensus.Watcher {
		return n.SnapshotAndWatch(func(s *fleet.State) {
			v.index, v.nodes = s.Index(), map[string]*fleet.Node{}
			for _, node := range s.Nodes() {
				v.nodes[node.ID] = node
			}
		})
	}
	w := snapshot()
	defer func() { w.Close() }()
	for v.nodes["last"] == nil {
		events, err := w.Next(ctx)
		if errors.Is(err, consensus.ErrSlow) {
			w = snapshot()
			continue
		}
		if err != nil {
			return fmt.Errorf("at %d: %w", v.index, err)
		}
		told := v.index // of before: the events of one entry are never apart
		for _, ev := range events {
			if ev.Index <= told || ev.Index < v.index {
				return fmt.Errorf("event %d came after %d", ev.Index, v.index)
			}
			v.index = ev.Index
			if ev.Node != nil {
				v.nodes[ev.Node.ID] = ev.Node
			}
		}
		switch rand.IntN(6) {
		case 0:
			w.Close()
			if w, err = n.Watch(v.index); errors.Is(err, consensus.ErrTooOld) {
				w = snapshot()
			} else if err != nil {
				return err
			}
		case 1:
			w.Close()
			w = snapshot()
		case 2:
			time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond) // a viewer that lags
		}
	}
	return nil
}

func TestViewersMissNothingAndSeeNothingTwice(t *testing.T) {
	for name, ring := range map[string]int{"a long ring": 16384, "a short ring, so that viewers fall off": 24} {
		t.Run(name, func(t *testing.T) {
			cfg := consensustest.Config(t.TempDir())
			cfg.RingEvents = ring
			n := consensustest.Open(t, cfg)
			var writers, readers sync.WaitGroup
			views := make([]*viewer, 6)
			for i := range views {
				views[i] = &viewer{}
				readers.Go(func() {
					if err := views[i].follow(n); err != nil {
						t.Errorf("viewer %d: %v", i, err)
					}
				})
			}
			for w := range 8 {
				writers.Go(func() {
					for i := range 150 {
						if _, err := n.Propose(context.Background(), putNode(fmt.Sprintf("%d-%d", w, i%30))); err != nil {
							t.Errorf("writer %d: %v", w, err)
						}
					}
				})
			}
			writers.Wait()
			consensustest.Propose[*fleet.Node](t, n, putNode("last"))
			readers.Wait()
			want := map[string]*fleet.Node{}
			n.View(func(s *fleet.State) {
				for _, node := range s.Nodes() {
					want[node.ID] = node
				}
			})
			for i, v := range views {
				if !maps.Equal(v.nodes, want) {
					t.Errorf("viewer %d knows %d nodes, not the %d there are as they are", i, len(v.nodes), len(want))
				}
			}
		})
	}
}

func TestAWatcherThatLagsIsCutAndTheNodeGoesOn(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.RingEvents = 10
	n := consensustest.Open(t, cfg)
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	for i := range 11 {
		consensustest.Propose[*fleet.Node](t, n, putNode(fmt.Sprint(i)))
	}
	for range 2 {
		if _, err := w.Next(context.Background()); !errors.Is(err, consensus.ErrSlow) {
			t.Fatalf("the watcher gets %v", err)
		}
	}
	w.Close()
	if got := n.Stats()["watchers"]; got != 0 {
		t.Errorf("%v watchers are kept", got)
	}
}

func TestTheRingReachesBackAsFarAsItSays(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.RingEvents = 10
	n := consensustest.Open(t, cfg)
	consensustest.Propose[*fleet.Node](t, n, putNode("the same"))
	var indexes []uint64
	for range 25 {
		consensustest.Propose[*fleet.Node](t, n, putNode("the same")) // a new one makes two events
		n.View(func(s *fleet.State) { indexes = append(indexes, s.Index()) })
	}
	for i, index := range indexes {
		w, err := n.Watch(index)
		missed := len(indexes) - 1 - i
		if missed > 10 {
			if !errors.Is(err, consensus.ErrTooOld) {
				t.Errorf("%d events back: %v, want ErrTooOld", missed, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d events back: %v", missed, err)
		}
		if missed > 0 {
			events, err := w.Next(context.Background())
			if err != nil || len(events) != missed || events[0].Index != indexes[i+1] {
				t.Errorf("%d events back there are %d (%v)", missed, len(events), err)
			}
		}
		w.Close()
	}
	if _, err := n.Watch(indexes[24] + 1); !errors.Is(err, consensus.ErrTooOld) {
		t.Errorf("an index nobody has reached gives %v", err)
	}
}

func TestNextEndsWithItsContextItsWatcherAndItsNode(t *testing.T) {
	n, err := consensus.Open(consensustest.Config(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a, b := n.SnapshotAndWatch(func(*fleet.State) {}), n.SnapshotAndWatch(func(*fleet.State) {})
	if _, err := a.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	a.Close()
	a.Close()
	if _, err := a.Next(context.Background()); !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	got := make(chan error)
	go func() {
		_, err := b.Next(context.Background())
		got <- err
	}()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("when the node closes: %v", err)
	}
	if _, err := n.SnapshotAndWatch(func(*fleet.State) {}).Next(context.Background()); !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("after the node has closed: %v", err)
	}
}
