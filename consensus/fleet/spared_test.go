package fleet

import (
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// installingOver gives a rig whose machine has Debian on its disk and may erase it.
func installingOver(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	r.must(debian(), create("t1"), report("boot-1", withDebian(sda())))
	r.must(r.approve("t1"))
	r.must(r.start("t1"))
	if !r.machine("m1").Unfinished {
		t.Fatal("an install that runs is taken for one that has ended")
	}
	return r
}

// A production server whose install ended before its first byte boots its own disk.
func TestAnInstallThatWroteNothingLeavesTheDiskBooting(t *testing.T) {
	whole := func(boot string) ReportMachine { return report(boot, withDebian(sda())) }
	unwritten := &wire.TaskError{Code: wire.CodeImageError, Message: "there is no manifest", Untouched: true}
	for name, end := range map[string]func(*rig){
		"the image is not there":   func(r *rig) { r.must(r.finish("t1", unwritten)) },
		"cancelled, then reported": func(r *rig) { r.must(CancelTask{TaskID: "t1", By: "ann"}, whole("boot-1")) },
		"cancelled and deleted": func(r *rig) {
			r.must(CancelTask{TaskID: "t1", By: "ann"}, DeleteTask{TaskID: "t1"}, whole("boot-1"))
		},
		"a power cut":                 func(r *rig) { r.must(whole("boot-2")) },
		"the agent was started again": func(r *rig) { r.must(whole("boot-1"), r.finish("t1", unwritten)) },
	} {
		r := installingOver(t)
		end(r)
		if m := r.machine("m1"); m.Unfinished || m.Erasing != nil {
			t.Errorf("%s: the machine's disk is said not to boot", name)
		}
		if task := r.s.Task("t1"); task != nil && task.Open() {
			t.Errorf("%s: the task is %s", name, task.Status)
		}
		if d := r.s.Boot(mac1); d.Action != BootLocal {
			t.Errorf("%s: it boots %s: %s", name, d.Action, d.Reason)
		}
	}
	r := installingOver(t)
	r.must(whole("boot-2"))
	if last := r.task("t1").Logs; !strings.Contains(last[len(last)-1].Text, "holds what it held before the install") {
		t.Errorf("the task says %v", last)
	}
}

// What may have been written boots the agent, as ever.
func TestADiskThatMayBeWrittenIsNotSpared(t *testing.T) {
	headless := withDebian(sda())
	headless.Contents.NoHead = true
	for name, end := range map[string]func(*rig){
		"it failed while it wrote":  func(r *rig) { r.must(r.finish("t1", diskBroke), report("boot-1", headless)) },
		"the first sector is wiped": func(r *rig) { r.must(report("boot-2", headless)) },
		"all is wiped":              func(r *rig) { r.must(report("boot-2", sda())) },
		"the disk is gone":          func(r *rig) { r.must(report("boot-2", disk("Z", 900))) },
		"cancelled while it wrote":  func(r *rig) { r.must(CancelTask{TaskID: "t1", By: "ann"}, report("boot-1", headless)) },
		"an earlier run had written": func(r *rig) {
			r.must(report("boot-1", headless), r.finish("t1", &wire.TaskError{Code: wire.CodeImageError, Untouched: true}))
		},
		"an earlier install had written": func(r *rig) {
			r.must(report("boot-2", headless), RetryTask{TaskID: "t1", By: "ann"}, report("boot-2", headless))
			r.must(r.approve("t1"))
			r.must(r.start("t1"))
			r.must(report("boot-3", headless))
		},
	} {
		r := installingOver(t)
		end(r)
		if !r.machine("m1").Unfinished {
			t.Errorf("%s: the disk is said to boot", name)
		}
		if d := r.s.Boot(mac1); d.Action != BootAgent {
			t.Errorf("%s: it boots %s: %s", name, d.Action, d.Reason)
		}
	}
}
