package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// large is a command that fills a disk soon.
func large(id string) fleet.PutNode {
	return fleet.PutNode{Node: fleet.Node{ID: id, Name: "node", Version: strings.Repeat("x", 100<<10)}}
}

// writes are what several clients were told.
type writes struct {
	mu    sync.Mutex
	acked map[string]bool
	full  int
	other []error
	last  time.Time // an acknowledgement
}

func (w *writes) count() (acked, full int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked), w.full
}

func (w *writes) run(n *consensus.Node, name string, names int, stop <-chan struct{}) {
	for k := 0; ; k++ {
		select {
		case <-stop:
			return
		default:
		}
		// Few names, so that the state stays small while the log grows.
		id := fmt.Sprintf("%s-%d", name, k%names)
		_, err := n.Propose(context.Background(), large(id))
		w.mu.Lock()
		switch {
		case err == nil:
			w.acked[id] = true
			w.last = time.Now()
		case errors.Is(err, consensus.ErrNoSpace):
			w.full++
		case !errors.Is(err, consensus.ErrUncertain) && !errors.Is(err, consensus.ErrNotReady):
			w.other = append(w.other, err)
		}
		w.mu.Unlock()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func soon(t *testing.T, what string, atMost time.Duration, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > atMost {
			t.Fatalf("waited %v until %s", atMost, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func TestANodeWhoseDiskIsFullGoesOnWhenThereIsRoom(t *testing.T) {
	onEach(t, aNodeWhoseDiskIsFull)
}

func aNodeWhoseDiskIsFull(t *testing.T, kind string) {
	dir := small(t, kind, filepath.Join(t.TempDir(), "disk"), 96)
	cfg := consensustest.Config(filepath.Join(dir, "node"))
	cfg.SnapshotBytes = 8 << 20
	n := consensustest.Open(t, cfg)
	w := &writes{acked: map[string]bool{}}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i := range 3 {
		all.Go(func() { w.run(n, fmt.Sprint("w", i), 5, stop) })
	}
	for round := range number("LPMOS_FULLS", 3) {
		before, fullBefore := w.count()
		soon(t, "writes are acknowledged", 20*time.Second, func() bool { acked, _ := w.count(); return acked >= min(15, before+1) })
		empty := fill(t, dir)
		took := soon(t, "the writers are told that the disk is full", 60*time.Second, func() bool { _, full := w.count(); return full > fullBefore })
		n.View(func(s *fleet.State) {
			if s.Node("w0-0") == nil {
				t.Error("what was written is not shown while the disk is full")
			}
		})
		select {
		case err := <-n.Failed():
			t.Fatalf("the node has stopped: %v", err)
		default:
		}
		empty()
		freed := time.Now()
		soon(t, "writes are acknowledged again", 30*time.Second, func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.last.After(freed) })
		t.Logf("round %d: told after %v, writing again %v after there was room", round, took.Round(time.Millisecond), time.Since(freed).Round(time.Millisecond))
	}
	close(stop)
	all.Wait()
	for _, err := range w.other {
		t.Errorf("a writer was told: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	consensustest.Open(t, cfg).View(func(s *fleet.State) {
		for id := range w.acked {
			if s.Node(id) == nil {
				t.Errorf("%s was acknowledged and is gone", id)
			}
		}
	})
}

func TestALeaderWhoseDiskIsFullStepsAside(t *testing.T) {
	onEach(t, aLeaderWhoseDiskIsFull)
}

func aLeaderWhoseDiskIsFull(t *testing.T, kind string) {
	root := t.TempDir()
	for i := range 3 {
		small(t, kind, filepath.Join(root, fmt.Sprintf("n%d-%d", i+1, i+1)), 128)
	}
	w := newWorld(t, root, 3, rand.New(rand.NewPCG(1, 1)), nil, func(_ *slot, c *consensus.Config) { c.SnapshotBytes = 8 << 20 })
	defer func() {
		for _, s := range w.slots {
			w.stop(s)
		}
	}()
	told := &writes{acked: map[string]bool{}}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for i, n := range w.nodes() {
		all.Go(func() { told.run(n, fmt.Sprint("w", i), 5, stop) })
	}
	soon(t, "writes are acknowledged", 20*time.Second, func() bool { acked, _ := told.count(); return acked >= 15 })
	lead := w.leader()
	empty := fill(t, lead.dir)
	filled := time.Now()
	soon(t, "another node leads", 60*time.Second, func() bool {
		for _, s := range w.slots {
			if s != lead && s.node.Load().Leads() {
				return true
			}
		}
		return false
	})
	led := time.Now()
	soon(t, "writes are acknowledged again", 20*time.Second, func() bool { told.mu.Lock(); defer told.mu.Unlock(); return told.last.After(led) })
	t.Logf("another leads %v after the disk was full, the next write %v after that", led.Sub(filled).Round(time.Millisecond), time.Since(led).Round(time.Millisecond))
	if lead.node.Load().Status().Problem == "" {
		t.Error("the node whose disk is full does not say so")
	}
	// The others go on for a while; the full one shows what it has.
	more := time.Now().Add(5 * time.Second)
	soon(t, "the others go on", 20*time.Second, func() bool { told.mu.Lock(); defer told.mu.Unlock(); return told.last.After(more) })
	empty()
	freed := time.Now()
	soon(t, "the node that was full has caught up", 60*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		return lead.node.Load().Verify(ctx) == nil
	})
	t.Logf("it has caught up %v after there was room", time.Since(freed).Round(time.Millisecond))
	close(stop)
	all.Wait()
	for _, err := range told.other {
		t.Errorf("a writer was told: %v", err)
	}
	for _, s := range w.slots {
		select {
		case err := <-s.node.Load().Failed():
			t.Errorf("%s has stopped: %v", s.id, err)
		default:
		}
		if err := s.node.Load().Verify(t.Context()); err != nil {
			t.Errorf("%s: %v", s.id, err)
		}
		s.node.Load().View(func(st *fleet.State) {
			for id := range told.acked {
				if st.Node(id) == nil {
					t.Errorf("%s lacks %s, which was acknowledged", s.id, id)
				}
			}
		})
	}
}
