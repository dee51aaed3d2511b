package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// bootsAs asks a node for boot scripts as the firmware of a machine does.
type bootsAs struct {
	t    *testing.T
	mac  string
	node *consensus.Node
	h    http.Handler
	seen *netboot.Sightings
}

func asFirmware(t *testing.T, node *consensus.Node, mac string) bootsAs {
	t.Helper()
	return asFirmwareWith(t, node, mac, profileStore{})
}

// asFirmwareWith is asFirmware at a node that has these files of profiles.
func asFirmwareWith(t *testing.T, node *consensus.Node, mac string, files profileStore) bootsAs {
	t.Helper()
	s, err := netboot.New(netboot.Config{DataDir: t.TempDir(), BootPort: 80, Files: filesOf(t, 1), Fleet: fleetSeam{node, time.Now}, Profiles: profileSeam{node, files, time.Now}, Log: slog.New(slog.DiscardHandler),
		Claim: func(string, netip.Addr) (string, error) { return "claim", nil }, Pin: "pin", PathKey: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return bootsAs{t, mac, node, s.Handler(), s.Sightings()}
}

// get fetches a script as iPXE at 10.77.0.120 does.
func (b bootsAs) get(path string) string {
	local := &net.TCPAddr{IP: net.IPv4(10, 77, 0, 1), Port: 80}
	req := httptest.NewRequestWithContext(context.WithValue(b.t.Context(), http.LocalAddrContextKey, local), "GET", path, nil)
	req.RemoteAddr = "10.77.0.120:5555"
	w := httptest.NewRecorder()
	b.h.ServeHTTP(w, req)
	return w.Body.String()
}

// script is what the machine is told: "local", "agent", "held", or else all of it.
// It begins where a machine begins that was given no path, and follows the stub.
func (b bootsAs) script() string { return b.scriptOf("") }

// scriptOf is script for firmware that says it has that UUID.
func (b bootsAs) scriptOf(uuid string) string {
	stub := b.get("/boot/script")
	_, path, _ := strings.Cut(stub, "http://10.77.0.1:80")
	path, _, found := strings.Cut(path, "?mac=${netX/mac}")
	if !found {
		return stub
	}
	text := b.get(path + "?mac=" + b.mac + "&uuid=" + uuid)
	switch {
	case strings.Contains(text, "echo LPMOS: booting the disk.") && !strings.Contains(text, "kernel"):
		return "local"
	case strings.Contains(text, "echo LPMOS: starting the agent."):
		return "agent"
	case strings.Contains(text, "echo LPMOS: HELD."):
		return "held"
	}
	return text
}

func (b bootsAs) times(n int, want, when string) {
	b.t.Helper()
	for i := range n {
		if got := b.script(); got != want {
			b.t.Fatalf("%s, netboot %d: it is told %q, want %q", when, i+1, got, want)
		}
	}
}

// guarded is a machine on its way through a fleet.
type guarded struct {
	mac     string
	inv     wire.Inventory
	boot    int
	propose func(fleet.Body) any
}

func newGuarded(propose func(fleet.Body) any) *guarded {
	const mac = "52:54:00:aa:bb:01"
	return &guarded{mac: mac, propose: propose, inv: wire.Inventory{System: wire.System{Serial: "SER1"}, NICs: []wire.NIC{{Name: "eth0", MAC: mac}},
		Disks: []wire.Disk{{Name: "sda", Serial: "D1", SizeBytes: 8 << 30, LogicalSector: 512}}}}
}

func (g *guarded) report() {
	g.boot++
	g.propose(fleet.ReportMachine{NewID: "m-1", RegionID: "dc1", BootID: fmt.Sprint("boot-", g.boot), SessionHash: fmt.Sprint("s", g.boot), MAC: g.mac, Inventory: g.inv})
}

// approved has an image, the machine, and a task for it that is approved.
func (g *guarded) approved() *fleet.Task {
	g.propose(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: fmt.Sprintf("%064d", 1), SizeBytes: 64 << 20, Sector: 512}})
	g.report()
	task := g.propose(fleet.CreateTask{ID: "t-1", TargetMAC: g.mac, Spec: fleet.Spec{OSType: "tiny"}, PhoneToken: "x"}).(*fleet.Task)
	return g.propose(fleet.DecideTask{TaskID: "t-1", Approved: true, PlanHash: task.PlanHash, By: "anna"}).(*fleet.Task)
}

// install takes the approved task to its end.
func (g *guarded) install(task *fleet.Task) {
	session := fmt.Sprint("s", g.boot)
	g.propose(fleet.StartInstall{TaskID: "t-1", Generation: 1, PlanHash: task.PlanHash, SessionHash: session})
	g.propose(fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: "t-1", Generation: 1, Progress: wire.Progress{Stage: wire.StageConfiguring, Percentage: 95}}}})
	g.propose(fleet.FinishInstall{TaskID: "t-1", Generation: 1, SessionHash: session})
	g.inv.Disks[0].Contents = wire.Contents{Table: "gpt", Marker: &wire.Marker{MachineID: "m-1", TaskID: "t-1", Generation: 1}}
}

// S29: a finished machine netboots a hundred times at every node, goes on when others
// lead, when its node was started again, and at a cluster that was restored from a
// backup: it is told to boot its disk each time.
func TestS29_NetbootingAFinishedMachineNeverStartsTheAgent(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	g := newGuarded(func(b fleet.Body) any { return consensustest.Propose[any](t, c.Nodes[c.Leader()], b) })
	g.install(g.approved())
	var done uint64
	c.Nodes[c.Leader()].View(func(s *fleet.State) { done = s.Index() })
	everywhere := func(when string) {
		t.Helper()
		for i, n := range c.Nodes {
			c.Until("node "+fmt.Sprint(i+1)+" knows", func() (knows bool) {
				n.View(func(s *fleet.State) { knows = s.Index() >= done })
				return knows
			})
			asFirmware(t, n, g.mac).times(100, "local", when)
		}
	}
	everywhere("as it is")
	for range 2 {
		old := c.Leader()
		if err := c.Stop(old); err != nil {
			t.Fatal(err)
		}
		next := c.Leader()
		asFirmware(t, c.Nodes[next], g.mac).times(100, "local", "right after another leads")
		c.Start(old)
		c.Ready(old)
		everywhere("with the old leader back")
	}
	leader := c.Leader()
	c.Isolate(leader)
	asFirmware(t, c.Nodes[leader], g.mac).times(100, "local", "at a node that is cut off")
}

// S29, the restored backup: it is of before, of during and of after the install.
func TestS29_ARestoredBackupErasesNothing(t *testing.T) {
	yesterday := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	states := map[string]*fleet.State{} // as backed up, by when
	s := fleet.NewState()
	g := newGuarded(func(b fleet.Body) any {
		res, _, err := s.Apply(s.Index()+1, fleet.Command{At: yesterday, Body: b})
		if err != nil {
			t.Fatal(err)
		}
		return res
	})
	g.propose(fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1", CACert: []byte{0x30}}})
	task := g.approved()
	states["before the install"] = s.Clone()
	session := fmt.Sprint("s", g.boot)
	g.propose(fleet.StartInstall{TaskID: "t-1", Generation: 1, PlanHash: task.PlanHash, SessionHash: session})
	states["during the install"] = s.Clone()
	g.install(task)
	states["after the install"] = s.Clone()
	for when, state := range states {
		t.Run("backed up "+when, func(t *testing.T) {
			cfg := consensustest.Config(filepath.Join(t.TempDir(), "raft"))
			if _, err := consensus.Restore(consensus.Restoring{Dir: cfg.Dir, State: state, By: "ann", Logger: cfg.Logger, Rand: rand.NewChaCha8([32]byte{1}),
				Info: consensus.BackupInfo{Node: "n1", Index: state.Index(), Term: 3, Created: yesterday}}); err != nil {
				t.Fatal(err)
			}
			n := consensustest.Open(t, cfg)
			firmware := asFirmware(t, n, g.mac)
			if when != "after the install" {
				// Of the install this cluster knows nothing yet. It looks, which writes
				// nothing: no grant is to be had of what was approved in the old epoch.
				firmware.times(1, "agent", "first")
				if _, err := n.Propose(t.Context(), fleet.StartInstall{TaskID: "t-1", Generation: 1, PlanHash: task.PlanHash, SessionHash: session, Epoch: 1}); err == nil && when == "before the install" {
					t.Fatal("the old approval begins an install")
				}
				later := *g
				later.boot += 10
				later.propose = func(b fleet.Body) any { return consensustest.Propose[any](t, n, b) }
				later.report()
				n.View(func(s *fleet.State) {
					if got := s.Task("t-1").Status; got != wire.StatusCompleted {
						t.Errorf("with the mark of the install on its disk the task is %s", got)
					}
				})
			}
			firmware.times(100, "local", "from then on")
		})
	}
}
