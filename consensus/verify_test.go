package consensus_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// A node that was filled by a snapshot has a log with a hole behind it: what it
// had before, and what came after. That is no damage.
func TestANodeFilledByASnapshotStartsAgain(t *testing.T) {
	at := -1
	c := consensustest.NewCluster(t, 3, func(i int, cfg *consensus.Config) {
		if i != at { // its own snapshots would hide the hole
			cfg.SnapshotBytes, cfg.TrailingEntries = 8<<10, 8
		}
	})
	at = c.Others(c.Leader())[0]
	consensustest.Propose[*fleet.Node](t, c.Nodes[at], putNode("before"))
	if err := c.Stop(at); err != nil {
		t.Fatal(err)
	}
	other := c.Others(at)[0]
	for i := range 300 {
		consensustest.Propose[*fleet.Node](t, c.Nodes[other], putNode(fmt.Sprint(i)))
	}
	c.Until("the others have shortened their logs", func() bool {
		for _, i := range c.Others(at) {
			if c.Nodes[i].Stats()["snapshot_index"] == nil {
				return false
			}
		}
		return true
	})
	c.Start(at)
	c.Ready(at)
	consensustest.Propose[*fleet.Node](t, c.Nodes[at], putNode("after"))
	if err := c.Stop(at); err != nil {
		t.Fatal(err)
	}
	c.Isolate(at) // nobody can fill it again
	c.Start(at)
	c.Nodes[at].View(func(s *fleet.State) {
		for _, id := range []string{"before", "0", "299", "after"} {
			if s.Node(id) == nil {
				t.Errorf("the node lacks %s", id)
			}
		}
	})
}

// leavePhantoms stops the leader with entries in its log that nobody agrees on, the
// newest at last, and leaves it cut off.
func leavePhantoms(t *testing.T, c *consensustest.Cluster) (was int, last uint64) {
	t.Helper()
	was = c.Leader()
	c.Isolate(was)
	// More entries than the next leader begins with.
	var writers sync.WaitGroup
	had := c.Nodes[was].Stats()["log_index"].(uint64)
	for i := range 8 {
		raw, err := fleet.Command{ID: fmt.Sprint("c", i), At: time.Now(), Body: putNode(fmt.Sprint("phantom-", i))}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() {
			if c.Nodes[was].ApplyRaw(raw) == nil {
				t.Error("a node that is alone has agreed with itself")
			}
		})
	}
	c.Until("they are in the log of the one node", func() bool { return c.Nodes[was].Stats()["log_index"].(uint64) >= had+8 })
	writers.Wait()
	if err := c.Stop(was); err != nil {
		t.Fatal(err)
	}
	return was, had + 8
}

// What a dead leader wrote and nobody agreed on is not to be seen by who has
// verified the state.
func TestWhoVerifiesSeesNothingThatWasNotAgreedOn(t *testing.T) {
	c := consensustest.NewCluster(t, 3, func(_ int, cfg *consensus.Config) { cfg.Heartbeat = 300 * time.Millisecond })
	was, _ := leavePhantoms(t, c)
	c.Leader()
	c.Net.Heal()
	c.Start(was)
	if err := c.Nodes[was].Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Nodes[was].View(func(s *fleet.State) {
		for _, n := range s.Nodes() {
			if strings.HasPrefix(n.ID, "phantom") {
				t.Errorf("the verified state holds %s, which was never agreed on", n.ID)
			}
		}
	})
}

// Whoever was shown entries that were not agreed on is not let go on behind them:
// others stand there now.
func TestWhoSawWhatWasNotAgreedOnLooksAnew(t *testing.T) {
	c := consensustest.NewCluster(t, 3, func(_ int, cfg *consensus.Config) { cfg.Heartbeat = 300 * time.Millisecond })
	was, last := leavePhantoms(t, c)
	c.Start(was)
	var shown uint64
	c.Nodes[was].View(func(s *fleet.State) { shown = s.Index() })
	if shown < last {
		t.Fatalf("it shows its log up to %d of %d", shown, last)
	}
	c.Net.Heal()
	if err := c.Nodes[was].Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		var now uint64
		c.Nodes[was].View(func(s *fleet.State) { now = s.Index() })
		if w, err := c.Nodes[was].Watch(shown); err == nil {
			w.Close()
			t.Fatalf("at %d it lets somebody go on from %d", now, shown)
		}
		if now > shown {
			break
		}
		consensustest.Propose[*fleet.Node](t, c.Nodes[was], putNode(fmt.Sprint("real-", i)))
	}
	var now uint64
	c.Nodes[was].View(func(s *fleet.State) { now = s.Index() })
	w, err := c.Nodes[was].Watch(now)
	if err != nil {
		t.Fatalf("who has seen all that was agreed on cannot go on: %v", err)
	}
	w.Close()
}

// The index that is named to who verifies covers what lies behind a snapshot:
// they may not have come that far.
func TestTheVerifiedIndexCoversWhatIsBehindASnapshot(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.TrailingEntries = 1
	n := consensustest.Open(t, cfg)
	consensustest.Propose[*fleet.Node](t, n, putNode("a"))
	var want uint64
	n.View(func(s *fleet.State) { want = s.Index() })
	for range 3 {
		if err := n.Barrier(); err != nil {
			t.Fatal(err)
		}
	}
	n.Save()
	got, err := n.Verified(t.Context())
	if err != nil || got < want {
		t.Errorf("it names %d (%v), the newest command is %d", got, err, want)
	}
}

// A life of Raft may end between a snapshot that came from the leader being on
// disk and being taken over. The next one has to take it over.
func TestASnapshotThatCameAtTheEndOfALifeIsTakenOver(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	lead := c.Leader()
	at := c.Others(lead)[0]
	if err := c.Nodes[at].Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Isolate(at)
	for i := range 30 {
		consensustest.Propose[*fleet.Node](t, c.Nodes[lead], putNode(fmt.Sprint(i)))
	}
	c.Nodes[lead].Save()
	if err := os.CopyFS(filepath.Join(c.Dir(at), "snapshots"), os.DirFS(filepath.Join(c.Dir(lead), "snapshots"))); err != nil {
		t.Fatal(err)
	}
	c.Nodes[at].Retime(60 * time.Millisecond)
	c.Net.Heal()
	c.Until("the node verifies its state", func() bool { return c.Nodes[at].Verify(t.Context()) == nil })
	c.Nodes[at].View(func(s *fleet.State) {
		for i := range 30 {
			if s.Node(fmt.Sprint(i)) == nil {
				t.Fatalf("the node has verified its state and lacks %d", i)
			}
		}
	})
}

// A node that is closed while it starts Raft anew leaves none behind.
func TestClosingWhileRaftStartsAnew(t *testing.T) {
	for range 3 {
		port, err := consensustest.NewNetwork().Join("n1", "")
		if err != nil {
			t.Fatal(err)
		}
		cfg := consensustest.Config(t.TempDir())
		cfg.NodeID, cfg.Network = "n1", port
		n := consensustest.Open(t, cfg)
		begun, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for i := range 10 {
				n.Retime(500 * time.Millisecond)
				if i == 0 {
					close(begun)
				}
			}
		}()
		<-begun
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		<-done
		if role := n.Status().Role; role != "stopped" {
			t.Fatalf("it is closed and its Raft is a %s", role)
		}
		select {
		case err := <-n.Failed():
			t.Fatalf("Raft was started in a node that was closed: %v", err)
		default:
		}
	}
}
