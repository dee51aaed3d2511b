package ui

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// realCluster is a consensus node as the API wants it.
type realCluster struct{ *consensus.Node }

func (c realCluster) Watch(since uint64) (api.Watcher, error) { return c.Node.Watch(since) }

func (c realCluster) SnapshotAndWatch(f func(*fleet.State)) api.Watcher {
	return c.Node.SnapshotAndWatch(f)
}

// TestInstallSeenOverARealNode follows one machine from its report to its own
// disk, on a real Raft node: everything the socket tells, in order.
func TestInstallSeenOverARealNode(t *testing.T) {
	n, err := consensus.Open(consensus.Config{Dir: t.TempDir(), Name: "n1", Region: "dc1", Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := n.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	_, _, c, _ := newNode(t, func(cfg *Config) { cfg.API.Cluster, cfg.API.Membership, cfg.API.Now = realCluster{n}, nil, time.Now })
	do := func(body fleet.Body) {
		t.Helper()
		if _, err := n.Propose(ctx, body); err != nil {
			t.Fatal(err)
		}
	}
	e := look(t, c, 0)
	if snap := e.snapshot(); len(snap.Machines) != 0 {
		t.Fatalf("an empty fleet has %d machines", len(snap.Machines))
	}
	do(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: wire.Manifest{}.Digest(), SizeBytes: 64 << 20, Sector: 512}})
	do(fleet.ReportMachine{NewID: "m-1", RegionID: "dc1", BootID: "b", SessionHash: "s", MAC: "52:54:00:00:00:01", IP: "10.77.0.100",
		Inventory: wire.Inventory{System: wire.System{Serial: "LAB-1"}, NICs: []wire.NIC{{Name: "eth0", MAC: "52:54:00:00:00:01"}},
			Disks: []wire.Disk{{Name: "vda", Serial: "D1", SizeBytes: 8e9, LogicalSector: 512}}}})
	if f := e.until("hardware"); f.Machine.Phase != api.PhaseDiscovered {
		t.Errorf("a new machine is %s", f.Machine.Phase)
	}
	wish := api.Wish{MachineID: "m-1", OSType: "tiny"}
	plan, err := c.Plan(ctx, wish)
	if err != nil || plan.Plan == nil || plan.Plan.Erase.Serial != "D1" {
		t.Fatalf("the plan is %+v (%v)", plan, err)
	}
	wish.Approve = &api.WishApproval{PlanHash: "another"}
	if _, err := c.CreateTask(ctx, wish); client.StatusOf(err) != 412 {
		t.Errorf("another plan was answered: %v", err)
	}
	wish.Approve.PlanHash = plan.PlanHash
	task, err := c.CreateTask(ctx, wish)
	if err != nil {
		t.Fatal(err)
	}
	if f := e.until("task_created"); f.TaskID != task.ID || f.Task.Status != wire.StatusApproved {
		t.Errorf("the new task is %+v", f.Task)
	}
	do(fleet.StartInstall{TaskID: task.ID, Generation: 1, PlanHash: plan.PlanHash, SessionHash: "s"})
	if f := e.until("status"); f.Machine.Phase != api.PhaseErasing {
		t.Errorf("the machine is %s", f.Machine.Phase)
	}
	for _, p := range []wire.Progress{{Stage: wire.StagePartitioning, Percentage: 20}, {Stage: wire.StageDownloading, Percentage: 40}, {Stage: wire.StageInstalling, Percentage: 80}, {Stage: wire.StageConfiguring, Percentage: 99}} {
		n.Progress(task.ID, 1, p)
		for {
			f := e.next().Frame
			if f != nil && f.Progress != nil && f.Progress.Percentage == p.Percentage {
				break
			}
		}
		if got, err := c.Task(ctx, task.ID); err != nil || got.Progress.Percentage != p.Percentage {
			t.Errorf("the task is at %+v (%v), want %v", got.Progress, err, p.Percentage)
		}
	}
	do(fleet.FinishInstall{TaskID: task.ID, Generation: 1, SessionHash: "s"})
	for {
		if f := e.until("status"); f.Task.Status == wire.StatusCompleted {
			if f.Machine.Phase != api.PhaseInstalled || f.Task.Progress == nil || f.Task.Progress.Percentage < 99 {
				t.Errorf("the machine is %s at %+v", f.Machine.Phase, f.Task.Progress)
			}
			break
		}
	}
	all, err := c.Tasks(ctx, client.TaskFilter{MachineID: "m-1"})
	if err != nil || len(all) != 1 {
		t.Errorf("its tasks are %v (%v)", all, err)
	}
	if h, err := c.Health(ctx); err != nil || h.Leader != n.ID() {
		t.Errorf("health is %+v (%v)", h, err)
	}
}
