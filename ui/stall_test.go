package ui

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// A machine that stands changes no state that is agreed on: viewers are told by the
// pulse, when it begins and when it ends, of machines and of tasks that wait for one.
func TestStallsAreTold(t *testing.T) {
	node, u := newUI(t)
	const known, expected = "52:54:00:12:00:03", "52:54:00:12:00:77"
	propose(t, node, fleet.CreateTask{ID: "t-99", RegionID: "dc1", TargetMAC: expected, PhoneToken: "x", Spec: fleet.Spec{OSType: "tiny"}})
	var frames []api.Frame
	v := u.hub.newViewer(apitest.Anna, func(_ context.Context, b []byte) error {
		var f api.Frame
		if err := json.Unmarshal(b, &f); err != nil {
			return err
		}
		frames = append(frames, f)
		return nil
	})
	pulse := func() map[string]string {
		t.Helper()
		frames = nil
		u.hub.pulsed = time.Time{}
		if err := v.tellPulse(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, f := range frames {
			switch {
			case f.Task != nil && f.Task.Stall != nil:
				got[f.TaskID] = f.Task.Stall.ID
			case f.Machine != nil && f.Machine.Stall != nil:
				got[f.MachineID] = f.Machine.Stall.ID
			case f.Machine != nil || f.Task != nil:
				got[f.MachineID+f.TaskID] = "goes on"
			}
		}
		return got
	}
	pulse()
	if got := pulse(); len(got) != 0 {
		t.Errorf("nothing has changed, and it tells %v", got)
	}
	node.Sightings.Stalls(known, &api.Stall{ID: "loader-silent", At: node.Clock.Now()})
	node.Sightings.Stalls(expected, &api.Stall{ID: "no-address", At: node.Clock.Now()})
	if got := pulse(); len(got) != 2 || got["m-03"] != "loader-silent" || got["t-99"] != "no-address" {
		t.Errorf("two stand, and it tells %v", got)
	}
	if got := pulse(); len(got) != 0 {
		t.Errorf("it tells again %v", got)
	}
	node.Sightings.Stalls(known, &api.Stall{ID: "loader-loop", At: node.Clock.Now()})
	if got := pulse(); len(got) != 1 || got["m-03"] != "loader-loop" {
		t.Errorf("for another reason, and it tells %v", got)
	}
	node.Sightings.Stalls(known, nil)
	node.Sightings.Stalls(expected, nil)
	if got := pulse(); len(got) != 2 || got["m-03"] != "goes on" || got["t-99"] != "goes on" {
		t.Errorf("both go on, and it tells %v", got)
	}
}
