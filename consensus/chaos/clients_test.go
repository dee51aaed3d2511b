package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// access is how a client uses a node; a planted bug is another one.
type access struct {
	propose func(ctx context.Context, n *consensus.Node, body fleet.Body) (any, error)
	verify  func(ctx context.Context, n *consensus.Node) error
	view    func(n *consensus.Node, f func(s *fleet.State))
}

func honest() access {
	return access{
		propose: func(ctx context.Context, n *consensus.Node, body fleet.Body) (any, error) {
			return n.Propose(ctx, body)
		},
		verify: func(ctx context.Context, n *consensus.Node) error { return n.Verify(ctx) },
		view:   func(n *consensus.Node, f func(s *fleet.State)) { n.View(f) },
	}
}

// story is what happened, as those saw it who asked.
type story struct {
	access access
	clock  atomic.Int64 // counts calls and returns
	boots  atomic.Int64
	hash   []string // of each task's plan

	mu      sync.Mutex
	ops     []porcupine.Operation
	open    []int             // in ops: what nobody knows the end of
	journal map[erasure][]int // which boots have erased, by what they were granted
	missing []string          // grants without an approval
	failed  int
}

// erasure is what a grant to erase is bound to.
type erasure struct {
	task       string
	generation uint64
}

const tasks = 3

func taskID(k int) string     { return fmt.Sprintf("t%d", k) }
func session(k, b int) string { return fmt.Sprintf("session-%d-%d", k, b) }

func reportOf(k, boot int) fleet.ReportMachine {
	mac := fmt.Sprintf("52:54:00:00:00:%02x", k)
	return fleet.ReportMachine{NewID: fmt.Sprintf("m%d", k), RegionID: "dc1", BootID: fmt.Sprint(boot), SessionHash: session(k, boot), MAC: mac,
		Inventory: wire.Inventory{System: wire.System{UUID: fmt.Sprintf("11111111-2222-3333-4444-5555555555%02x", k), Serial: fmt.Sprint("S", k)},
			NICs:  []wire.NIC{{Name: "eth0", MAC: mac}},
			Disks: []wire.Disk{{Name: "sda", Serial: fmt.Sprint("DISK-", k), WWN: fmt.Sprintf("0x50000000000000%02x", k), SizeBytes: 100e9, LogicalSector: 512, Transport: "sata"}}}}
}

// begin makes the machines and tasks, all waiting for approval.
func begin(t *testing.T, n *consensus.Node, a access) *story {
	s := &story{access: a, journal: map[erasure][]int{}}
	s.boots.Store(1)
	must := func(b fleet.Body) {
		if _, err := n.Propose(context.Background(), b); err != nil {
			t.Fatalf("%T: %v", b, err)
		}
	}
	must(consensustest.OneWord()) // the model knows no second person
	must(fleet.PutImage{Image: fleet.Image{Name: "debian-12", OSType: "debian", OSVersion: "12", Digest: strings.Repeat("ab", 32), SizeBytes: 2e9, Sector: 512}})
	for k := range tasks {
		must(reportOf(k, 1))
		must(fleet.CreateTask{ID: taskID(k), RegionID: "dc1", TargetMAC: fmt.Sprintf("52:54:00:00:00:%02x", k), PhoneToken: fmt.Sprint("phone-", k),
			Spec: fleet.Spec{OSType: "debian", OSVersion: "12", NetworkConfig: fleet.NetworkConfig{Hostname: fmt.Sprint("web", k)}}})
		n.View(func(st *fleet.State) { s.hash = append(s.hash, st.Task(taskID(k)).PlanHash) })
	}
	return s
}

func modelOf(st *fleet.State, k int) (model, bool) {
	t := st.Task(taskID(k))
	if t == nil {
		return model{}, false
	}
	m := model{status: t.Status, generation: int(t.Generation)}
	fmt.Sscan(t.InstallBootID, &m.installBoot) //nolint:errcheck // "" is 0
	if mach := st.Machine(t.MachineID); mach != nil {
		fmt.Sscan(mach.BootID, &m.boot) //nolint:errcheck // it is a number
	}
	return m, true
}

func (s *story) body(in input) fleet.Body {
	id, by := taskID(in.task), "ann"
	switch in.kind {
	case approve, reject:
		return fleet.DecideTask{TaskID: id, Approved: in.kind == approve, PlanHash: s.hash[in.task], By: by}
	case start:
		return fleet.StartInstall{TaskID: id, Generation: uint64(in.generation), PlanHash: s.hash[in.task], SessionHash: session(in.task, in.boot)}
	case stage:
		return fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: id, Generation: uint64(in.generation), Progress: wire.Progress{Stage: wire.StageConfiguring, Percentage: 95}}}}
	case fail:
		return fleet.FinishInstall{TaskID: id, Generation: uint64(in.generation), SessionHash: session(in.task, in.boot), Error: &wire.TaskError{Code: wire.CodeInternal, Message: "the disk broke"}}
	case complete:
		return fleet.FinishInstall{TaskID: id, Generation: uint64(in.generation), SessionHash: session(in.task, in.boot)}
	case cancel:
		return fleet.CancelTask{TaskID: id, By: by}
	case retry:
		return fleet.RetryTask{TaskID: id, By: by, PhoneToken: fmt.Sprint("phone-", in.task)}
	default:
		return reportOf(in.task, in.boot)
	}
}

// pick is something a person or an agent may want now, going by what the node
// shows, or something that makes no sense.
func (s *story) pick(r *rand.Rand, n *consensus.Node) input {
	in := input{task: r.IntN(tasks)}
	var m model
	n.View(func(st *fleet.State) { m, _ = modelOf(st, in.task) })
	in.boot, in.generation = m.boot, m.generation
	sense := map[wire.Status][]kind{
		wire.StatusPendingApproval: {approve, approve, approve, cancel, reject, report},
		wire.StatusApproved:        {start, start, start, start, report, cancel, fail},
		wire.StatusInstalling:      {start, stage, fail, fail, cancel, report, complete},
		wire.StatusCompleted:       {read, report, retry},
	}[m.status]
	if sense == nil {
		sense = []kind{retry, retry, retry, report}
	}
	switch r.IntN(10) {
	case 0, 1, 2:
		in.kind = read
	case 3:
		in.kind = []kind{approve, reject, start, stage, fail, cancel, retry, report}[r.IntN(8)]
		if r.IntN(2) == 0 {
			in.generation += r.IntN(3) - 1
		}
		if r.IntN(2) == 0 {
			in.boot = 1 + r.IntN(m.boot+1)
		}
	default:
		in.kind = sense[r.IntN(len(sense))]
		if in.kind == complete && r.IntN(12) > 0 {
			in.kind = fail // an install that is complete is the end of the story
		}
	}
	if in.kind == report {
		in.boot = int(s.boots.Add(1))
	}
	return in
}

// ask does one thing and writes down what came of it.
func (s *story) ask(client int, n *consensus.Node, in input, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), atMost)
	defer cancel()
	op := porcupine.Operation{ClientId: client, Input: in, Call: s.clock.Add(1)}
	var out output
	var err error
	if in.kind == read {
		if err = s.access.verify(ctx, n); err != nil {
			return // a read that failed says nothing
		}
		s.access.view(n, func(st *fleet.State) { out.seen, _ = modelOf(st, in.task) })
		out.result = done
	} else {
		var result any
		result, err = s.access.propose(ctx, n, s.body(in))
		var refusal *fleet.Error
		switch {
		case err == nil:
			out.result = done
		case errors.As(err, &refusal) && !errors.Is(err, consensus.ErrUncertain):
			out.result = refused
		case errors.Is(err, consensus.ErrNotReady) && !errors.Is(err, consensus.ErrUncertain), errors.Is(err, consensus.ErrNoSpace):
			s.mu.Lock()
			s.failed++
			s.mu.Unlock()
			return // it was not taken
		default:
			out.result = uncertain
		}
		if in.kind == start && err == nil {
			s.erase(in, result)
		}
	}
	op.Output, op.Return = out, s.clock.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if out.result == uncertain {
		s.open = append(s.open, len(s.ops))
	}
	s.ops = append(s.ops, op)
}

// erase is a disk that is written by whoever was let.
func (s *story) erase(in input, result any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := erasure{taskID(in.task), uint64(in.generation)}
	if !slices.Contains(s.journal[key], in.boot) {
		s.journal[key] = append(s.journal[key], in.boot)
	}
	// The result is the task as it is, which may be later than the grant.
	if t, _ := result.(*fleet.Task); t != nil && t.Generation == key.generation && t.Status == wire.StatusInstalling && (t.Approval == nil || !t.Approval.Approved) {
		s.missing = append(s.missing, fmt.Sprint(key))
	}
}

// settle says that whatever was uncertain has happened by now, or never will.
func (s *story) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Add(1)
	for _, i := range s.open {
		s.ops[i].Return = now
	}
	s.open = nil
}

// run lets clients work until the time is over.
func (s *story) run(w *world, clients int, random *rand.Rand, over <-chan struct{}) {
	var all sync.WaitGroup
	for c := range clients {
		r := rand.New(rand.NewPCG(random.Uint64(), random.Uint64()))
		all.Go(func() {
			for {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(5+r.IntN(120)) * time.Millisecond):
				}
				n := w.slots[(c+r.IntN(2)*r.IntN(len(w.slots)))%len(w.slots)].node.Load()
				if n == nil {
					continue
				}
				atMost := 3 * time.Second
				if r.IntN(5) == 0 {
					atMost = time.Duration(1+r.IntN(40)) * time.Millisecond // gives up
				}
				s.ask(c, n, s.pick(r, n), atMost)
			}
		})
	}
	all.Wait()
}

// judge finds what must not be in the story.
func (s *story) judge(atMost time.Duration) (porcupine.CheckResult, []string) {
	verdict := porcupine.CheckOperationsTimeout(machine.ToModel(), s.ops, atMost)
	var wrong []string
	for key, boots := range s.journal {
		if len(boots) > 1 {
			wrong = append(wrong, fmt.Sprintf("task %s was erased in generation %d by the boots %v", key.task, key.generation, boots))
		}
	}
	for _, key := range s.missing {
		wrong = append(wrong, "erased without an approval: "+key)
	}
	if verdict == porcupine.Illegal {
		wrong = append(wrong, "the history is not linearizable")
	}
	return verdict, wrong
}
