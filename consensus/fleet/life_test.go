package fleet

import (
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// What each command does to a task in each status: the status after it, "=" if
// it is accepted and changes nothing about the status, "gone" if there is no
// task any more, or "!" and the code of the refusal.
const life = `
                  serve-boot  report            approve    reject      start        advance     done        fail        up          cancel      retry             delete      second      forget      drop-image
pending           booting     pending_approval  !conflict  !conflict   !not_found   =           !not_found  !not_found  !conflict   cancelled   !conflict         gone        !conflict   !not_found  !conflict
ready             booting     pending_approval  !conflict  !conflict   !conflict    =           !conflict   !conflict   !conflict   cancelled   !conflict         gone        !conflict   !conflict   !conflict
booting           =           pending_approval  !conflict  !conflict   !not_found   =           !not_found  !not_found  !conflict   cancelled   !conflict         gone        !conflict   !not_found  !conflict
pending_approval  =           =                 approved   rejected    !conflict    =           !conflict   !conflict   !conflict   cancelled   !conflict         gone        !conflict   !conflict   !conflict
approved          =           =                 =          !conflict   installing   =           !conflict   failed      !conflict   cancelled   !conflict         !conflict   !conflict   !conflict   !conflict
needs_review      =           =                 approved   rejected    !conflict    =           !conflict   !conflict   !conflict   cancelled   !conflict         gone        !conflict   !conflict   !conflict
installing        =           interrupted       !conflict  !conflict   =            =           completed   failed      !conflict   cancelled   !conflict         !conflict   !conflict   !conflict   !conflict
completed         =           =                 !conflict  !conflict   !conflict    =           =           !conflict   =           !conflict   !conflict         gone        =           =           =
failed            =           =                 !conflict  !conflict   !conflict    =           !conflict   =           !conflict   !conflict   pending_approval  gone        =           =           =
rejected          =           =                 !conflict  =           !conflict    =           !conflict   !conflict   !conflict   !conflict   pending_approval  gone        =           =           =
cancelled         =           =                 !conflict  !conflict   !conflict    =           !conflict   !conflict   !conflict   =           pending_approval  gone        =           =           =
interrupted       =           =                 !conflict  !conflict   !conflict    =           !conflict   !conflict   !conflict   !conflict   pending_approval  gone        =           =           =
`

var lifeCommands = map[string]func(r *rig) Body{
	"serve-boot": func(*rig) Body { return ServeBoot{MAC: strings.ToUpper(mac1)} },
	"report":     func(*rig) Body { return report("another-boot") },
	"approve":    func(r *rig) Body { return r.approve("t1") },
	"reject":     func(*rig) Body { return DecideTask{TaskID: "t1", By: "ann"} },
	"start":      func(r *rig) Body { return r.start("t1") },
	"advance":    func(r *rig) Body { return r.advance("t1", wire.StageConfiguring, 97) },
	"done":       func(r *rig) Body { return r.finish("t1", nil) },
	"fail":       func(r *rig) Body { return r.finish("t1", diskBroke) },
	"up":         func(*rig) Body { return ReportUp{PhoneToken: "token-t1", Hostname: "web1"} },
	"cancel":     func(*rig) Body { return CancelTask{TaskID: "t1", By: "ann"} },
	"retry":      func(*rig) Body { return RetryTask{TaskID: "t1", By: "ann", PhoneToken: "token-again"} },
	"delete":     func(*rig) Body { return DeleteTask{TaskID: "t1"} },
	"second":     func(*rig) Body { return create("t2") },
	"forget":     func(*rig) Body { return DeleteMachine{MachineID: "m1"} },
	"drop-image": func(*rig) Body { return DeleteImage{Name: "debian-12"} },
}

// lifeTable is the table above as cells[status][command].
func lifeTable() (statuses []wire.Status, commands []string, cells map[wire.Status]map[string]string) {
	lines := strings.Split(strings.TrimSpace(life), "\n")
	commands = strings.Fields(lines[0])
	cells = map[wire.Status]map[string]string{}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		status := wire.Status(f[0])
		statuses = append(statuses, status)
		cells[status] = map[string]string{}
		for i, c := range commands {
			cells[status][c] = f[i+1]
		}
	}
	return statuses, commands, cells
}

func TestWhatEachCommandDoesInEachStatus(t *testing.T) {
	statuses, commands, cells := lifeTable()
	if len(statuses) != 12 || len(commands) != len(lifeCommands) {
		t.Fatalf("the table has %d statuses and %d commands", len(statuses), len(commands))
	}
	for _, status := range statuses {
		for _, command := range commands {
			t.Run(string(status)+"/"+command, func(t *testing.T) {
				r, want := at(t, status), cells[status][command]
				body := lifeCommands[command](r)
				if code, refused := strings.CutPrefix(want, "!"); refused {
					r.refused(Code(code), body)
					return
				}
				r.must(body)
				got := "gone"
				if task := r.s.Task("t1"); task != nil {
					got = string(task.Status)
				}
				if want == "=" {
					want = string(status)
				}
				if got != want {
					t.Errorf("the task is %s, want %s", got, want)
				}
			})
		}
	}
}

func TestPeopleAreOfferedExactlyWhatTheRulesAllow(t *testing.T) {
	statuses, _, cells := lifeTable()
	for _, status := range statuses {
		var want []string
		for _, action := range []string{"approve", "reject", "retry", "cancel", "delete"} {
			if c := cells[status][action]; c != "=" && !strings.HasPrefix(c, "!") {
				want = append(want, action)
			}
		}
		task := at(t, status).task("t1")
		if got := task.Actions(); !slices.Equal(got, want) {
			t.Errorf("%s offers %v, the rules allow %v", status, got, want)
		}
		if open := task.Open(); open != strings.HasPrefix(cells[status]["second"], "!") {
			t.Errorf("%s: open is %v, and a second task is %s", status, open, cells[status]["second"])
		}
	}
}

func TestWhatIsNamedHasToExist(t *testing.T) {
	r := newRig(t)
	for _, b := range []Body{DecideTask{TaskID: "x"}, StartInstall{TaskID: "x"}, FinishInstall{TaskID: "x"}, CancelTask{TaskID: "x"},
		RetryTask{TaskID: "x"}, DeleteTask{TaskID: "x"}, ReportUp{PhoneToken: "x"}, ReportUp{}, SettleQuestion{MachineID: "x"},
		DeleteMachine{MachineID: "x"}, DeleteImage{Name: "x"}} {
		r.refused(NotFound, b)
	}
}

func TestARepeatedCommandChangesNothing(t *testing.T) {
	for _, c := range []struct {
		status  wire.Status
		command string
	}{{wire.StatusApproved, "approve"}, {wire.StatusRejected, "reject"}, {wire.StatusInstalling, "start"},
		{wire.StatusCompleted, "done"}, {wire.StatusFailed, "fail"}, {wire.StatusCancelled, "cancel"}} {
		r := at(t, c.status)
		before := content(t, r.s)
		r.must(lifeCommands[c.command](r))
		if content(t, r.s) != before || len(r.events) > 0 {
			t.Errorf("%s told again to a task that is %s changed something", c.command, c.status)
		}
	}
}

func TestARetryStartsAnewUnderAHigherGeneration(t *testing.T) {
	r := at(t, wire.StatusFailed)
	old := r.start("t1")
	r.must(RetryTask{TaskID: "t1", By: "ann", PhoneToken: "token-2"})
	task := r.task("t1")
	if task.Generation != 2 || task.Approval != nil || task.Error != nil || task.Progress != nil || !task.StartedAt.IsZero() {
		t.Fatalf("after the retry the task still has something of its first try: %+v", task)
	}
	if r.s.TaskByPhoneToken("token-t1") != nil || r.s.TaskByPhoneToken("token-2") != task {
		t.Error("the first try's phone token still counts, or the second's does not")
	}
	r.must(r.approve("t1"))
	r.refused(Conflict, old) // the grant of the first try
	r.must(r.start("t1"))
	late := Advance{[]AdvanceItem{{TaskID: "t1", Generation: 1, Progress: wire.Progress{Stage: wire.StageInstalling, Percentage: 80}}}}
	r.must(late)
	if got := r.task("t1").Progress.Percentage; got != 0 {
		t.Errorf("progress of the first try moved the second to %v %%", got)
	}
}

func TestARetriedTaskFindsAMachineThatWasForgotten(t *testing.T) {
	r := at(t, wire.StatusCancelled)
	r.must(DeleteMachine{MachineID: "m1"}, RetryTask{TaskID: "t1", By: "ann", PhoneToken: "token-2"})
	if task := r.task("t1"); task.Status != wire.StatusPending || r.s.TaskForMAC(mac1) != task {
		t.Fatalf("the retried task is %s and waits for machine %q", task.Status, task.MachineID)
	}
	again := report("boot-9")
	again.NewID = "m9"
	r.must(again)
	if task := r.task("t1"); task.MachineID != "m9" || task.Status != wire.StatusPendingApproval {
		t.Errorf("when the machine came back the task was %s for machine %q", task.Status, task.MachineID)
	}
}

func TestProgressNeverRunsBackwards(t *testing.T) {
	r := at(t, wire.StatusPendingApproval)
	r.must(r.approve("t1"))
	r.must(r.start("t1"))
	steps := []struct {
		stage wire.Stage
		value float64
		want  float64 // after it
	}{
		{wire.StagePartitioning, 0, 0},
		{wire.StagePartitioning, 10, 10},
		{wire.StagePartitioning, 5, 10},  // backwards
		{wire.StageDownloading, 10, 10},  // not in its stage
		{wire.StageDownloading, 61, 10},  // past its stage
		{"polishing", 50, 10},            // no stage
		{wire.StageDownloading, 40, 40},  //
		{wire.StagePartitioning, 20, 40}, // an earlier stage
		{wire.StageInstalling, 60, 60},
		{wire.StageConfiguring, 100, 100},
		{wire.StageConfiguring, 101, 100},
	}
	for _, st := range steps {
		r.must(r.advance("t1", st.stage, st.value))
		if got := r.task("t1").Progress.Percentage; got != st.want {
			t.Fatalf("after %s %v %% the task is at %v %%, want %v %%", st.stage, st.value, got, st.want)
		}
	}
}

func TestAnInstallIsNotCompleteBeforeItsLastStage(t *testing.T) {
	r := at(t, wire.StatusPendingApproval)
	r.must(r.approve("t1"))
	r.must(r.start("t1"))
	r.must(r.advance("t1", wire.StageInstalling, 80))
	r.refused(Conflict, r.finish("t1", nil))
}

func TestOnlyTheAgentThatReportedLastMaySpeak(t *testing.T) {
	for name, session := range map[string]string{"no session": "", "another boot's": "s-boot-0"} {
		r := at(t, wire.StatusApproved)
		start := r.start("t1")
		start.SessionHash = session
		r.refused(Conflict, start)
		finish := r.finish("t1", diskBroke)
		finish.SessionHash = session
		r.refused(Conflict, finish)
		if r.s.MachineBySession("s-boot-1") == nil || r.s.MachineBySession("") != nil {
			t.Errorf("%s: the machine is not found by its session alone", name)
		}
	}
}

func TestTheInstalledSystemIsHeardOnce(t *testing.T) {
	r := at(t, wire.StatusCompleted)
	r.must(ReportUp{PhoneToken: "token-t1", Hostname: "web1", IP: "10.0.0.1"})
	first := *r.task("t1").CameUp
	if got := r.machine("m1").Installed.CameUp; !got.Equal(first.At) || first.Hostname != "web1" {
		t.Errorf("came up %+v, the machine says %v", first, got)
	}
	r.must(ReportUp{PhoneToken: "token-t1", Hostname: "liar"})
	if got := *r.task("t1").CameUp; got != first {
		t.Errorf("a second report changed the first: %+v", got)
	}
}

func TestTheMilestonesOfATaskAreBounded(t *testing.T) {
	r := at(t, wire.StatusFailed)
	for range 3 * maxLogLines {
		r.must(RetryTask{TaskID: "t1", By: "ann", PhoneToken: "x"}, CancelTask{TaskID: "t1", By: "ann"})
	}
	if got := len(r.task("t1").Logs); got != maxLogLines {
		t.Errorf("%d milestones are kept, want %d", got, maxLogLines)
	}
}

// What the agent saw before it wrote is no longer true afterwards: whoever
// installs the machine again must not be told that the disk is blank.
func TestAWrittenDiskIsNotCalledBlank(t *testing.T) {
	r := at(t, wire.StatusCompleted)
	task := r.s.Tasks()[0]
	for _, d := range r.machine(task.MachineID).Inventory.Disks {
		if d.ID() != task.Plan.Erase.DiskID {
			continue
		}
		if c := d.Contents; c.Blank() || c.OS != task.Plan.Image.Name || c.Marker == nil || c.Marker.TaskID != task.ID {
			t.Errorf("the disk is said to hold %+v", c)
		}
		return
	}
	t.Error("the erased disk is gone from the inventory")
}

// An agent that was sent to its own disk waits no longer: a task made then waits
// for the machine, and nobody is asked to approve what could not begin.
func TestAMachineWhoseAgentHasLeftIsWaitedFor(t *testing.T) {
	r := newRig(t)
	r.must(debian(), report("boot-1"))
	session := r.machine("m1").SessionHash
	r.must(LeaveAgent{SessionHash: session}, LeaveAgent{SessionHash: session}, LeaveAgent{SessionHash: "nobody's"}, create("t1"))
	if got := r.task("t1").Status; got != wire.StatusReady {
		t.Errorf("with the agent gone the task is %s", got)
	}
	r.must(report("boot-2"))
	if got := r.task("t1").Status; got != wire.StatusPendingApproval {
		t.Errorf("with the agent back the task is %s", got)
	}
}
