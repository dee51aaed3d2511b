package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func survivor(t testing.TB, dir string) *consensus.Survivor {
	t.Helper()
	s, err := consensus.OpenSurvivor(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() }) //nolint:errcheck // the second time
	return s
}

func TestASurvivorGoesOnAlone(t *testing.T) {
	cfg := clusterDir(t, map[string]string{"n2": "127.0.0.1:2", "n3": "127.0.0.1:3"})
	s := survivor(t, cfg.Dir)
	if s.Node != "n1" || len(s.Members) != 3 || s.Members[0].ID != "n1" || s.Members[0].Name != "name of n1" || s.Last == 0 || s.LastAt.IsZero() {
		t.Errorf("it is %+v", s)
	}
	if _, err := consensus.Open(cfg); !errors.Is(err, consensus.ErrInUse) {
		t.Errorf("a node that starts meanwhile is told %v", err)
	}
	if err := errors.Join(s.Recover("ann", "the hall burned"), s.Close()); err != nil {
		t.Fatal(err)
	}
	n := consensustest.Open(t, cfg)
	n.View(func(st *fleet.State) {
		if st.Cluster().Epoch != 2 || len(st.Nodes()) != 1 || st.Node("n1") == nil {
			t.Errorf("the epoch is %d, the nodes are %v", st.Cluster().Epoch, st.Nodes())
		}
		// The newest is who leads.
		if a := st.Audit(4)[1:]; !strings.Contains(a[2].What, "the hall burned") || a[0].By != "ann" || a[0].Node != "n3" {
			t.Errorf("the audit says %+v", a)
		}
	})
	consensustest.Propose[*fleet.Node](t, n, putNode("n4"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := survivor(t, cfg.Dir).Recover("ann", "again"); err == nil || !strings.Contains(err.Error(), "a cluster of its own already") {
		t.Errorf("the second time it says %v", err)
	}
}

func TestWhatIsNotUnderstoodIsNotRecovered(t *testing.T) {
	cfg := clusterDir(t, map[string]string{"n2": "127.0.0.1:2"})
	if err := consensus.AddEntry(cfg.Dir, raft.LogCommand, []byte(`{"v":1,"id":"x","type":"paint_machine","data":{}}`)); err != nil {
		t.Fatal(err)
	}
	before := files(t, cfg.Dir)
	if _, err := consensus.OpenSurvivor(cfg.Dir, quiet); !errors.Is(err, fleet.ErrUnknownCommand) {
		t.Errorf("it says %v", err)
	}
	if after := files(t, cfg.Dir); after[cfg.Dir+"/raft.db"] != before[cfg.Dir+"/raft.db"] {
		t.Error("the log was changed")
	}
}

func TestOnlyADirectoryOfANodeCanBeRecovered(t *testing.T) {
	empty, strange := t.TempDir(), t.TempDir()
	if err := os.WriteFile(strange+"/thesis.txt", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	running := consensustest.Config(t.TempDir())
	consensustest.Open(t, running)
	for dir, says := range map[string]string{empty + "/none": "no such file", empty: "is empty", strange: "is no node's data directory", running.Dir: "in use by process"} {
		if _, err := consensus.OpenSurvivor(dir, quiet); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: it says %v", dir, err)
		}
	}
	for _, dir := range []string{empty, strange} {
		if found, err := os.ReadDir(dir); err != nil || len(found) > 1 {
			t.Errorf("%s holds %v now (%v)", dir, found, err)
		}
	}
}

func TestAMemberThatAnswersIsFound(t *testing.T) {
	alive, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := dead.Addr().String()
	dead.Close()
	s := survivor(t, clusterDir(t, map[string]string{"n2": alive.Addr().String(), "n3": gone}).Dir)
	var dialer net.Dialer
	if found := consensus.Answering(context.Background(), s.Others(), dialer.DialContext); len(found) != 1 || found[0].ID != "n2" {
		t.Errorf("it found %+v", found)
	}
}

func TestR19_ARecoverThatWasCutOffIsBegunAnewOrComplete(t *testing.T) {
	// Cut off after the note of the new epoch: the node is one of its old cluster.
	cfg := clusterDir(t, map[string]string{"n2": "127.0.0.1:2"})
	if err := os.WriteFile(cfg.Dir+"/raise-epoch", []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := survivor(t, cfg.Dir)
	if err := errors.Join(s.Recover("ann", "the hall burned"), s.Close()); err != nil {
		t.Fatal(err)
	}
	// Cut off after the snapshot: the log is what it was before.
	other := clusterDir(t, map[string]string{"n2": "127.0.0.1:2"})
	log, err := os.ReadFile(other.Dir + "/raft.db")
	if err != nil {
		t.Fatal(err)
	}
	s = survivor(t, other.Dir)
	if err := errors.Join(s.Recover("ann", "the hall burned"), s.Close(), os.WriteFile(other.Dir+"/raft.db", log, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []consensus.Config{cfg, other} {
		n := consensustest.Open(t, cfg)
		n.View(func(st *fleet.State) {
			if st.Cluster().Epoch != 2 || len(st.Nodes()) != 1 {
				t.Errorf("the epoch is %d, the nodes are %v", st.Cluster().Epoch, st.Nodes())
			}
		})
	}
}

func TestOneOfThreeGoesOnAndOthersJoinAnew(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	consensustest.Propose[*fleet.Cluster](t, c.Nodes[1], fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1"}})
	for i := range 20 {
		consensustest.Propose[*fleet.Image](t, c.Nodes[i%3], fleet.PutImage{Image: fleet.Image{Name: fmt.Sprint("image-", i), Digest: strings.Repeat("ab", 32), SizeBytes: 1}})
	}
	if err := c.Nodes[2].Verify(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := c.Stop(i); err != nil {
			t.Fatal(err)
		}
	}
	s := survivor(t, c.Dir(2))
	address := ""
	for _, m := range s.Others() {
		if m.ID == consensustest.Name(1) {
			address = m.Address
		}
	}
	if len(s.Others()) != 2 || address == "" {
		t.Errorf("the others of %s are %+v", s.Node, s.Others())
	}
	if err := errors.Join(s.Recover("ann", "two of three burned"), s.Close()); err != nil {
		t.Fatal(err)
	}
	c.Start(2)
	c.Ready(2)
	c.Nodes[2].View(func(st *fleet.State) {
		if len(st.Images()) != 20 || st.Cluster().Epoch != 2 || len(st.Nodes()) != 1 {
			t.Errorf("it has %d images, epoch %d and %d nodes", len(st.Images()), st.Cluster().Epoch, len(st.Nodes()))
		}
	})
	// A new node under the old one's name, with nothing of its own.
	if err := os.RemoveAll(c.Dir(1)); err != nil {
		t.Fatal(err)
	}
	c.Start(1)
	if err := c.Nodes[2].Admit(context.Background(), consensustest.Name(1), address); err != nil {
		t.Fatal(err)
	}
	c.Ready(1)
	consensustest.Propose[*fleet.Image](t, c.Nodes[1], fleet.PutImage{Image: fleet.Image{Name: "after", Digest: strings.Repeat("cd", 32), SizeBytes: 1}})
	if got, want := content(t, c.Nodes[1]), content(t, c.Nodes[2]); got != want {
		t.Error("the two do not know the same")
	}
}
