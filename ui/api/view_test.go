package api

import (
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestContentsInAFewWords(t *testing.T) {
	part := wire.Partition{Number: 1, SizeBytes: 1 << 30}
	for _, c := range []struct {
		contents wire.Contents
		want     string
	}{
		{wire.Contents{}, "blank"},
		{wire.Contents{Table: "gpt"}, "an empty GPT table"},
		{wire.Contents{Table: "mbr", OS: "Windows", Partitions: []wire.Partition{part}}, "Windows, 1 partition"},
		{wire.Contents{Table: "gpt", OS: "Debian 12", Partitions: []wire.Partition{part, part}}, "Debian 12, 2 partitions"},
		{wire.Contents{Signatures: []string{"lvm2", "luks"}}, "lvm2, luks"},
		{wire.Contents{Marker: &wire.Marker{TaskID: "t"}}, "an earlier install of ours"},
		{wire.Contents{Table: "gpt", Unreadable: "input/output error at sector 0"}, "unreadable: input/output error at sector 0"},
	} {
		if got := contentsText(c.contents); got != c.want {
			t.Errorf("%+v is %q, want %q", c.contents, got, c.want)
		}
	}
}

// TestWhoIsLost: only an agent that should be talking can be silent for too long.
func TestWhoIsLost(t *testing.T) {
	now := time.Date(2026, 3, 14, 12, 0, 0, 0, time.UTC)
	long, short := now.Add(-silence-time.Second), now.Add(-silence+time.Second)
	for _, c := range []struct {
		why               string
		status            wire.Status
		reported, contact time.Time
		started           time.Time
		want              bool
	}{
		{"silent while it waits for approval", wire.StatusPendingApproval, long, time.Time{}, long, true},
		{"silent before it begins", wire.StatusApproved, long, long, long, true},
		{"silent while it writes", wire.StatusInstalling, long, long, long, true},
		{"spoke just now", wire.StatusInstalling, long, short, long, false},
		{"reported just now", wire.StatusPendingApproval, short, time.Time{}, long, false},
		{"the node has just started", wire.StatusInstalling, long, time.Time{}, short, false},
		{"not booted yet", wire.StatusReady, long, time.Time{}, long, false},
		{"booting", wire.StatusBooting, long, time.Time{}, long, false},
		{"done", wire.StatusCompleted, long, time.Time{}, long, false},
		{"failed", wire.StatusFailed, long, time.Time{}, long, false},
		{"nothing is asked of it", "", long, time.Time{}, long, false},
	} {
		m := &fleet.Machine{ID: "m", ReportedAt: c.reported}
		var task *fleet.Task
		if c.status != "" {
			task = &fleet.Task{ID: "t", Status: c.status}
		}
		lens := Lens{Now: now, Started: c.started, Contact: func(string) time.Time { return c.contact }}
		if got := lens.Lost(m, task); got != c.want {
			t.Errorf("%s: lost is %v, want %v", c.why, got, c.want)
		}
		if v := lens.Machine(m, task); v.Lost != c.want || (v.Phase == PhaseLost) != c.want {
			t.Errorf("%s: the view says %v, %s", c.why, v.Lost, v.Phase)
		}
	}
}

// TestNewestProgressIsShown, wherever it comes from, and never an older one.
func TestNewestProgressIsShown(t *testing.T) {
	at := func(p float64) *wire.Progress {
		return &wire.Progress{Stage: wire.StageDownloading, Percentage: p}
	}
	for _, c := range []struct {
		status wire.Status
		log    *wire.Progress
		latest *wire.Progress
		want   float64
	}{
		{wire.StatusInstalling, at(30), at(35), 35},
		{wire.StatusInstalling, at(30), at(25), 30},
		{wire.StatusInstalling, at(30), nil, 30},
		{wire.StatusInstalling, nil, at(5), 5},
		{wire.StatusFailed, at(30), at(35), 30},
	} {
		lens := Lens{Latest: func(string) (wire.Progress, bool) {
			if c.latest == nil {
				return wire.Progress{}, false
			}
			return *c.latest, true
		}}
		if got := lens.Task(&fleet.Task{Status: c.status, Progress: c.log}, nil).Progress; got == nil || got.Percentage != c.want {
			t.Errorf("%s, %v in the log, %v newest: shown %v, want %v", c.status, c.log, c.latest, got, c.want)
		}
	}
}

// TestQuestionDoesNotHideAnInstall: what is being written comes before a clash of ids.
func TestQuestionDoesNotHideAnInstall(t *testing.T) {
	for _, c := range []struct {
		status wire.Status
		want   Phase
	}{
		{wire.StatusInstalling, PhaseInstalling}, {wire.StatusPendingApproval, PhaseWaiting}, {wire.StatusCompleted, PhaseWaiting}, {wire.StatusFailed, PhaseWaiting},
	} {
		m := &fleet.Machine{Question: "which is it?"}
		phase, text := machinePhase(m, &fleet.Task{Status: c.status}, &wire.Progress{Stage: wire.StageDownloading, Percentage: 30})
		if phase != c.want || phase == PhaseWaiting && text != m.Question {
			t.Errorf("%s with a question is %s, %q; want %s", c.status, phase, text, c.want)
		}
	}
}

// TestPlansAreForgottenInTheEnd: the memory of what was shown does not grow.
func TestPlansAreForgottenInTheEnd(t *testing.T) {
	var m planMemory
	for i := range 3 * keptPlans {
		p := wire.Plan{MachineID: time.Duration(i).String()}
		m.remember(p.MachineID, &p)
	}
	if len(m.byHash) != keptPlans || len(m.order) != keptPlans {
		t.Errorf("%d plans are kept, want %d", len(m.byHash), keptPlans)
	}
	if m.find(time.Duration(3*keptPlans-1).String()) == nil || m.find("0s") != nil {
		t.Error("the newest plan is forgotten, or the oldest is not")
	}
}

func TestS37_WhereAnImageCameFromIsNoSecret(t *testing.T) {
	for address, want := range map[string]string{
		"https://user:hunter2@h.example/a/b%20c.raw?token=hunter3#hunter4": "https://h.example/a/b%20c.raw",
		"http://[fd00::1]:8080/x": "http://[fd00::1]:8080/x",
		"http://[":                "url",
	} {
		if got := sourceOf(address); got != want {
			t.Errorf("%q becomes %q, want %q", address, got, want)
		}
	}
}
