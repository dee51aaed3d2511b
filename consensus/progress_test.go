package consensus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// installing brings task t<i> of a machine of its own to installing.
func installing(t testing.TB, n *consensus.Node, i int) *fleet.Task {
	t.Helper()
	if i == 0 {
		consensustest.Propose[*fleet.Image](t, n, fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("ab", 32), SizeBytes: 1 << 20}})
	}
	mac, id, session := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), fmt.Sprintf("t%d", i), fmt.Sprintf("s%d", i)
	consensustest.Propose[*fleet.Task](t, n, fleet.CreateTask{ID: id, TargetMAC: mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "token-" + id})
	consensustest.Propose[*fleet.Machine](t, n, fleet.ReportMachine{NewID: fmt.Sprintf("m%d", i), BootID: "boot", SessionHash: session, MAC: mac,
		Inventory: wire.Inventory{NICs: []wire.NIC{{MAC: mac}}, Disks: []wire.Disk{{Name: "sda", Serial: "D", SizeBytes: 100 << 30, LogicalSector: 512}}}})
	var hash string
	n.View(func(s *fleet.State) { hash = s.Task(id).PlanHash })
	consensustest.Propose[*fleet.Task](t, n, fleet.DecideTask{TaskID: id, Approved: true, PlanHash: hash, By: "ann"})
	return consensustest.Propose[*fleet.Task](t, n, fleet.StartInstall{TaskID: id, Generation: 1, PlanHash: hash, SessionHash: session})
}

func downloading(percentage float64) wire.Progress {
	return wire.Progress{Stage: wire.StageDownloading, Percentage: percentage}
}

func TestProgressIsSeenAtOnceAndLoggedOnceAnInterval(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.ProgressInterval = 200 * time.Millisecond
	n := consensustest.Open(t, cfg)
	tasks := []*fleet.Task{installing(t, n, 0), installing(t, n, 1), installing(t, n, 2)}
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	defer w.Close()

	const updates = 1000
	start, first := time.Now(), n.Stats()["log_index"].(uint64)
	seen, logged := map[string]float64{}, map[string]bool{}
	look := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		events, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range events {
			if got := ev.Task.Progress.Percentage; got < seen[ev.TaskID] {
				t.Fatalf("the bar of %s ran from %v back to %v", ev.TaskID, seen[ev.TaskID], got)
			} else {
				seen[ev.TaskID] = got
			}
			logged[ev.TaskID] = logged[ev.TaskID] || !ev.Live
		}
	}
	for i := range updates {
		task := tasks[i%len(tasks)]
		want := 20 + 39*float64(i)/updates
		n.Progress(task.ID, 1, downloading(want))
		look()
		if got := seen[task.ID]; got != want {
			t.Fatalf("update %d of %s is seen as %v, want %v", i, task.ID, got, want)
		}
		if got, ok := n.Latest(task.ID); !ok || got.Percentage != want {
			t.Fatalf("Latest is %v, want %v", got.Percentage, want)
		}
	}
	for _, task := range tasks {
		n.Progress(task.ID, 1, downloading(60))
	}
	eventually(t, "the newest values in the log", func() (all bool) {
		n.View(func(s *fleet.State) {
			all = true
			for _, task := range s.Tasks() {
				all = all && task.Progress.Percentage == 60
			}
		})
		return all
	})
	entries, most := n.Stats()["log_index"].(uint64)-first, uint64(time.Since(start)/cfg.ProgressInterval)+1
	if entries == 0 || entries > most {
		t.Errorf("%d updates made %d entries in %v, want %d at most", updates, entries, time.Since(start), most)
	}
	for len(logged) < len(tasks) || seen["t0"] < 60 || seen["t1"] < 60 || seen["t2"] < 60 {
		look()
	}
}

func TestProgressThatDoesNotFitIsDropped(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.ProgressInterval = time.Hour
	n := consensustest.Open(t, cfg)
	installing(t, n, 0)
	n.Progress("t0", 1, downloading(40))
	consensustest.Propose[*fleet.Node](t, n, putNode("known")) // one that is new is told twice, as a node and in the audit
	for name, f := range map[string]func(){
		"backwards":          func() { n.Progress("t0", 1, downloading(39)) },
		"another generation": func() { n.Progress("t0", 2, downloading(41)) },
		"no stage":           func() { n.Progress("t0", 1, wire.Progress{Stage: "x", Percentage: 41}) },
		"the same again":     func() { n.Progress("t0", 1, downloading(40)) },
		"no task":            func() { n.Progress("none", 1, downloading(41)) },
	} {
		w := n.SnapshotAndWatch(func(*fleet.State) {})
		f()
		consensustest.Propose[*fleet.Node](t, n, putNode("known"))
		if events, err := w.Next(context.Background()); err != nil || len(events) != 1 || events[0].Node == nil {
			t.Errorf("%s: viewers were told %+v (%v)", name, events, err)
		}
		w.Close()
		if got, _ := n.Latest("t0"); got.Percentage != 40 {
			t.Errorf("%s: moved the task to %v", name, got.Percentage)
		}
	}
	if _, ok := n.Latest("none"); ok {
		t.Error("a task that is not there has progress")
	}
	consensustest.Propose[*fleet.Task](t, n, fleet.CancelTask{TaskID: "t0"})
	n.Progress("t0", 1, downloading(50))
	if got, _ := n.Latest("t0"); got.Percentage == 50 {
		t.Error("a cancelled task moved")
	}
}

func TestASlowViewerGetsTheNewestProgressOnly(t *testing.T) {
	cfg := consensustest.Config(t.TempDir())
	cfg.RingEvents, cfg.ProgressInterval = 50, time.Hour
	n := consensustest.Open(t, cfg)
	installing(t, n, 0)
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	defer w.Close()
	for i := range 1001 {
		n.Progress("t0", 1, downloading(20+float64(i)/100))
	}
	events, err := w.Next(context.Background())
	if err != nil || len(events) != 1 || !events[0].Live || events[0].Task.Progress.Percentage != 30 {
		t.Errorf("it gets %d events (%v)", len(events), err)
	}
}

func TestTheLastProgressIsKept(t *testing.T) {
	t.Run("when an install ends", func(t *testing.T) {
		cfg := consensustest.Config(t.TempDir())
		cfg.ProgressInterval = time.Hour
		n := consensustest.Open(t, cfg)
		installing(t, n, 0)
		n.Progress("t0", 1, wire.Progress{Stage: wire.StageConfiguring, Percentage: 99})
		done := consensustest.Propose[*fleet.Task](t, n, fleet.FinishInstall{TaskID: "t0", Generation: 1, SessionHash: "s0"})
		if done.Status != wire.StatusCompleted {
			t.Errorf("the task is %s", done.Status)
		}
		if got, _ := n.Latest("t0"); got.Percentage != 100 {
			t.Errorf("Latest is %v", got.Percentage)
		}
	})
	t.Run("when the node closes", func(t *testing.T) {
		cfg := consensustest.Config(t.TempDir())
		cfg.ProgressInterval = time.Hour
		n := consensustest.Open(t, cfg)
		installing(t, n, 0)
		n.Progress("t0", 1, downloading(33))
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		n = consensustest.Open(t, cfg)
		if got, ok := n.Latest("t0"); !ok || got.Percentage != 33 {
			t.Errorf("after the restart it is at %v", got.Percentage)
		}
	})
}
