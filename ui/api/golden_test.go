package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fixtures are read by the dashboard's gallery and its own tests too: one diff
// shows both ends.
const fixtures = "../static/test/fixtures"

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./ui/... -update writes it)", err)
	}
	if !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		t.Errorf("%s differs from byte %d on (go test ./ui/... -update writes it anew)\n got …%.200s\nwant …%.200s", path, at, got[max(0, at-60):], want[max(0, at-60):])
	}
}

func goldenJSON(t *testing.T, name string, v any) {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join(fixtures, name), append(b, '\n'))
}

// newGallery is a server whose fleet has a machine in every state.
func newGallery(t *testing.T) (*apitest.Node, *api.Server) {
	t.Helper()
	node := apitest.NewNode()
	s, err := api.New(node.Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := apitest.Gallery(node); err != nil {
		t.Fatal(err)
	}
	return node, s
}

func TestOpenAPIDocumentIsTheOneCheckedIn(t *testing.T) {
	s, err := api.New(apitest.NewNode().Config())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "openapi.json", s.OpenAPI())
}

func TestFixtures(t *testing.T) {
	node, s := newGallery(t)
	goldenJSON(t, "snapshot.json", s.Snapshot(s.Picture(), nil))
	for name, path := range map[string]string{
		"machine.json": "/api/v1/machines/m-03",
		"task.json":    "/api/v1/tasks/t-03",
		"network.json": "/api/v1/network",
		"regions.json": "/api/v1/regions",
	} {
		goldenJSON(t, name, answer(t, s, "GET", path, "", 200))
	}
	node.Membership.Silence()
	goldenJSON(t, "cluster-silent.json", s.Cluster())
	node.Membership.CutOff()
	goldenJSON(t, "cluster-cut-off.json", s.Cluster())
	goldenJSON(t, "plan.json", answer(t, s, "POST", "/api/v1/plan", `{"machine_id":"m-02","os_type":"debian","os_version":"12"}`, 200))
	goldenJSON(t, "problem-400.json", answer(t, s, "POST", "/api/v1/tasks", `{"machine_id":"m-02","os_type":"debian","os_version":"12","network_config":{"hostname":"not a name"}}`, 400))
	seen := s.Picture().Task("t-03").PlanHash
	swapDisk(t, node)
	goldenJSON(t, "problem-412.json", answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", `{"approved":true,"plan_hash":"`+seen+`"}`, 412))
}

// TestGalleryShowsEveryPhase keeps the gallery honest: each row is as its name says.
func TestGalleryShowsEveryPhase(t *testing.T) {
	_, s := newGallery(t)
	snap := s.Snapshot(s.Picture(), nil)
	for _, want := range []struct {
		name    string
		phase   api.Phase
		text    string
		actions string // of the task, or of a machine without one
	}{
		{"lab-01", api.PhaseDiscovered, "choose what to install", "install boot forget protect"},
		{"waiting", api.PhaseWaiting, "waits for you to approve", "approve reject cancel delete"},
		{"too-small", api.PhaseWaiting, "no disk can take image debian-12", "reject cancel delete"},
		{"ready", api.PhaseQueued, "power it on to netboot", "cancel delete"},
		{"booting", api.PhaseQueued, "netbooting", "cancel delete"},
		{"approved", api.PhaseQueued, "approved, the agent is about to begin", "cancel"},
		{"erasing", api.PhaseErasing, "erasing 12 %", "cancel"},
		{"downloading", api.PhaseInstalling, "downloading 43 %", "cancel"},
		{"verifying", api.PhaseInstalling, "verifying 71 %", "cancel"},
		{"configuring", api.PhaseInstalling, "configuring 97 %", "cancel"},
		{"written", api.PhaseInstalled, "written, waits for it to come up", "delete"},
		{"web-1", api.PhaseInstalled, "came up 12:", "delete"},
		{"failed", api.PhaseFailed, "chunk 17 read back differs", "retry delete"},
		{"interrupted", api.PhaseFailed, "interrupted while the disk was being written", "retry delete"},
		{"rejected", api.PhaseDiscovered, "rejected by operator", "retry delete"},
		{"cancelled", api.PhaseFailed, "an install was stopped, its disk does not boot", "retry delete"},
		{"lab-18", api.PhaseWaiting, "reported with a MAC of this machine", "resolve forget protect"},
		{"lost", api.PhaseLost, "silent for 2 min while its disk was being written", "cancel"},
	} {
		var m *api.Machine
		for i := range snap.Machines {
			if snap.Machines[i].Name == want.name {
				m = &snap.Machines[i]
			}
		}
		if m == nil {
			t.Errorf("there is no machine %s", want.name)
			continue
		}
		actions := m.Actions
		for _, task := range snap.Tasks {
			if task.ID == m.TaskID {
				actions = task.Actions
			}
		}
		if m.Phase != want.phase || !strings.Contains(m.PhaseText, want.text) {
			t.Errorf("%s is %s, %q; want %s, %q", want.name, m.Phase, m.PhaseText, want.phase, want.text)
		}
		if got := strings.Join(actions, " "); got != want.actions {
			t.Errorf("%s can be: %s; want %s", want.name, got, want.actions)
		}
	}
	all := 0
	for phase, n := range snap.Stats.Machines {
		all += n
		if n == 0 {
			t.Errorf("nobody is %s", phase)
		}
	}
	if all != len(snap.Machines) {
		t.Errorf("the counts add up to %d of %d machines", all, len(snap.Machines))
	}
	if b, _ := json.Marshal(snap); bytes.Contains(b, []byte("secret-")) || bytes.Contains(b, []byte(`"session`)) {
		t.Error("the snapshot tells a secret")
	}
}
