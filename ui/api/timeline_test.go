package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

func TestTimeline(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	var seen []api.Sighting
	saw := func(s int, kind, step, stage, file string) {
		seen = append(seen, api.Sighting{At: at(s), Kind: kind, Step: step, Stage: stage, File: file, Text: fmt.Sprint(step, " ", file)})
	}
	boot := func(s int) {
		saw(s, "dhcp", "offer", "pxe", "snponly.efi")
		saw(s+1, "dhcp", "offer", "pxe", "snponly.efi") // asked again: no milestone
		saw(s+4, "dhcp", "ack", "pxe", "snponly.efi")
		saw(s+4, "tftp", "asked", "", "snponly.efi")
		saw(s+5, "tftp", "served", "", "snponly.efi")
		saw(s+7, "dhcp", "offer", "ipxe", "script")
		saw(s+7, "router", "", "", "")
		saw(s+8, "dhcp", "ack", "ipxe", "script")
		saw(s+9, "script", "script", "ipxe", "")
	}
	boot(0)
	saw(9, "http", "asked", "", "vmlinuz")
	saw(10, "http", "served", "", "vmlinuz")
	saw(12, "http", "served", "", "initrd")
	saw(20, "dhcp", "offer", "system", "")
	seen = append(seen, api.Sighting{At: at(65), Kind: "stall", Step: "stalled", Stall: "agent-silent", Hint: "look", Text: "stands"})
	boot(200)
	boot(9000)
	m := &fleet.Machine{ReportedAt: at(30)}
	task := &fleet.Task{Status: wire.StatusCompleted, CreatedAt: at(40), ReportedAt: at(35), StartedAt: at(101), FinishedAt: at(180), CameUp: &fleet.CameUp{At: at(260)},
		Approval: &fleet.Approval{Approved: true, At: at(100)},
		Logs: []fleet.LogLine{{At: at(40), Text: "task made: install tiny"}, {At: at(100), Text: "approved by anna"}, {At: at(101), Text: "the agent may erase disk D1 now"},
			{At: at(102), Text: "partitioning"}, {At: at(110), Text: "downloading"}, {At: at(160), Text: "installing"}, {At: at(170), Text: "configuring"}, {At: at(180), Text: "installed"}}}

	var got []string
	line := api.Timeline(seen, m, task)
	for i, mo := range line {
		if i > 0 && mo.At.Before(line[i-1].At) {
			t.Errorf("%v comes after %v", mo, line[i-1])
		}
		if mo.Milestone == "" {
			continue
		}
		word := fmt.Sprintf("%s %d", mo.Milestone, mo.TookMS/1000)
		for flag, set := range map[string]bool{" begins": mo.Begins, " waited": mo.Waited, " slowest": mo.Slowest} {
			if set {
				word += flag
			}
		}
		got = append(got, word)
	}
	want := []string{"asks 0 begins", "address 4", "loader 1", "ipxe 3", "script 1", "kernel 1", "initrd 2", "agent 18", "agent 5", "task 5 waited", "approved 60 waited",
		"erasing 1", "downloading 9", "installing 50", "configuring 10", "written 10", "asks 20", "address 4", "loader 1", "ipxe 3", "script 1", "up 51 slowest",
		"asks 0 begins", "address 4 slowest", "loader 1", "ipxe 3", "script 1"}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("milestones\n got %s\nwant %s", strings.Join(got, "; "), strings.Join(want, "; "))
	}
	if n := len(line); n != len(seen)+len(task.Logs)+3 { // the report of the machine, that of the task, and that it came up
		t.Errorf("%d moments of %d sightings and %d lines", n, len(seen), len(task.Logs))
	}
}

// A task that is made and approved with one click has one time for both.
func TestTimelineOfOneClick(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	task := &fleet.Task{CreatedAt: at, Approval: &fleet.Approval{Approved: true, At: at}, Logs: []fleet.LogLine{{At: at, Text: "task made: install tiny"}, {At: at, Text: "approved by anna"}}}
	got := api.Timeline(nil, nil, task)
	if len(got) != 2 || got[0].Milestone != "task" || got[0].Text != "task made: install tiny" || got[1].Milestone != "approved" || got[1].Text != "approved by anna" {
		t.Errorf("moments %v", got)
	}
}

func TestTimelineOfWhatIsNotKnown(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if got := api.Timeline(nil, nil, nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	// iPXE in the card's ROM asks first.
	got := api.Timeline([]api.Sighting{{At: start, Step: "offer", Stage: "ipxe"}, {At: start.Add(time.Second), Step: "ack", Stage: "ipxe"}, {At: start.Add(2 * time.Second), Step: "script", Stage: "ipxe"},
		{At: start.Add(time.Minute), Step: "offer", Stage: "ipxe"}}, nil, nil)
	var names []string
	for _, mo := range got {
		names = append(names, mo.Milestone)
	}
	if strings.Join(names, " ") != "asks ipxe script asks" || !got[3].Begins {
		t.Errorf("milestones %v", got)
	}
}
