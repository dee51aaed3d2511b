package fleet

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// rig applies commands to a state the way the log does: encoded, decoded, one
// second apart.
type rig struct {
	t      testing.TB
	s      *State
	index  uint64
	made   int // commands, which is how they are called
	at     time.Time
	events []Event // of the last command
}

func newRig(t testing.TB) *rig {
	return &rig{t: t, s: NewState(), at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

// command is the next command as it comes out of the log.
func (r *rig) command(b Body) Command {
	r.t.Helper()
	r.index++
	r.made++
	r.at = r.at.Add(time.Second)
	raw, err := Command{ID: fmt.Sprintf("c%d", r.made), At: r.at, Body: b}.Encode()
	if err != nil {
		r.t.Fatalf("encode %T: %v", b, err)
	}
	c, err := DecodeCommand(raw)
	if err != nil {
		r.t.Fatalf("decode %T: %v", b, err)
	}
	return c
}

func (r *rig) do(b Body) (any, error) {
	r.t.Helper()
	c := r.command(b)
	result, events, err := r.s.Apply(r.index, c)
	r.events = events
	return result, err
}

func (r *rig) must(bodies ...Body) {
	r.t.Helper()
	for _, b := range bodies {
		if _, err := r.do(b); err != nil {
			r.t.Fatalf("%s: %v", b.commandType(), err)
		}
	}
}

// refused wants the code, and a state that the refusal did not touch.
func (r *rig) refused(code Code, b Body) *Error {
	r.t.Helper()
	before := content(r.t, r.s)
	_, err := r.do(b)
	if ErrorCode(err) != code {
		r.t.Fatalf("%s: error %v (code %q), want code %q", b.commandType(), err, ErrorCode(err), code)
	}
	if after := content(r.t, r.s); after != before {
		r.t.Fatalf("%s was refused (%v) and changed the state:\n%s\nbefore:\n%s", b.commandType(), err, after, before)
	}
	if len(r.events) > 0 {
		r.t.Fatalf("%s was refused and told %v", b.commandType(), r.events)
	}
	return err.(*Error)
}

func (r *rig) task(id string) *Task {
	r.t.Helper()
	t := r.s.Task(id)
	if t == nil {
		r.t.Fatalf("there is no task %s", id)
	}
	return t
}

func (r *rig) machine(id string) *Machine {
	r.t.Helper()
	m := r.s.Machine(id)
	if m == nil {
		r.t.Fatalf("there is no machine %s", id)
	}
	return m
}

func snapshotOf(t testing.TB, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot().Write(&b); err != nil {
		t.Fatalf("write snapshot: %v", err)
	}
	return b.Bytes()
}

// content is the snapshot without its header, which holds the index, and without
// the window of what was done, where refusals leave their mark.
func content(t testing.TB, s *State) string {
	t.Helper()
	_, rest, _ := strings.Cut(string(snapshotOf(t, s)), "\n")
	rest, _, _ = strings.Cut(rest, `{"kind":"done"`)
	return rest
}

const gb = 1000 * 1000 * 1000

const (
	mac1 = "52:54:00:00:00:01"
	mac2 = "52:54:00:00:00:02"
)

func debian() PutImage {
	return PutImage{Image{Name: "debian-12", OSType: "debian", OSVersion: "12", Digest: strings.Repeat("ab", 32), SizeBytes: 2 * gb, Sector: 512}}
}

func sda() wire.Disk {
	return wire.Disk{Name: "sda", Serial: "DISK-A", WWN: "0x5000000000000001", SizeBytes: 100 * gb, LogicalSector: 512, Transport: "sata"}
}

func inventory(uuid, serial string, macs []string, disks ...wire.Disk) wire.Inventory {
	inv := wire.Inventory{System: wire.System{UUID: uuid, Serial: serial}, Disks: disks}
	for i, m := range macs {
		inv.NICs = append(inv.NICs, wire.NIC{Name: fmt.Sprintf("eth%d", i), MAC: m})
	}
	return inv
}

const (
	uuid1 = "11111111-2222-3333-4444-555555555501"
	uuid2 = "11111111-2222-3333-4444-555555555502"
)

// report is what the agent of machine m1 says in a boot of that name.
func report(boot string, disks ...wire.Disk) ReportMachine {
	if disks == nil {
		disks = []wire.Disk{sda()}
	}
	return ReportMachine{NewID: "m1", RegionID: "dc1", BootID: boot, SessionHash: "s-" + boot, MAC: mac1, IP: "10.0.0.1",
		Inventory: inventory(uuid1, "SER1", []string{mac1}, disks...)}
}

func create(id string) CreateTask {
	return CreateTask{ID: id, RegionID: "dc1", TargetMAC: mac1, PhoneToken: "token-" + id,
		Spec: Spec{OSType: "debian", OSVersion: "12", NetworkConfig: NetworkConfig{Hostname: "web1"}}}
}

func (r *rig) approve(task string) DecideTask {
	return DecideTask{TaskID: task, Approved: true, PlanHash: r.task(task).PlanHash, By: "ann"}
}

func (r *rig) start(task string) StartInstall {
	t := r.task(task)
	return StartInstall{TaskID: task, Generation: t.Generation, PlanHash: t.PlanHash, SessionHash: r.sessionOf(t)}
}

func (r *rig) finish(task string, failure *wire.TaskError) FinishInstall {
	t := r.task(task)
	return FinishInstall{TaskID: task, Generation: t.Generation, SessionHash: r.sessionOf(t), Error: failure}
}

func (r *rig) sessionOf(t *Task) string {
	if m := r.s.Machine(t.MachineID); m != nil {
		return m.SessionHash
	}
	return "nobody"
}

func (r *rig) advance(task string, stage wire.Stage, percentage float64) Advance {
	return Advance{[]AdvanceItem{{TaskID: task, Generation: r.task(task).Generation,
		Progress: wire.Progress{Stage: stage, Percentage: percentage}}}}
}

var diskBroke = &wire.TaskError{Code: wire.CodeInternal, Message: "the disk broke"}

// install takes task id of machine m1, which waits for approval, to its end.
func (r *rig) install(id string) {
	r.t.Helper()
	r.must(r.approve(id))
	r.must(r.start(id))
	r.must(r.advance(id, wire.StageConfiguring, 95))
	r.must(r.finish(id, nil))
}

// at gives a rig whose machine m1 has task t1 in the status, reached the way it
// is reached in life.
func at(t testing.TB, status wire.Status) *rig {
	t.Helper()
	r := newRig(t)
	r.must(debian())
	reported := func() { r.must(create("t1"), report("boot-1")) }
	switch status {
	case wire.StatusPending:
		r.must(create("t1"))
	case wire.StatusReady: // known from an install before; its agent has left
		r.must(create("t0"), report("boot-0"))
		r.install("t0")
		r.must(create("t1"))
	case wire.StatusBooting:
		r.must(create("t1"), ServeBoot{MAC: mac1})
	case wire.StatusPendingApproval:
		reported()
	case wire.StatusApproved:
		reported()
		r.must(r.approve("t1"))
	case wire.StatusNeedsReview:
		reported()
		r.must(r.approve("t1"))
		r.must(report("boot-2", disk("Z", 100)))
	case wire.StatusInstalling:
		reported()
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
		r.must(r.advance("t1", wire.StageConfiguring, 95))
	case wire.StatusCompleted:
		reported()
		r.install("t1")
	case wire.StatusFailed:
		reported()
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
		r.must(r.finish("t1", diskBroke))
	case wire.StatusRejected:
		reported()
		r.must(DecideTask{TaskID: "t1", By: "ann"})
	case wire.StatusCancelled:
		reported()
		r.must(CancelTask{TaskID: "t1", By: "ann"})
	case wire.StatusInterrupted:
		reported()
		r.must(r.approve("t1"))
		r.must(r.start("t1"))
		r.must(report("boot-2"))
	}
	if got := r.task("t1").Status; got != status {
		t.Fatalf("the way to %s ended at %s", status, got)
	}
	return r
}
