//go:build journey

package journey

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
)

// rounds is how many netboots LPMOS_NETBOOTS asks for.
func rounds(t *testing.T) int {
	t.Helper()
	s := os.Getenv("LPMOS_NETBOOTS")
	if s == "" {
		return 3
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("LPMOS_NETBOOTS: %q is no number of netboots", s)
	}
	return n
}

// S29: a finished machine netboots again and again: as it is, after another node has
// taken the lead, and after the cluster was lost and its backup of before was
// restored. Each time it comes up from its disk, of which not a byte has changed.
func TestS29_ReinstalledByNobody(t *testing.T) {
	n := rounds(t)
	r := emptyRack(t, lab.Options{Nodes: 3, NoRestart: true, ExternalDHCP: true})
	r.settled()
	r.importImage("tiny", tinyImage(t))
	m := r.state().Machines[0]
	r.powerOn(m.Name)
	r.machineOf(m.MAC)
	id := r.approve(m.MAC, "keeps", "").ID
	r.until(id, "comes up", cameUp)
	r.do(r.c.PowerOff(r.ctx, m.Name))
	was := hashFile(t, m.Disks[0].Path)
	netboot := func(when string) {
		t.Helper()
		for i := range n {
			line, from := r.lines(m.Name), len(r.console(m.Name))
			r.powerOn(m.Name)
			r.waitSerial(m.Name, `keeps login:`, line)
			said := r.said(m.Name, from)
			if !strings.Contains(said, "LPMOS: booting the disk.") || strings.Contains(said, "starting the agent") {
				t.Errorf("%s, netboot %d: it was not told to boot its disk:\n%s", when, i+1, said)
			}
			r.do(r.c.PowerOff(r.ctx, m.Name))
			if got := hashFile(t, m.Disks[0].Path); got != was {
				t.Fatalf("%s, netboot %d: the disk has changed", when, i+1)
			}
		}
		t.Logf("%s: %d netboots, the disk is as it was", when, n)
	}
	netboot("as it is")

	backup := filepath.Join(r.dir, "yesterday")
	code, text := r.call("GET", "/api/v1/backup", nil, nil)
	if code != 200 {
		t.Fatalf("backup: %d %.300s", code, text)
	}
	if err := os.WriteFile(backup, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}

	leader := r.leader()
	r.do(r.c.KillNode(r.ctx, leader, false))
	r.await("another node leads", func() bool { now := r.leader(); return now != "" && now != leader })
	t.Logf("%s led, %s leads", leader, r.leader())
	netboot("after another node has taken the lead")

	// The cluster is lost but for the keys of one node, which begins with the backup.
	for _, node := range r.state().Nodes {
		if node.Name != leader {
			r.do(r.c.KillNode(r.ctx, node.Name, false))
		}
	}
	first := r.state().Nodes[0]
	raft := filepath.Join(first.Dir, "data", "raft")
	if _, err := os.Stat(raft); err != nil {
		t.Fatalf("where does %s keep its log? %v", first.Name, err)
	}
	r.do(os.RemoveAll(raft))
	cmd := exec.CommandContext(r.ctx, filepath.Join(repository(t), "bin/lpmos"), "restore", backup, "--unencrypted", "--data-dir", filepath.Dir(raft), "--force")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("restore: %v\n%s", err, out)
	}
	r.do(r.c.StartNode(r.ctx, first.Name))
	r.await("the restored node is healthy", func() bool {
		code, _ := r.call("GET", "/api/v1/health", nil, nil)
		return code == 200
	})
	netboot("after the restore of yesterday's backup")
	if done := r.task(id); done.Status != wire.StatusCompleted {
		t.Errorf("the task is %s", done.Status)
	}
}

// said is what the machine has put on its console since it had put so many bytes. Lines
// would not do: those the rack counts are cut where the machine loses its power, too.
func (r *rack) said(name string, from int) string {
	r.t.Helper()
	b := r.console(name)
	return printable(b[min(from, len(b)):])
}

// console is all that the machine has ever put there.
func (r *rack) console(name string) []byte {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "machines", name, "serial.log"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return b
}

// leader is the name of the node that leads, "" while nobody does.
func (r *rack) leader() string {
	var c struct {
		Members []struct {
			Name   string
			Leader bool
		}
	}
	if code, _ := r.call("GET", "/api/v1/cluster", nil, &c); code != 200 {
		return ""
	}
	for _, m := range c.Members {
		if m.Leader {
			return m.Name
		}
	}
	return ""
}

// A machine whose agent dies before it can report, here for want of memory, starts it
// a few times and is held then: its console says so, and so does the node, also after
// it was started again. Released, with what was wrong put right, it reports.
func TestAMachineThatCannotStartTheAgentIsHeld(t *testing.T) {
	r := newRack(t, lab.Options{NodeConfig: map[string]any{"kernel_args": "no_timer_check mem=24M panic=1"}})
	m := r.state().Machines[0]
	var made task
	if code, text := r.call("POST", "/api/v1/tasks", map[string]any{"target_mac": m.MAC, "os_type": "tiny"}, &made); code != 201 {
		t.Fatalf("make task: %d %s", code, text)
	}
	began := time.Now()
	r.powerOn(m.Name)
	r.waitSerial(m.Name, `LPMOS: HELD\. told 5 times to start the agent, which never reported`, 0)
	t.Logf("held %.0f s after power-on", time.Since(began).Seconds())
	if n := strings.Count(r.said(m.Name, 0), "LPMOS: starting the agent."); n != 5 {
		t.Errorf("it was told to start the agent %d times", n)
	}
	held := func(when string) {
		t.Helper()
		r.await("the node says that it is held "+when, func() bool { return r.task(made.ID).Held != nil })
		now := r.task(made.ID)
		if now.Phase != "waiting" || !strings.Contains(now.PhaseText, "held: told 5 times") || !slices.Contains(now.Actions, "release") {
			t.Errorf("%s the task is %s, %q, and can be %v", when, now.Phase, now.PhaseText, now.Actions)
		}
	}
	held("at once")

	// What was wrong is put right, and the node started again with it.
	file := filepath.Join(r.state().Nodes[0].Dir, "lpmos.yaml")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	right := regexp.MustCompile(` mem=24M panic=1`).ReplaceAll(config, nil)
	if bytes.Equal(right, config) {
		t.Fatalf("%s has no mem=24M:\n%s", file, config)
	}
	r.do(os.WriteFile(file, right, 0o600))
	r.do(r.c.KillNode(r.ctx, "n1", true))
	held("after the node was started again")
	again := r.lines(m.Name)
	r.waitSerial(m.Name, `LPMOS: HELD\.`, again) // it has asked once more, and waits on

	if code, text := r.call("POST", "/api/v1/tasks/"+made.ID+"/release", nil, nil); code != 200 {
		t.Fatalf("release: %d %s", code, text)
	}
	ready := r.until(made.ID, "waits for approval", func(t task) bool { return t.Status == wire.StatusPendingApproval })
	if ready.Held != nil {
		t.Errorf("it has reported and is still held: %s", ready.Held.Reason)
	}
}
