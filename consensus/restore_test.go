package consensus_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	randv2 "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

var quiet = slog.New(slog.DiscardHandler)

func restoring(dir string, s *fleet.State) consensus.Restoring {
	return consensus.Restoring{Dir: dir, State: s, Logger: quiet, Rand: rand.Reader,
		Info: consensus.BackupInfo{Node: "n1", Index: s.Index(), Term: 3, Created: made}}
}

func stored(t testing.TB, dir string) *fleet.State {
	t.Helper()
	s, err := consensus.StoredState(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestARestoredDirectoryHoldsTheSameState(t *testing.T) {
	for seed := range uint64(100) {
		file, wrote := backupOf(t, anyState(t, randv2.New(randv2.NewPCG(seed, 18))))
		_, s, err := consensus.ReadBackup(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "raft")
		if _, err := consensus.Restore(restoring(dir, s)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if _, again := backupOf(t, stored(t, dir)); again.StateSHA256 != wrote.StateSHA256 {
			t.Fatalf("seed %d: the state has hash %s, it had %s", seed, again.StateSHA256, wrote.StateSHA256)
		}
	}
}

// approvedState has a task that is approved and one that is being installed, of
// a cluster with three nodes.
func approvedState(t testing.TB) *fleet.State {
	t.Helper()
	s := consensustest.Fleet(t, 3, 1)
	at := made
	do := func(b fleet.Body) any {
		result, _, err := s.Apply(s.Index()+1, fleet.Command{At: at, Body: b})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	do(fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1", CACert: []byte{0x30}}})
	do(fleet.CreateToken{ID: "k1", SecretHash: "h", ExpiresAt: at.Add(1), By: "ann"})
	for _, id := range []string{"n1", "n2", "n3"} {
		do(putNode(id))
	}
	for i, id := range []string{"approved", "installing"} {
		task := do(fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: fmt.Sprintf("b0:26:28:00:00:%d0", i), PhoneToken: "p-" + id,
			Spec: fleet.Spec{OSType: "debian", OSVersion: "12"}}).(*fleet.Task)
		do(fleet.DecideTask{TaskID: id, Approved: true, PlanHash: task.PlanHash, By: "ann"})
		if id == "installing" {
			do(fleet.StartInstall{TaskID: id, Generation: 1, PlanHash: task.PlanHash, SessionHash: s.Machine(task.MachineID).SessionHash})
		}
	}
	return s
}

func TestARestoredNodeBeginsANewEpochAlone(t *testing.T) {
	for _, newIdentity := range []bool{false, true} {
		cfg := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
		r := restoring(cfg.Dir, approvedState(t))
		r.NewIdentity = newIdentity
		id, err := consensus.Restore(r)
		if err != nil {
			t.Fatal(err)
		}
		for start := range 2 { // the second changes nothing more
			n := consensustest.Open(t, cfg)
			if n.ID() != id || id == "n1" {
				t.Errorf("the node is %s, made as %s", n.ID(), id)
			}
			n.View(func(s *fleet.State) {
				if c := s.Cluster(); newIdentity && (c != nil || len(s.Tokens()) > 0) || !newIdentity && (c == nil || c.Epoch != 2) {
					t.Errorf("start %d, new identity %t: the cluster is %+v", start+1, newIdentity, c)
				}
				if nodes := s.Nodes(); len(nodes) > 0 {
					t.Errorf("start %d: nodes that are gone are known: %+v", start+1, nodes[0])
				}
				if task := s.Task("approved"); task.Status != wire.StatusPendingApproval || task.Approval != nil {
					t.Errorf("start %d: the approved task is %s, %+v", start+1, task.Status, task.Approval)
				}
				if task := s.Task("installing"); task.Status != wire.StatusInstalling {
					t.Errorf("start %d: the install that ran is %s", start+1, task.Status)
				}
				if got := len(s.Machines()); got != 3 {
					t.Errorf("start %d: there are %d machines", start+1, got)
				}
				if a := s.Audit(9); !strings.Contains(fmt.Sprint(a), "restored from the backup of 2026-03-01 12:00:00 UTC") {
					t.Errorf("start %d: the audit says %v", start+1, a)
				}
			})
			consensustest.Propose[*fleet.Node](t, n, putNode(id))
			consensustest.Propose[*fleet.Node](t, n, fleet.RemoveNode{ID: id})
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestR19_ARestoreThatWasCutOffIsBegunAnew(t *testing.T) {
	s := approvedState(t)
	steps := 0
	for ; ; steps++ {
		cfg := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
		r := restoring(cfg.Dir, s)
		r.CrashAt(steps)
		_, err := consensus.Restore(r)
		if err == nil {
			break // there are no more steps to crash before
		}
		if _, err := os.Stat(cfg.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("step %d: the directory is there (%v)", steps, err)
		}
		if _, err := consensus.Open(cfg); err == nil || !strings.Contains(err.Error(), "run lpmos restore again, or remove "+cfg.Dir+".restoring") {
			t.Fatalf("step %d: a node starts there, or says %v", steps, err)
		}
		if _, err := consensus.Restore(restoring(cfg.Dir, s)); err != nil {
			t.Fatalf("step %d: begun anew, it says %v", steps, err)
		}
		if !bytes.Equal(snapshotOf(t, stored(t, cfg.Dir)), snapshotOf(t, s)) {
			t.Errorf("step %d: the state is another", steps)
		}
	}
	if steps < 5 {
		t.Errorf("only %d steps were looked at", steps)
	}
}

func TestARestoreThatFailsLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	r := restoring(filepath.Join(parent, "raft"), approvedState(t))
	r.FailAt(3, syscall.ENOSPC)
	if _, err := consensus.Restore(r); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("it says %v", err)
	}
	if found, err := os.ReadDir(parent); err != nil || len(found) > 0 {
		t.Errorf("it left %v (%v)", found, err)
	}
}

// clusterDir is the directory of a stopped node n1 whose configuration has these
// members beside it, at these addresses.
func clusterDir(t testing.TB, others map[string]string) consensus.Config {
	t.Helper()
	cfg := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
	cfg.NodeID = "n1"
	n := consensustest.Open(t, cfg)
	consensustest.Propose[*fleet.Cluster](t, n, fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1"}})
	for _, id := range []string{"n1", "n2", "n3"} {
		consensustest.Propose[*fleet.Node](t, n, putNode(id))
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	servers := []raft.Server{{ID: "n1", Address: "127.0.0.1:1"}}
	for id, address := range others {
		servers = append(servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(address)})
	}
	if err := consensus.AddEntry(cfg.Dir, raft.LogConfiguration, raft.EncodeConfiguration(raft.Configuration{Servers: servers})); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestRestoreTouchesNothingThatIsThere(t *testing.T) {
	s := approvedState(t)
	one := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
	one.NodeID = "lonely"
	if err := consensustest.Open(t, one).Close(); err != nil {
		t.Fatal(err)
	}
	running := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
	consensustest.Open(t, running)
	busy := filepath.Join(t.TempDir(), "raft")
	strange := t.TempDir()
	broken := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
	if err := errors.Join(consensustest.Open(t, broken).Close(), os.Truncate(filepath.Join(broken.Dir, "raft.db"), 9000),
		os.WriteFile(filepath.Join(strange, "thesis.txt"), nil, 0o600), os.Mkdir(busy+".restoring", 0o700)); err != nil {
		t.Fatal(err)
	}
	release, err := consensus.LockDir(busy + ".restoring")
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for _, tc := range []struct{ what, dir, says string }{
		{"a cluster of three", clusterDir(t, map[string]string{"n2": "127.0.0.1:2", "n3": "127.0.0.1:3"}).Dir,
			"that of node n1, one of the 3 of a cluster: a backup in its place would be a second truth beside theirs. Remove the node from its cluster first (lpmos node remove n1, on another node)"},
		{"a node alone", one.Dir, "that of node lonely already: move it away, or restore into another directory"},
		{"a running node", running.Dir, "data directory is in use by process"},
		{"another restore", busy, "data directory is in use by process"},
		{"a damaged log", broken.Dir, "it cannot be read"},
		{"somebody's papers", strange, "is no node's data directory"},
	} {
		before := files(t, filepath.Dir(tc.dir))
		if _, err := consensus.Restore(restoring(tc.dir, s)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: it says %v", tc.what, err)
		}
		after := files(t, filepath.Dir(tc.dir))
		for _, m := range []map[string]string{before, after} {
			for name := range m {
				if filepath.Base(name) == "lock" {
					delete(m, name) // who looks holds it for a moment
				}
			}
		}
		if fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("%s: the directory was changed", tc.what)
		}
	}
}

// Agents ask from the first moment. None of them may be let erase a disk on the
// word of an approval out of the backup, which somebody may have acted on since.
func TestNothingGoesBeforeTheNewEpoch(t *testing.T) {
	for range 10 {
		cfg := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
		s := approvedState(t)
		if _, err := consensus.Restore(restoring(cfg.Dir, s)); err != nil {
			t.Fatal(err)
		}
		n, err := consensus.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		task := s.Task("approved")
		_, err = n.Propose(t.Context(), fleet.StartInstall{TaskID: task.ID, Generation: task.Generation, PlanHash: task.PlanHash, SessionHash: s.Machine(task.MachineID).SessionHash})
		if fleet.ErrorCode(err) != fleet.Conflict {
			t.Errorf("an install that was approved before the backup begins: %v", err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
