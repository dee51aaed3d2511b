package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

func withDebian(d wire.Disk) wire.Disk {
	d.Contents = wire.Contents{Table: "gpt", OS: "Debian 11", Partitions: []wire.Partition{{Number: 1, Filesystem: "ext4"}}}
	return d
}

func TestWhatAMachineBoots(t *testing.T) {
	stick := wire.Disk{Name: "sdb", Serial: "STICK", SizeBytes: 8 * gb, Removable: true, Contents: wire.Contents{Table: "mbr"}}
	cases := []struct {
		name string
		rig  func(t *testing.T) *rig
		want BootAction
	}{
		{"not known", func(t *testing.T) *rig { return newRig(t) }, BootAgent},
		{"discovered, its disk is blank", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(report("b"))
			return r
		}, BootAgent},
		{"discovered, blank but for a stick", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(report("b", sda(), stick))
			return r
		}, BootAgent},
		{"discovered, with an OS on its disk", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(report("b", withDebian(sda())))
			return r
		}, BootLocal},
		{"rejected, with an OS", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(debian(), create("t1"), report("b", withDebian(sda())), DecideTask{TaskID: "t1", By: "ann"})
			return r
		}, BootLocal},
		{"cancelled before anything was written, with an OS", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(debian(), create("t1"), report("b", withDebian(sda())))
			r.must(r.approve("t1"))
			r.must(CancelTask{TaskID: "t1"})
			return r
		}, BootLocal},
		{"refused by its agent before anything was written, with an OS", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(debian(), create("t1"), report("b", withDebian(sda())))
			r.must(r.approve("t1"))
			r.must(r.finish("t1", &wire.TaskError{Code: wire.CodePlanMismatch}))
			return r
		}, BootLocal},
		{"refused by its agent after the grant but before the first byte, with an OS", func(t *testing.T) *rig {
			r := newRig(t)
			r.must(debian(), create("t1"), report("b", withDebian(sda())))
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			r.must(r.finish("t1", &wire.TaskError{Code: wire.CodeDiskTooSmall}))
			return r
		}, BootLocal},
		{"cancelled while its disk was written", func(t *testing.T) *rig {
			r := at(t, wire.StatusInstalling)
			r.must(CancelTask{TaskID: "t1"})
			return r
		}, BootAgent},
		{"deleted after its install failed", func(t *testing.T) *rig {
			r := at(t, wire.StatusFailed)
			r.must(DeleteTask{TaskID: "t1"})
			return r
		}, BootAgent},
		{"installed, and its task deleted", func(t *testing.T) *rig {
			r := at(t, wire.StatusCompleted)
			r.must(DeleteTask{TaskID: "t1"})
			return r
		}, BootLocal},
		{"installed, and a retry refused before the first byte", func(t *testing.T) *rig {
			r := at(t, wire.StatusReady)
			r.must(report("b2"))
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			r.must(r.finish("t1", &wire.TaskError{Code: wire.CodePlanMismatch}))
			return r
		}, BootLocal},
		{"unfinished, and a second try refused before its first byte", func(t *testing.T) *rig {
			r := at(t, wire.StatusFailed)
			r.must(RetryTask{TaskID: "t1", PhoneToken: "2"})
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			r.must(r.finish("t1", &wire.TaskError{Code: wire.CodePlanMismatch}))
			return r
		}, BootAgent},
		{"half written, and refused by an agent that was started again in the midst", func(t *testing.T) *rig {
			r := at(t, wire.StatusReady)
			r.must(report("b2"))
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			r.must(report("b2")) // the agent crashed while it wrote; the boot is the same
			r.must(r.start("t1"))
			r.must(r.finish("t1", &wire.TaskError{Code: wire.CodePlanMismatch}))
			return r
		}, BootAgent},
	}
	for status, want := range map[wire.Status]BootAction{
		wire.StatusPending: BootAgent, wire.StatusReady: BootAgent, wire.StatusBooting: BootAgent,
		wire.StatusPendingApproval: BootAgent, wire.StatusApproved: BootAgent, wire.StatusInstalling: BootAgent,
		wire.StatusCompleted: BootLocal, wire.StatusFailed: BootAgent, wire.StatusInterrupted: BootAgent,
	} {
		cases = append(cases, struct {
			name string
			rig  func(t *testing.T) *rig
			want BootAction
		}{"its task is " + string(status), func(t *testing.T) *rig { return at(t, status) }, want})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := c.rig(t)
			before := content(t, r.s)
			d := r.s.Boot("52:54:00:00:00:01")
			if d.Action != c.want || d.Reason == "" {
				t.Errorf("it boots %s (%s), want %s", d.Action, d.Reason, c.want)
			}
			if content(t, r.s) != before {
				t.Error("asking changed the state")
			}
		})
	}
}

// A card that firmware boots from but Linux has no driver for: the agent comes up
// on another one, and the machine has to be known by both, or it would go round
// between the agent and its disk for ever.
func TestAMachineIsKnownByTheCardItsFirmwareBootsFrom(t *testing.T) {
	r := newRig(t)
	b := report("b1")
	b.BootMAC = strings.ToUpper(mac2)
	task := create("t1")
	task.TargetMAC = mac2
	r.must(debian(), task, b)
	r.install("t1")
	if d := r.s.Boot(mac2); d.Action != BootLocal || d.MachineID != "m1" {
		t.Errorf("by the card it boots from it is %q and boots %s (%s)", d.MachineID, d.Action, d.Reason)
	}
}

func TestABIOSBootsTheDriveThatWasInstalled(t *testing.T) {
	stick := wire.Disk{Name: "sda", Serial: "STICK", SizeBytes: 8 * gb, Removable: true}
	small := wire.Disk{Name: "sdb", Serial: "SMALL", SizeBytes: gb, LogicalSector: 512}
	r := newRig(t)
	r.must(debian(), create("t1"), report("b", stick, small, sda()))
	r.install("t1")
	if d := r.s.Boot(mac1); d.LocalDrive != 1 {
		t.Errorf("drive %d, want 1: the second of its fixed disks", d.LocalDrive)
	}
}

func TestSecureBootIsKnownFromTheLastReport(t *testing.T) {
	r := newRig(t)
	for boot, on := range []bool{true, false} {
		rep := report(fmt.Sprint("b", boot), sda())
		rep.Inventory.Firmware.SecureBoot = on
		r.must(rep)
		if d := r.s.Boot(mac1); d.SecureBoot != on {
			t.Errorf("it reported Secure Boot %v, and is booted as if %v", on, d.SecureBoot)
		}
	}
}

func TestAFinishedMachineBootsItsOwnDiskEveryTime(t *testing.T) {
	r := at(t, wire.StatusCompleted)
	for range 10 {
		if d := r.s.Boot(mac1); d.Action != BootLocal {
			t.Fatalf("it boots %s: %s", d.Action, d.Reason)
		}
		r.must(ServeBoot{MAC: mac1})
	}
}
