package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/api/client"
)

// newNode is a dashboard that really listens, and a client of it.
func newNode(t testing.TB, change ...func(*Config)) (*apitest.Node, *UI, *client.Client, string) {
	t.Helper()
	node, u := newUI(t, change...)
	srv := httptest.NewServer(apitest.SignedIn(u))
	t.Cleanup(srv.Close)
	t.Cleanup(u.Close) // before the server waits for its connections
	c, err := client.New(srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	return node, u, c, srv.URL
}

// eye is a viewer in a test.
type eye struct {
	t *testing.T
	w *client.Watch
}

func look(t *testing.T, c *client.Client, since uint64) eye {
	t.Helper()
	w, err := c.Watch(t.Context(), since)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return eye{t, w}
}

// next is the next frame, whatever it is.
func (e eye) next() client.Update {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
	defer cancel()
	u, err := e.w.Next(ctx)
	if err != nil {
		e.t.Fatalf("no frame came: %v", err)
	}
	return u
}

// until skips frames to the first of a type.
func (e eye) until(kind string) api.Frame {
	e.t.Helper()
	for {
		if u := e.next(); u.Frame != nil && u.Frame.Type == kind {
			return *u.Frame
		}
	}
}

func (e eye) snapshot() api.Snapshot {
	e.t.Helper()
	if f := e.next().Frame; f == nil || f.Type != api.FrameHello || f.Node != "n1" || f.Version != "test" {
		e.t.Fatalf("the first frame is %+v, want hello", f)
	}
	s := e.next().Snapshot
	if s == nil {
		e.t.Fatal("the second frame is no snapshot")
	}
	return *s
}

func propose(t testing.TB, n *apitest.Node, body fleet.Body) {
	t.Helper()
	if _, err := n.Cluster.Propose(context.Background(), body); err != nil {
		t.Fatal(err)
	}
}

func TestSnapshotFirstThenWhatChanges(t *testing.T) {
	node, _, c, _ := newNode(t)
	e := look(t, c, 0)
	snap := e.snapshot()
	if len(snap.Machines) != 19 || len(snap.Tasks) != 17 || len(snap.Images) != 2 || len(snap.Nodes) != 3 || len(snap.Cluster.Members) != 3 {
		t.Fatalf("the snapshot holds %d machines, %d tasks, %d images, %d nodes", len(snap.Machines), len(snap.Tasks), len(snap.Images), len(snap.Nodes))
	}
	task, err := c.CreateTask(t.Context(), api.Wish{MachineID: "m-01", OSType: "tiny"})
	if err != nil {
		t.Fatal(err)
	}
	f := e.until("task_created")
	if f.TaskID != task.ID || f.Task == nil || f.Machine == nil || f.Machine.TaskID != task.ID || f.Machine.Phase != api.PhaseWaiting || f.Index <= snap.Index {
		t.Errorf("the frame is %+v", f)
	}
	if _, err := c.Decide(t.Context(), task.ID, api.Decision{Approved: true, PlanHash: task.PlanHash}); err != nil {
		t.Fatal(err)
	}
	if f := e.until("status"); f.Task.Status != wire.StatusApproved || f.Machine.Phase != api.PhaseQueued || f.Task.UserData != "" || f.Task.Hardware != nil {
		t.Errorf("the frame is %+v", f.Task)
	}
	if f := e.until("stats"); f.Stats.Tasks[wire.StatusApproved] != 2 {
		t.Errorf("the counts are %+v", f.Stats)
	}
	if err := c.DeleteImage(t.Context(), "debian-12"); client.StatusOf(err) != http.StatusConflict {
		t.Errorf("deleting an image in use: %v", err)
	}
	node.Sightings.Add(api.Sighting{At: node.Clock.Now(), MAC: "52:54:00:12:00:01", Kind: "tftp", Text: "read snponly.efi"})
	if f := e.until("sighting"); f.MAC != "52:54:00:12:00:01" || f.Text != "read snponly.efi" {
		t.Errorf("the sighting is %+v", f)
	}
	propose(t, node, fleet.DeleteMachine{MachineID: "m-02"})
	if f := e.until("machine_deleted"); f.MachineID != "m-02" || f.Machine != nil {
		t.Errorf("the frame is %+v", f)
	}
}

// TestResumeMissesNothing: whoever comes back hears each change that was made
// meanwhile, in order, and none from before.
func TestResumeMissesNothing(t *testing.T) {
	node, _, c, _ := newNode(t)
	e := look(t, c, 0)
	since := e.snapshot().Index
	if err := e.w.Close(); err != nil {
		t.Logf("close: %v", err) // the other end may have gone first
	}
	var want []string
	for i := range 20 {
		id := fmt.Sprintf("t-r%02d", i)
		propose(t, node, fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: fmt.Sprintf("52:54:00:aa:00:%02x", i), PhoneToken: id, Spec: fleet.Spec{OSType: "tiny"}})
		want = append(want, id)
	}
	e = look(t, c, since)
	if f := e.next().Frame; f == nil || f.Type != api.FrameHello {
		t.Fatalf("the first frame is %+v", f)
	}
	if f := e.next().Frame; f == nil || f.Type != api.FrameResumed || f.Index != since {
		t.Fatalf("the second frame is %+v", f)
	}
	var got []string
	last := since
	for len(got) < len(want) {
		f := e.next().Frame
		if f == nil {
			t.Fatal("a snapshot came")
		}
		if f.Type == "task_created" {
			if f.Index <= last {
				t.Errorf("index %d came after %d", f.Index, last)
			}
			got, last = append(got, f.TaskID), f.Index
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("heard %v, want %v", got, want)
	}
	// From here on it is heard once only.
	propose(t, node, fleet.CancelTask{TaskID: "t-r00", By: "me"})
	if f := e.until("status"); f.TaskID != "t-r00" {
		t.Errorf("heard %+v", f)
	}
}

func TestTooOldGetsASnapshot(t *testing.T) {
	node, _, c, _ := newNode(t)
	for range 1100 {
		propose(t, node, fleet.PutNode{Node: fleet.Node{ID: "n-1", Name: "n1", RegionID: "dc1"}})
	}
	for _, since := range []uint64{1, 1 << 60} {
		look(t, c, since).snapshot()
	}
}

// TestProgressIsConflated: of a thousand values the viewer is told few, and the
// last of them.
func TestProgressIsConflated(t *testing.T) {
	node, _, c, _ := newNode(t)
	e := look(t, c, 0)
	e.snapshot()
	const n = 1000
	for i := range n {
		p := wire.Progress{Stage: wire.StageDownloading, Percentage: 43 + 17*float64(i+1)/n}
		node.Cluster.Progress("t-09", p)
		node.Cluster.Progress("t-19", p)
	}
	frames, last := 0, map[string]float64{}
	for last["t-09"] < 60 || last["t-19"] < 60 {
		f := e.next().Frame
		if f == nil || f.Type != api.FrameProgressBatch && f.Type != "progress" {
			continue
		}
		frames++
		items := f.Items
		if f.Type == "progress" {
			items = []api.ProgressItem{{TaskID: f.TaskID, Progress: f.Progress, Phase: f.Phase, PhaseText: f.PhaseText}}
		}
		for _, i := range items {
			if i.Progress.Percentage < last[i.TaskID] {
				t.Errorf("%s ran back from %v to %v", i.TaskID, last[i.TaskID], i.Progress.Percentage)
			}
			last[i.TaskID] = i.Progress.Percentage
			if i.Phase != api.PhaseInstalling || !strings.HasPrefix(i.PhaseText, "downloading ") {
				t.Errorf("the item is %+v", i)
			}
		}
	}
	if frames > 100 {
		t.Errorf("%d frames for %d values of two tasks", frames, n)
	}
}

// TestRowsOnTheScreenComeFirst: the others come at the slow pace.
func TestRowsOnTheScreenComeFirst(t *testing.T) {
	node, _, c, _ := newNode(t, func(c *Config) { c.Limits.Fast, c.Limits.Slow = 20*time.Millisecond, 24*time.Hour })
	e := look(t, c, 0)
	e.snapshot()
	if err := e.w.Subscribe(t.Context(), api.Subscribe{Rows: []string{"m-09"}}); err != nil {
		t.Fatal(err)
	}
	synced(t, e)
	node.Cluster.Progress("t-19", wire.Progress{Stage: wire.StageDownloading, Percentage: 50})
	node.Cluster.Progress("t-09", wire.Progress{Stage: wire.StageDownloading, Percentage: 51})
	if f := e.until("progress"); f.TaskID != "t-09" {
		t.Errorf("heard of %s first", f.TaskID)
	}
	// Scrolled: the other row is on the screen, and its newest value comes.
	if err := e.w.Subscribe(t.Context(), api.Subscribe{Rows: []string{"m-19"}}); err != nil {
		t.Fatal(err)
	}
	if f := e.until("progress"); f.TaskID != "t-19" || f.Progress.Percentage != 50 {
		t.Errorf("heard %+v", f)
	}
}

// synced waits until the node has taken in what was sent so far: it answers one
// question after the other.
func synced(t *testing.T, e eye) {
	t.Helper()
	if err := e.w.Send(t.Context(), []byte(`{"type":"ping"}`)); err != nil {
		t.Fatal(err)
	}
	e.until(api.FramePong)
}

func TestSubscribedToOneTask(t *testing.T) {
	node, _, c, _ := newNode(t)
	e := look(t, c, 0)
	e.snapshot()
	if err := e.w.Subscribe(t.Context(), api.Subscribe{Tasks: []string{"t-03"}}); err != nil {
		t.Fatal(err)
	}
	var again *api.Snapshot
	for again == nil {
		again = e.next().Snapshot
	}
	if len(again.Tasks) != 1 || again.Tasks[0].ID != "t-03" || len(again.Machines) != 1 || again.Machines[0].ID != "m-03" {
		t.Fatalf("the narrowed snapshot holds %d tasks, %d machines", len(again.Tasks), len(again.Machines))
	}
	propose(t, node, fleet.CancelTask{TaskID: "t-05", By: "me"})
	propose(t, node, fleet.CancelTask{TaskID: "t-03", By: "me"})
	if f := e.until("status"); f.TaskID != "t-03" {
		t.Errorf("heard of task %s", f.TaskID)
	}
}

// TestLostIsToldWithoutAnEvent: silence changes a machine, and so does its end.
func TestLostIsToldWithoutAnEvent(t *testing.T) {
	node, _, c, _ := newNode(t, func(c *Config) { c.Limits.Slow = 20 * time.Millisecond; c.Limits.Fast = 10 * time.Millisecond })
	e := look(t, c, 0)
	e.snapshot()
	now := node.Clock.Move(3 * time.Minute)
	for {
		if f := e.until("machine"); f.MachineID == "m-09" {
			if f.Machine.Phase != api.PhaseLost || !f.Machine.Lost {
				t.Errorf("the machine is %s", f.Machine.Phase)
			}
			break
		}
	}
	node.Contact.Heard("m-09", now)
	node.Clock.Move(time.Second)
	for {
		if f := e.until("machine"); f.MachineID == "m-09" {
			if f.Machine.Phase != api.PhaseInstalling {
				t.Errorf("the machine that spoke again is %s", f.Machine.Phase)
			}
			return
		}
	}
}

// TestEventsOverPlainHTTP: the same frames, for a script with curl.
func TestEventsOverPlainHTTP(t *testing.T) {
	node, _, _, url := newNode(t)
	res, err := http.Get(url + "/api/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("the answer is %q", got)
	}
	var types []string
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var f struct{ Type string }
		if err := json.Unmarshal([]byte(data), &f); err != nil {
			t.Fatal(err)
		}
		if types = append(types, f.Type); len(types) == 3 {
			break
		}
		if f.Type == api.FrameSnapshot { // before it, the change may be part of it
			propose(t, node, fleet.CancelTask{TaskID: "t-05", By: "me"})
		}
	}
	if !slices.Equal(types, []string{api.FrameHello, api.FrameSnapshot, "status"}) {
		t.Errorf("the events are %v", types)
	}
}
