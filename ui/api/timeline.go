package api

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Moment is one line of a machine's time: what it did on the wire, or what its task
// tells. What every install goes through is a milestone, and says how long it took
// to come to it from the one before.
type Moment struct {
	At     time.Time `json:"at"`
	Source string    `json:"source" doc:"Where it was seen: dhcp, tftp, http, script, router, stall, alarm; or task or machine, which every node knows"`
	Text   string    `json:"text"`
	Hint   string    `json:"hint,omitempty" doc:"What to do about a stall"`
	Stall  string    `json:"stall,omitempty" doc:"Id of the stall that begins or ends"`
	Step   string    `json:"step,omitempty"`
	Node   string    `json:"node,omitempty" doc:"The node that saw it, if that is another"`

	Milestone string `json:"milestone,omitempty" doc:"asks, address, loader, ipxe, script, kernel, initrd, agent, task, approved, erasing, downloading, installing, configuring, written, failed or up"`
	TookMS    int64  `json:"took_ms,omitempty" doc:"Since the milestone before it"`
	Begins    bool   `json:"begins,omitempty" doc:"The first milestone of a boot"`
	Waited    bool   `json:"waited,omitempty" doc:"The time was a person's"`
	Slowest   bool   `json:"slowest,omitempty" doc:"No other milestone of its boot took longer"`
}

// Timeline joins what a machine did on the wire, oldest first, with what the fleet
// knows of it: m and its latest task t may be nil. The fleet's part is replicated;
// what this node heard on the wire is its own, and what others told it.
func Timeline(seen []Sighting, m *fleet.Machine, t *fleet.Task) []Moment {
	out := make([]Moment, 0, len(seen)+16)
	for _, s := range seen {
		out = append(out, Moment{At: s.At, Source: s.Kind, Text: s.Text, Hint: s.Hint, Stall: s.Stall, Step: s.Step, Node: s.Node})
	}
	var boot bootWay
	for i, s := range seen {
		out[i].Milestone = boot.milestone(s)
	}
	out = append(out, toldByTask(t)...)
	if m != nil && (t == nil || !m.ReportedAt.Equal(t.ReportedAt)) && !m.ReportedAt.IsZero() {
		out = append(out, Moment{At: m.ReportedAt, Source: "machine", Milestone: "agent", Text: "its agent reported what the machine is"})
	}
	out = append(out, toldByBoots(m)...)
	slices.SortStableFunc(out, func(a, b Moment) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(rank(a), rank(b))) })
	measure(out)
	return out
}

// toldByBoots are the lines of what the machine was asked to boot.
func toldByBoots(m *fleet.Machine) (out []Moment) {
	if m == nil {
		return nil
	}
	if n := m.NextBoot; n != nil {
		out = append(out, Moment{At: n.At, Source: "machine", Text: n.By + " asked that it boots profile " + n.Profile + " once"})
		if !n.CheckedAt.IsZero() {
			out = append(out, Moment{At: n.CheckedAt, Source: "machine", Text: "its agent has shown that its disks are those that were approved"})
		}
	}
	if n := m.NotBooted; n != nil {
		out = append(out, Moment{At: n.Since, Source: "machine", Text: n.Reason})
	}
	if b := m.LastBoot; b != nil {
		text := "was given profile " + b.Profile + ", as asked by " + b.By
		if b.Disk != nil {
			text += ", which may erase disk " + b.Disk.String()
		}
		out = append(out, Moment{At: b.At, Source: "machine", Text: text})
		if b.CameUp != nil {
			out = append(out, Moment{At: b.CameUp.At, Source: "machine", Milestone: "up", Text: "what profile " + b.Profile + " started " + cameUpText(b.CameUp)})
		}
	}
	return out
}

// bootWay follows one boot, so that what is asked twice is a milestone once.
type bootWay struct{ passed int }

// The steps of a boot on the wire, in their order.
var wireMilestones = [...]string{"asks", "address", "loader", "ipxe", "script", "kernel", "initrd"}

func (b *bootWay) milestone(s Sighting) string {
	firmware := s.Stage == "pxe" || s.Stage == "http"
	step := -1
	switch s.Step {
	case "discover", "offer", "proxy", "elsewhere":
		// iPXE asks again after firmware has; when it is in the card it asks first.
		if firmware && b.passed != 1 || s.Stage == "ipxe" && (b.passed == 0 || b.passed > 4) {
			b.passed = 1
			return wireMilestones[0]
		}
	case "ack", "proxy-ack":
		switch {
		case firmware:
			step = 1
		case s.Stage == "ipxe":
			step = 3
		}
	case "served":
		switch {
		case strings.HasPrefix(s.File, "vmlinuz"): // of any architecture
			step = 5
		case strings.HasPrefix(s.File, "initrd"):
			step = 6
		case strings.Contains(s.File, "."):
			step = 2
		}
	case "script":
		step = 4
	}
	if step < b.passed {
		return ""
	}
	b.passed = step + 1
	return wireMilestones[step]
}

// toldByTask are the lines of the task's log, with the milestones among them.
func toldByTask(t *fleet.Task) []Moment {
	if t == nil {
		return nil
	}
	// What is made and approved with one click has one time, and a line for each.
	marks := map[time.Time][]string{}
	mark := func(at time.Time, milestone string) {
		if !at.IsZero() {
			marks[at] = append(marks[at], milestone)
		}
	}
	mark(t.CreatedAt, "task")
	mark(t.ReportedAt, "agent")
	if t.Approval != nil && t.Approval.Approved {
		mark(t.Approval.At, "approved")
	}
	mark(t.StartedAt, "erasing")
	if t.Status == wire.StatusFailed || t.Status == wire.StatusInterrupted {
		mark(t.FinishedAt, "failed")
	} else if t.Status == wire.StatusCompleted {
		mark(t.FinishedAt, "written")
	}
	if t.CameUp != nil {
		mark(t.CameUp.At, "up")
	}
	var out []Moment
	for _, l := range t.Logs {
		mo := Moment{At: l.At, Source: "task", Text: l.Text}
		switch wire.Stage(l.Text) {
		case wire.StagePartitioning:
			mo.Text = "the disk is being erased" // a moment after it was let
		case wire.StageDownloading:
			mo.Milestone, mo.Text = "downloading", "the image is being written"
		case wire.StageInstalling:
			mo.Milestone, mo.Text = "installing", "what was written is being verified"
		case wire.StageConfiguring:
			mo.Milestone, mo.Text = "configuring", "the disk is being made bootable"
		default:
			if waiting := marks[l.At]; len(waiting) > 0 {
				mo.Milestone, marks[l.At] = waiting[0], waiting[1:]
			}
		}
		out = append(out, mo)
	}
	// The log of a task keeps a hundred lines; what was said first may be gone from it.
	words := map[string]string{"task": "task made", "agent": "its agent reported what the machine is", "approved": "approved", "erasing": "the agent may erase the disk", "written": "installed", "failed": "failed", "up": "the installed system came up"}
	for at, waiting := range marks {
		for _, milestone := range waiting {
			out = append(out, Moment{At: at, Source: "task", Milestone: milestone, Text: words[milestone]})
		}
	}
	return out
}

// rank orders what has the same time: the wire before what follows from it.
func rank(m Moment) int {
	switch m.Source {
	case "machine":
		return 1
	case "task":
		return 2
	}
	return 0
}

// measure sets how long it took from each milestone to the next, and marks the
// slowest of each boot. A person's time is nobody's fault.
func measure(all []Moment) {
	before := -1
	slowest := -1
	end := func() {
		if slowest >= 0 {
			all[slowest].Slowest = true
		}
		slowest = -1
	}
	for i := range all {
		m := &all[i]
		if m.Milestone == "" {
			continue
		}
		// After an install the machine starts anew, and that belongs to it.
		if before < 0 || m.Milestone == "asks" && all[before].Milestone != "written" {
			end()
			m.Begins = true
		} else {
			took := m.At.Sub(all[before].At)
			m.TookMS = took.Milliseconds()
			m.Waited = m.Milestone == "approved" || m.Milestone == "task"
			if !m.Waited && (slowest < 0 || m.TookMS > all[slowest].TookMS) {
				slowest = i
			}
		}
		before = i
	}
	end()
}
