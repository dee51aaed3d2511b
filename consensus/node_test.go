package consensus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func putNode(id string) fleet.PutNode {
	return fleet.PutNode{Node: fleet.Node{ID: id, Name: "name of " + id}}
}

func content(t testing.TB, n *consensus.Node) string {
	t.Helper()
	var b bytes.Buffer
	var err error
	n.View(func(s *fleet.State) { err = s.Snapshot().Write(&b) })
	if err != nil {
		t.Fatal(err)
	}
	// Who leads, and the record of it, is another thing at every start.
	_, rest, _ := strings.Cut(b.String(), "\n")
	var kept strings.Builder
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, `{"kind":"leader"`) && !strings.HasPrefix(line, `{"kind":"audit"`) && !strings.HasPrefix(line, `{"kind":"done"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// eventually waits for something that another goroutine brings about.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestARestartKeepsWhatWasAcknowledged(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	n := consensustest.Open(t, cfg)
	id := n.ID()
	consensustest.Propose[*fleet.Node](t, n, putNode("a"))
	was := content(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = consensustest.Open(t, cfg)
	if n.ID() != id {
		t.Errorf("the node was %s and is %s now", id, n.ID())
	}
	if got := content(t, n); got != was || !strings.Contains(got, "name of a") {
		t.Errorf("after the restart the state is\n%s\nit was\n%s", got, was)
	}
}

func TestWhatIsAcknowledgedWhileTheNodeClosesIsKept(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	n := consensustest.Open(t, cfg)
	var wg sync.WaitGroup
	var mu sync.Mutex
	acked := map[string]bool{}
	enough := make(chan struct{})
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d", w, i)
				if _, err := n.Propose(context.Background(), putNode(id)); err != nil {
					if !errors.Is(err, consensus.ErrNotReady) {
						t.Errorf("a closing node says %v, want ErrNotReady", err)
					}
					return
				}
				mu.Lock()
				acked[id] = true
				if len(acked) == 100 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	n = consensustest.Open(t, cfg)
	n.View(func(s *fleet.State) {
		for id := range acked {
			if s.Node(id) == nil {
				t.Errorf("%s was acknowledged and is gone", id)
			}
		}
	})
}

func TestARefusalIsTheRulesOwn(t *testing.T) {
	n := consensustest.Node(t)
	_, err := n.Propose(context.Background(), fleet.CancelTask{TaskID: "x"})
	var refusal *fleet.Error
	if !errors.As(err, &refusal) || refusal.Code != fleet.NotFound {
		t.Errorf("cancelling nothing gives %v", err)
	}
}

func TestAContextThatHasEndedProposesNothing(t *testing.T) {
	n := consensustest.Node(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := n.Propose(ctx, putNode("a")); !errors.Is(err, consensus.ErrNotReady) || !errors.Is(err, context.Canceled) {
		t.Errorf("it gives %v", err)
	}
	if content(t, n) != "" {
		t.Error("the command was carried out")
	}
}

func TestASecondProcessIsToldWhoHasTheDirectory(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	consensustest.Open(t, cfg)
	_, err := consensus.Open(cfg)
	if !errors.Is(err, consensus.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("the second one is told %v", err)
	}
}

func TestTheDirectoryIsForThisUserAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	consensustest.Open(t, consensustest.Config(dir))
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v (%v)", fi.Mode(), err)
	}
	for _, name := range []string{"format", "node-id", "lock", "raft.db"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v (%v)", name, fi, err)
		}
	}
}

func TestANodeIDIsForEver(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.NodeID = "node-one"
	n := consensustest.Open(t, cfg)
	if n.ID() != "node-one" {
		t.Errorf("the node is %s", n.ID())
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.NodeID = "node-two"
	if _, err := consensus.Open(cfg); err == nil || !strings.Contains(err.Error(), "belongs to node node-one") {
		t.Errorf("another id gives %v", err)
	}
}

func TestAnEntryNobodyKnowsStopsTheNode(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	n := consensustest.Open(t, cfg)
	consensustest.Propose[*fleet.Node](t, n, putNode("before"))
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	n.ApplyRaw([]byte(`{"v":1,"id":"x","at":"2026-01-01T00:00:00Z","type":"teleport","data":{}}`)) //nolint:errcheck // stops on the way
	stopped(t, n, fleet.ErrUnknownCommand)
	if _, err := w.Next(context.Background()); !errors.Is(err, consensus.ErrClosed) {
		t.Errorf("a watcher of it gets %v", err)
	}
	was := content(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n, err := consensus.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	stopped(t, n, fleet.ErrUnknownCommand)
	if content(t, n) != was {
		t.Error("it went on with another state")
	}
}

func TestARuleThatPanicsStopsTheNode(t *testing.T) {
	n := consensustest.Node(t)
	good := n.SwapState(&fleet.State{})
	n.Propose(context.Background(), putNode("a")) //nolint:errcheck // stopped checks it
	n.SwapState(good)
	stopped(t, n, consensus.ErrApply)
}

func TestALogThatCannotBeWrittenStopsTheNode(t *testing.T) {
	n := consensustest.Node(t)
	consensustest.Propose[*fleet.Node](t, n, putNode("before"))
	was := content(t, n)
	if err := n.CloseLog(); err != nil { // every write fails from here on, as on a full disk
		t.Fatal(err)
	}
	if _, err := n.Propose(context.Background(), putNode("a")); !errors.Is(err, consensus.ErrStorage) || !errors.Is(err, consensus.ErrUncertain) {
		t.Errorf("Propose gives %v", err)
	}
	select {
	case err := <-n.Failed():
		if !errors.Is(err, consensus.ErrStorage) {
			t.Errorf("it stopped because %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it did not stop")
	}
	if _, err := n.Propose(context.Background(), putNode("b")); !errors.Is(err, consensus.ErrStorage) {
		t.Errorf("a later Propose gives %v", err)
	}
	if content(t, n) != was {
		t.Error("what was not written was applied")
	}
}

// stopped wants the node to have stopped for this reason, and to say so everywhere.
func stopped(t *testing.T, n *consensus.Node, why error) {
	t.Helper()
	select {
	case err := <-n.Failed():
		if !errors.Is(err, why) || !errors.Is(err, consensus.ErrApply) {
			t.Fatalf("it stopped because %v, want %v", err, why)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it did not stop")
	}
	if err := n.Ready(context.Background()); !errors.Is(err, why) {
		t.Errorf("Ready gives %v", err)
	}
	if _, err := n.Propose(context.Background(), putNode("after")); !errors.Is(err, why) {
		t.Errorf("Propose gives %v", err)
	}
}

func TestASnapshotTakesThePlaceOfTheLog(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.SnapshotBytes, cfg.TrailingEntries = 4096, 8
	n := consensustest.Open(t, cfg)
	for i := range 200 {
		consensustest.Propose[*fleet.Node](t, n, putNode(fmt.Sprint(i%20)))
	}
	eventually(t, "a snapshot", func() bool { return n.Stats()["snapshot_index"] != nil })
	consensustest.Propose[*fleet.Node](t, n, putNode("after the snapshot"))
	was := content(t, n)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n = consensustest.Open(t, cfg)
	if got := content(t, n); got != was {
		t.Errorf("out of the snapshot comes\n%s\nit was\n%s", got, was)
	}
	if _, err := n.Watch(1); !errors.Is(err, consensus.ErrTooOld) {
		t.Errorf("events that went into the snapshot can be had: %v", err)
	}
}

func TestClosingLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	before := runtime.NumGoroutine()
	for range 3 {
		n, err := consensus.Open(consensustest.Config(dir))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Ready(context.Background()); err != nil {
			t.Fatal(err)
		}
		w := n.SnapshotAndWatch(func(*fleet.State) {})
		consensustest.Propose[*fleet.Node](t, n, putNode("a"))
		w.Close()
		if err := errors.Join(n.Close(), n.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Propose(context.Background(), putNode("b")); !errors.Is(err, consensus.ErrNotReady) {
			t.Errorf("a closed node says %v", err)
		}
		if err := n.Ready(context.Background()); !errors.Is(err, consensus.ErrNotReady) {
			t.Errorf("a closed node is ready: %v", err)
		}
	}
	eventually(t, "all goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}
