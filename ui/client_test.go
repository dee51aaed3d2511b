package ui

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

// TestClientReadsEverything asks for all there is to see, over a real connection.
func TestClientReadsEverything(t *testing.T) {
	_, _, c, _ := newNode(t)
	ctx := t.Context()
	if tasks, err := c.Tasks(ctx, client.TaskFilter{Status: string(wire.StatusInstalling), RegionID: "dc1"}); err != nil || len(tasks) != 5 {
		t.Errorf("%d tasks install (%v)", len(tasks), err)
	}
	if task, err := c.Task(ctx, "t-09"); err != nil || task.Hardware == nil || task.UserData == "" {
		t.Errorf("task t-09 is %+v (%v)", task, err)
	}
	if machines, err := c.Machines(ctx); err != nil || len(machines) != 19 {
		t.Errorf("%d machines (%v)", len(machines), err)
	}
	if m, err := c.Machine(ctx, "m-03"); err != nil || m.Inventory == nil || len(m.Sightings) != 5 {
		t.Errorf("machine m-03 is %+v (%v)", m, err)
	}
	if images, err := c.Images(ctx); err != nil || len(images) != 2 || images[0].UsedBy != 12 {
		t.Errorf("the images are %+v (%v)", images, err)
	}
	if regions, err := c.Regions(ctx); err != nil || len(regions) != 2 || regions[0].Machines != 19 || regions[1].Nodes != 1 {
		t.Errorf("the regions are %+v (%v)", regions, err)
	}
	if st, err := c.Stats(ctx); err != nil || st.Machines[api.PhaseFailed] != 3 {
		t.Errorf("the counts are %+v (%v)", st, err)
	}
	if h, err := c.Health(ctx); err != nil || h.Status != "ok" || h.Version != "test" {
		t.Errorf("health is %+v (%v)", h, err)
	}
	if n, err := c.Network(ctx); err != nil || len(n.Interfaces) != 1 || len(n.Sightings) != 6 || n.Sightings[0].MAC != "52:54:00:ff:ff:01" {
		t.Errorf("the network is %+v (%v)", n, err)
	}
	if e, err := c.Examine(ctx); err != nil || e.Verdict != "fail" || len(e.Checks) != 2 || e.Checks[1].Of != "eth0" || e.Checks[1].Depth != 1 {
		t.Errorf("the examination is %+v (%v)", e, err)
	}
}

// TestClientChangesThings, and hears refusals in the node's words.
func TestClientChangesThings(t *testing.T) {
	_, _, c, _ := newNode(t)
	ctx := t.Context()
	if task, err := c.CancelTask(ctx, "t-05"); err != nil || task.Status != wire.StatusCancelled {
		t.Errorf("cancelled: %+v (%v)", task.Status, err)
	}
	if task, err := c.RetryTask(ctx, "t-05"); err != nil || task.Generation != 2 {
		t.Errorf("retried: %+v (%v)", task.Generation, err)
	}
	if err := c.DeleteTask(ctx, "t-05"); err != nil {
		t.Error(err)
	}
	if _, err := c.Settle(ctx, "m-18", false); err != nil {
		t.Error(err)
	}
	if err := c.DeleteMachine(ctx, "m-18"); err != nil {
		t.Error(err)
	}
	_, err := c.Machine(ctx, "m-18/../m-01")
	if client.StatusOf(err) != http.StatusNotFound || !strings.Contains(err.Error(), "there is no machine m-18/../m-01") {
		t.Errorf("a strange id: %v", err)
	}
	_, err = c.Decide(ctx, "t-03", api.Decision{Approved: true, PlanHash: "another"})
	if client.StatusOf(err) != http.StatusPreconditionFailed || !strings.Contains(err.Error(), "the plan is now") {
		t.Errorf("a stale plan: %v", err)
	}
	if _, err := client.New("127.0.0.1:8080", nil); err == nil {
		t.Error("an address without a scheme was taken")
	}
}

// TestUploadIsToldOnTheSocket: how far it is, then the image itself.
func TestUploadIsToldOnTheSocket(t *testing.T) {
	_, _, c, _ := newNode(t)
	e := look(t, c, 0)
	e.snapshot()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, []byte("disk"+strings.Repeat("x", 2<<20)), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := c.UploadImage(t.Context(), api.ImageOrder{Name: "mine-1"}, f)
	if err != nil || img.OSType != "mine" || img.SizeBytes != 2<<20+4 {
		t.Fatalf("uploaded %+v (%v)", img, err)
	}
	var heard, done bool
	for !heard || !done {
		switch f := e.next().Frame; {
		case f == nil:
		case f.Type == "image":
			heard = f.Image.Name == "mine-1" && f.Image.Digest == img.Digest
		case f.Type == api.FrameImport:
			done = f.Import.Done && f.Import.BytesRead == 2<<20+4
		}
	}
	if _, err := c.FetchImage(t.Context(), api.ImageOrder{Name: "far", URL: "http://images.example/x"}); client.StatusOf(err) != http.StatusBadRequest {
		t.Errorf("a URL nobody answers at: %v", err)
	}
	if err := c.DeleteImage(t.Context(), "mine-1"); err != nil {
		t.Error(err)
	}
	if f := e.until("image_deleted"); f.Name != "mine-1" {
		t.Errorf("heard %+v", f)
	}
}
