package chaos

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"

	"github.com/lpmos/lpmos/agent/wire"
)

// The model is what one task and its machine are to those who use them, written
// down apart from the rules it is held against.
type model struct {
	status      wire.Status
	generation  int
	boot        int // whose agent reported last
	installBoot int // whose agent may erase, or did
	staged      bool
}

type kind string

const (
	approve  kind = "approve"
	reject   kind = "reject"
	start    kind = "start"    // the compare-and-set before the first byte is erased
	stage    kind = "stage"    // progress to the last stage
	fail     kind = "fail"     // the end of an install
	complete kind = "complete" // the same
	cancel   kind = "cancel"
	retry    kind = "retry"
	report   kind = "report" // the machine boots anew
	read     kind = "read"   // verified
)

type input struct {
	kind       kind
	task       int
	boot       int // start, fail, complete, report
	generation int // start, fail, complete, stage
}

type output struct {
	result result
	seen   model // of a read
}

type result string

const (
	done      result = "done"
	refused   result = "refused"
	uncertain result = "uncertain" // it happened some time, or never
)

// step is what a command makes of the task.
func step(m model, in input) (model, result) {
	open := m.status == wire.StatusPendingApproval || m.status == wire.StatusApproved || m.status == wire.StatusInstalling
	agent := in.boot == m.boot && in.generation == m.generation
	was := m
	switch in.kind {
	case approve:
		if m.status != wire.StatusApproved && m.status != wire.StatusPendingApproval {
			return was, refused
		}
		m.status = wire.StatusApproved
	case reject:
		if m.status != wire.StatusRejected && m.status != wire.StatusPendingApproval {
			return was, refused
		}
		m.status = wire.StatusRejected
	case start:
		switch {
		case !agent:
			return was, refused
		case m.status == wire.StatusInstalling && m.installBoot == in.boot:
			return was, done
		case m.status != wire.StatusApproved:
			return was, refused
		}
		m.status, m.installBoot, m.staged = wire.StatusInstalling, in.boot, false
	case stage:
		if m.status == wire.StatusInstalling && in.generation == m.generation {
			m.staged = true
		}
	case fail:
		if !agent || m.status != wire.StatusFailed && m.status != wire.StatusApproved && m.status != wire.StatusInstalling {
			return was, refused
		}
		m.status = wire.StatusFailed
	case complete:
		if !agent || m.status != wire.StatusCompleted && (m.status != wire.StatusInstalling || !m.staged) {
			return was, refused
		}
		m.status = wire.StatusCompleted
	case cancel:
		if m.status != wire.StatusCancelled && !open {
			return was, refused
		}
		m.status = wire.StatusCancelled
	case retry:
		if open || m.status == wire.StatusCompleted {
			return was, refused
		}
		m.status, m.generation, m.installBoot, m.staged = wire.StatusPendingApproval, m.generation+1, 0, false
	case report:
		if m.status == wire.StatusInstalling && m.boot != in.boot {
			m.status = wire.StatusInterrupted
		}
		m.boot = in.boot
	}
	return m, done
}

var machine = porcupine.NondeterministicModel{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[int][]porcupine.Operation{}
		for _, op := range history {
			task := op.Input.(input).task
			by[task] = append(by[task], op)
		}
		var out [][]porcupine.Operation
		for _, ops := range by {
			out = append(out, ops)
		}
		return out
	},
	Init: func() []any { return []any{model{status: wire.StatusPendingApproval, generation: 1, boot: 1}} },
	Step: func(state, in, out any) []any {
		m, i, o := state.(model), in.(input), out.(output)
		if i.kind == read {
			seen := m
			seen.staged = false // it is not shown
			if o.seen != seen {
				return nil
			}
			return []any{m}
		}
		next, r := step(m, i)
		switch {
		case o.result == uncertain && next == m:
			return []any{m}
		case o.result == uncertain:
			return []any{m, next}
		case o.result != r:
			return nil
		}
		return []any{next}
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		if i.kind == read {
			return fmt.Sprintf("read: %s", describe(o.seen))
		}
		return fmt.Sprintf("%s boot %d gen %d: %s", i.kind, i.boot, i.generation, o.result)
	},
	DescribeState: func(s any) string { return strings.TrimSpace(describe(s.(model))) },
}

func describe(m model) string {
	return fmt.Sprintf("%s gen %d boot %d by %d", m.status, m.generation, m.boot, m.installBoot)
}
