package ui

import (
	"context"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestFrameFixtures writes one frame of each kind for the dashboard's tests.
func TestFrameFixtures(t *testing.T) {
	node, u := newUI(t)
	v := u.hub.newViewer(apitest.Anna, func(context.Context, []byte) error { return nil })
	var frames []json.RawMessage
	v.send = func(_ context.Context, b []byte) error {
		frames = append(frames, b)
		return nil
	}
	ctx := t.Context()
	w := node.Cluster.SnapshotAndWatch(func(*fleet.State) {})
	defer w.Close()
	tell := func() {
		t.Helper()
		events, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			v.pour(e)
		}
		if err := v.tellPace(ctx, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.tell(ctx, api.Frame{Type: api.FrameHello, Node: "n1", Version: "test", Time: node.Clock.Now()}); err != nil {
		t.Fatal(err)
	}
	propose(t, node, fleet.CreateTask{ID: "t-99", RegionID: "dc1", TargetMAC: "52:54:00:12:00:01", PhoneToken: "x", Spec: fleet.Spec{OSType: "tiny"}})
	tell()
	propose(t, node, fleet.CancelTask{TaskID: "t-99", By: "operator at 127.0.0.1"})
	tell()
	propose(t, node, fleet.DeleteTask{TaskID: "t-99"})
	tell()
	node.Cluster.Progress("t-09", wire.Progress{Stage: wire.StageDownloading, Percentage: 44.5})
	tell()
	node.Cluster.Progress("t-09", wire.Progress{Stage: wire.StageDownloading, Percentage: 45})
	tell()
	propose(t, node, fleet.DeleteMachine{MachineID: "m-02"})
	tell()
	propose(t, node, fleet.PutNode{Node: fleet.Node{ID: "n-1", Name: "n1", RegionID: "dc1", Version: "next"}})
	tell()
	node.Membership.Silence()
	if err := v.tellPulse(ctx); err != nil {
		t.Fatal(err)
	}
	if err := node.Membership.Remove(ctx, "n-3", "operator at 127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	tell()
	if len(frames) < 12 {
		t.Fatalf("%d frames", len(frames))
	}
	got, err := json.MarshalIndent(frames, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("static", "test", "fixtures", "frames.json")
	if *update {
		if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != string(got)+"\n" {
		t.Errorf("%s differs (%v); go test ./ui/... -update writes it anew", path, err)
	}
}
