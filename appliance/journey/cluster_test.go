//go:build journey

package journey

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/consensus"
)

// slack is how much more than the image a machine may fetch when its node dies:
// the chunks that were on their way, of 4 MiB each.
const slack = 8 << 20

// moment is when in an install the node that serves it is killed.
type moment struct {
	name string
	come func(r *rack, i install)              // returns when it has come
	kill func(r *rack, i install, node string) // kills the node that serves i
}

var moments = []moment{
	{"at 5 % of the download", downloaded(5), kill},
	{"at 50 % of the download", downloaded(50), kill},
	{"at 95 % of the download", downloaded(95), kill},
	{"while the disk is read back", says(wire.StageInstalling), kill},
	{"before the last report", says(wire.StageInstalling), killUnheard},
}

// install is one machine's install under way.
type install struct {
	m    lab.MachineState
	id   string // of the task
	from int    // the machine's console before it began
}

// Four machines are installed at once by three nodes, of which the one that
// serves a machine is killed at every moment that could hurt: every install
// finishes, nothing is erased twice, and what was fetched and verified is not
// fetched again.
func TestServingNodeKilled(t *testing.T) {
	r := emptyRack(t, lab.Options{Nodes: 3, Machines: 4})
	r.settled()
	r.importImage("tiny", paddedImage(t))
	stored := r.storedBytes("tiny")
	machines := r.state().Machines
	for _, m := range machines {
		r.powerOn(m.Name)
	}
	for _, m := range machines {
		r.machineOf(m.MAC)
	}
	for n := range runs(t, len(moments)) {
		r.servingNodeKilled(n, moments[n%len(moments)], machines, stored)
	}
}

// servingNodeKilled is one round of installs.
func (r *rack) servingNodeKilled(n int, at moment, machines []lab.MachineState, stored uint64) {
	r.t.Helper()
	began := time.Now()
	var all []install
	for _, m := range machines {
		all = append(all, r.begin(m, fmt.Sprintf("run-%d-%s", n, m.Name), n > 0))
	}
	for _, i := range all {
		r.approveWhenReady(i.id)
	}
	victim := all[n%len(all)]
	at.come(r, victim)
	node := r.serving(victim.m)
	at.kill(r, victim, node)
	fetched := map[string]uint64{}
	r.await("every install finishes", func() bool {
		finished := 0
		for _, i := range all {
			now := r.task(i.id)
			switch {
			case now.Status == wire.StatusCompleted:
				finished++
			case now.Status != wire.StatusApproved && now.Status != wire.StatusInstalling:
				r.t.Fatalf("%s with %s killed %s: task %s is %s: %v", i.m.Name, node, at.name, i.id, now.Status, now.Error)
			}
			if p := now.Progress; p != nil {
				fetched[i.id] = max(fetched[i.id], p.Details.BytesDownloaded)
			}
		}
		return finished == len(all)
	})
	took := time.Since(began)
	r.do(r.c.HealNode(r.ctx, node))
	r.settled()
	for _, i := range all {
		done := r.until(i.id, "comes up", cameUp)
		r.erasedOnce(done)
		r.erasedOnceInAudit(done)
		if fetched[i.id] > stored+slack {
			r.t.Errorf("%s fetched %d bytes of an image of %d: more than %d again", i.m.Name, fetched[i.id], stored, slack)
		}
		if fetched[i.id] == 0 {
			r.t.Errorf("nobody knows how much %s fetched", i.m.Name)
		}
		r.t.Logf("round %d: %s fetched %.1f MB of %.1f MB", n+1, i.m.Name, float64(fetched[i.id])/1e6, float64(stored)/1e6)
	}
	r.t.Logf("round %d: %s, serving %s, killed %s; all installed %.1f s after they began", n+1, node, victim.m.Name, at.name, took.Seconds())
}

// With two of three nodes dead a known machine boots its disk, and one that was
// being installed is finished, boots its disk, and is told of when the others are back.
func TestTwoOfThreeNodesDead(t *testing.T) {
	r := emptyRack(t, lab.Options{Nodes: 3, Machines: 2})
	r.settled()
	r.importImage("tiny", paddedImage(t))
	known, fresh := r.state().Machines[0], r.state().Machines[1]
	r.powerOn(known.Name)
	r.powerOn(fresh.Name)
	r.machineOf(known.MAC)
	r.until(r.approve(known.MAC, "known", "").ID, "comes up", cameUp)
	r.everyNodeHolds("tiny")
	r.machineOf(fresh.MAC)
	i := install{m: fresh, id: r.approve(fresh.MAC, "fresh", "").ID, from: r.lines(fresh.Name)}
	downloaded(30)(r, i)

	names := []string{"n1", "n2", "n3"}
	serves := slices.Index(names, r.serving(fresh))
	dead := []string{names[serves], names[(serves+1)%3]}
	r.t.Logf("%s serves the install; killing it and %s", dead[0], dead[1])
	for _, name := range dead {
		r.do(r.c.KillNode(r.ctx, name, false))
	}
	killed := time.Now()
	before := r.lines(known.Name)
	r.do(r.c.Reset(r.ctx, known.Name))
	r.waitSerial(known.Name, `known login:`, before)
	t.Logf("a known machine was at its login prompt %.1f s after two of three nodes died", time.Since(killed).Seconds())
	r.waitSerial(fresh.Name, `fresh login:`, i.from)
	t.Logf("the machine that was being installed, %.1f s after", time.Since(killed).Seconds())

	for _, name := range dead {
		r.do(r.c.HealNode(r.ctx, name))
	}
	r.settled()
	done := r.until(i.id, "is told to have been completed", completed)
	r.erasedOnce(done)
	r.erasedOnceInAudit(done)
}

// begin makes a machine's task. One that is installed boots its own disk until a
// task wants it, so it is made to start anew.
func (r *rack) begin(m lab.MachineState, hostname string, again bool) install {
	r.t.Helper()
	i := install{m: m, from: r.lines(m.Name)}
	var made task
	code, text := r.call("POST", "/api/v1/tasks", map[string]any{"target_mac": m.MAC, "os_type": "tiny",
		"network_config": map[string]any{"hostname": hostname}}, &made)
	if code != 201 {
		r.t.Fatalf("make task: %d %s", code, text)
	}
	i.id = made.ID
	if again {
		r.do(r.c.Reset(r.ctx, m.Name))
	}
	return i
}

func (r *rack) approveWhenReady(id string) {
	r.t.Helper()
	ready := r.until(id, "can be approved", func(t task) bool { return t.Status == wire.StatusPendingApproval && t.PlanHash != "" })
	code, text := r.call("PUT", "/api/v1/tasks/"+id+"/approve", ready.approval(), nil)
	if code != 200 {
		r.t.Fatalf("approve: %d %s", code, text)
	}
}

// downloaded waits for a part of the download to be done.
func downloaded(percent float64) func(*rack, install) {
	from, to, _ := wire.StageDownloading.Span()
	return func(r *rack, i install) {
		r.t.Helper()
		r.until(i.id, fmt.Sprintf("has %.0f %% of the image", percent), func(t task) bool {
			return t.Progress != nil && t.Progress.Percentage >= from+(to-from)*percent/100
		})
	}
}

// says waits for the machine itself to say that a stage has begun: it does so
// before any node hears of it.
func says(stage wire.Stage) func(*rack, install) {
	return func(r *rack, i install) {
		r.t.Helper()
		r.waitSerial(i.m.Name, `\d % `+string(stage), i.from)
	}
}

func kill(r *rack, _ install, node string) {
	r.t.Helper()
	r.do(r.c.KillNode(r.ctx, node, false))
}

// killUnheard kills the node with the machine's last report in its hands, unread.
// That report is made within milliseconds, so the node is stopped first.
func killUnheard(r *rack, i install, node string) {
	r.t.Helper()
	r.do(r.c.PauseNode(r.ctx, node))
	says(wire.StageConfiguring)(r, i)
	kill(r, i, node)
}

// do ends the test when a step of it cannot be taken.
func (r *rack) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// settled waits until the nodes are one cluster of which any may be lost, and
// all are where it is.
func (r *rack) settled() {
	r.t.Helper()
	r.await("the cluster is whole", func() bool {
		var s consensus.Status
		if code, _ := r.call("GET", "/api/v1/cluster", nil, &s); code != 200 || s.Leader == "" || !s.Quorum || len(s.Members) != 3 {
			return false
		}
		for _, m := range s.Members {
			if !m.Reachable || !m.Voter || m.Applied < s.Applied {
				return false
			}
		}
		return true
	})
}

// everyNodeHolds waits until an image is on every node.
func (r *rack) everyNodeHolds(name string) {
	r.t.Helper()
	r.await("every node holds image "+name, func() bool {
		var s consensus.Status
		if code, _ := r.call("GET", "/api/v1/cluster", nil, &s); code != 200 {
			return false
		}
		whole := 0
		for _, m := range s.Members {
			for _, h := range m.Described.Images {
				if h.Total > 0 && h.Have == h.Total {
					whole++
				}
			}
		}
		return whole == len(s.Members)
	})
}

func (r *rack) storedBytes(image string) uint64 {
	r.t.Helper()
	var all []struct {
		Name        string
		StoredBytes uint64 `json:"stored_bytes"`
	}
	r.list("/api/v1/images", "images", &all)
	for _, i := range all {
		if i.Name == image && i.StoredBytes > 0 {
			return i.StoredBytes
		}
	}
	r.t.Fatalf("no image %s in %+v", image, all)
	return 0
}

// erasedOnceInAudit checks that the audit knows of one approval and one erase.
func (r *rack) erasedOnceInAudit(done task) {
	r.t.Helper()
	var all []struct{ What, Task string }
	r.list("/api/v1/audit?limit=1000", "audit", &all)
	approved, erased := 0, 0
	for _, a := range all {
		switch {
		case a.Task != done.ID:
		case strings.Contains(a.What, "the agent was allowed to erase"):
			erased++
		case strings.Contains(a.What, "approved to erase"):
			approved++
		}
	}
	if approved != 1 || erased != 1 {
		r.t.Errorf("the audit has %d approvals and %d erases of task %s", approved, erased, done.ID)
	}
}
