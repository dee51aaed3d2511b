package fleet

import (
	"bytes"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

func (r *rig) boots(want BootAction) {
	r.t.Helper()
	if d := r.s.Boot(mac1); d.Action != want {
		r.t.Fatalf("it boots %s (%s), want %s", d.Action, d.Reason, want)
	}
}

// netboots is the machine asking n times and starting the agent, without a report.
func (r *rig) netboots(n int) {
	r.t.Helper()
	for range n {
		r.boots(BootAgent)
		r.must(ServeBoot{MAC: mac1})
	}
}

func TestAMachineWhoseAgentNeverReportsIsHeld(t *testing.T) {
	for name, c := range map[string]struct {
		rig     func() *rig
		release ReleaseHold
	}{
		"a known one with a task": {func() *rig { return at(t, wire.StatusPendingApproval) }, ReleaseHold{MachineID: "m1", By: "ann"}},
		"one that installs":       {func() *rig { return at(t, wire.StatusInstalling) }, ReleaseHold{MachineID: "m1", By: "ann"}},
		"one that never was seen": {func() *rig { return at(t, wire.StatusPending) }, ReleaseHold{TaskID: "t1", By: "ann"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := c.rig()
			held := func() *Held {
				if c.release.TaskID != "" {
					return r.task("t1").Held
				}
				return r.machine("m1").Held
			}
			r.netboots(maxNetboots)
			r.boots(BootHold)
			if held() != nil {
				t.Error("it is said to be held before it has asked again")
			}
			r.must(ServeBoot{MAC: mac1})
			if h := held(); h == nil || h.Reason == "" || !h.Since.Equal(r.at) || !r.s.IsHeld(mac1) {
				t.Fatalf("it is held: %+v", h)
			}
			before := content(t, r.s)
			r.must(ServeBoot{MAC: mac1})
			if content(t, r.s) != before {
				t.Error("asking again while it waits changed something")
			}
			// A node that begins with a snapshot has it wait, too.
			restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
			if err != nil || restored.Boot(mac1).Action != BootHold || !restored.IsHeld(mac1) {
				t.Errorf("restored, it boots %s (%v)", restored.Boot(mac1).Action, err)
			}
			r.must(c.release)
			r.netboots(maxNetboots)
			r.boots(BootHold)
			r.must(report("boot-9"))
			if held() != nil || r.s.Boot(mac1).Action == BootHold {
				t.Error("it has reported and is still held")
			}
		})
	}
}

// A machine of which nobody wants anything is not kept from what it has on its disk,
// whatever its agent does; a task begins to count anew.
func TestAMachineNobodyWantsAnythingOfIsNotHeld(t *testing.T) {
	r := newRig(t)
	r.must(debian(), report("boot-1"))
	r.netboots(maxNetboots)
	r.boots(BootLocal)
	r.must(ServeBoot{MAC: mac1})
	r.boots(BootLocal)
	if r.machine("m1").Held != nil {
		t.Error("it is held")
	}
	r.must(create("t1"))
	r.netboots(maxNetboots)
	r.boots(BootHold)
}

func TestAReportClearsTheCount(t *testing.T) {
	r := newRig(t)
	for range 3 {
		r.must(report("boot-1"))
		r.netboots(maxNetboots)
	}
}

func TestAHoldIsForTheAgentAlone(t *testing.T) {
	r := newRig(t)
	r.must(debian(), create("t1"), report("boot-1", withDebian(sda())))
	r.netboots(maxNetboots)
	r.boots(BootHold)
	r.must(CancelTask{TaskID: "t1", By: "ann"})
	r.boots(BootLocal) // nothing is asked of it: it boots its disk whatever the agent does
}

func TestWhatIsNotHeldIsReleasedAllTheSame(t *testing.T) {
	r := at(t, wire.StatusPendingApproval)
	before := content(t, r.s)
	r.must(ReleaseHold{MachineID: "m1", By: "ann"}, ReleaseHold{TaskID: "t1", By: "ann"})
	if content(t, r.s) != before {
		t.Error("something changed")
	}
	r.refused(NotFound, ReleaseHold{MachineID: "m9"})
	r.refused(NotFound, ReleaseHold{TaskID: "t9"})
}

// S29: a finished machine is told a hundred times to boot its own disk, and not one
// time costs an entry that changes anything; also out of a snapshot, and after the
// epoch of a restored backup.
func TestS29_AFinishedMachineBootsItsDiskAHundredTimes(t *testing.T) {
	r := newRig(t)
	r.must(PutCluster{Cluster{ID: "c1"}}, debian(), create("t1"), report("boot-1"))
	r.install("t1")
	hundred := func(s *State, name string) {
		for i := range 100 {
			if d := s.Boot(mac1); d.Action != BootLocal {
				t.Fatalf("%s, netboot %d: it boots %s, %s", name, i+1, d.Action, d.Reason)
			}
		}
	}
	hundred(r.s, "as it is")
	for range 100 {
		r.must(ServeBoot{MAC: mac1}, NoteLeader{NodeID: "n2", Term: r.s.Leader().Term + 1})
	}
	hundred(r.s, "after a hundred leaders")
	restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	r.s = restored
	r.must(RaiseEpoch{Reason: "restored from a backup", By: "ann"})
	hundred(r.s, "out of yesterday's backup")
	r.must(RaiseEpoch{Reason: "restored without its keys", By: "ann", NewIdentity: true})
	hundred(r.s, "in a cluster of another identity")
}
