package api

import (
	"fmt"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Phase is where a task or machine stands, as people sort them.
type Phase string

// The phases.
const (
	PhaseDiscovered Phase = "discovered" // seen; nothing is asked of it
	PhaseWaiting    Phase = "waiting"    // for a person
	PhaseQueued     Phase = "queued"     // for the machine
	PhaseErasing    Phase = "erasing"    // past the point of return
	PhaseInstalling Phase = "installing"
	PhaseInstalled  Phase = "installed"
	PhaseFailed     Phase = "failed"
	PhaseLost       Phase = "lost" // should be talking to us and is silent
)

// Phases in the order of an install, the odd ones last.
var phases = []Phase{PhaseDiscovered, PhaseWaiting, PhaseQueued, PhaseErasing, PhaseInstalling, PhaseInstalled, PhaseFailed, PhaseLost}

// silence is how long an agent that should be talking may be quiet. It asks for
// its approval every 25 s and reports progress more often.
const silence = 90 * time.Second

// TaskPhase says where a task stands, by the newest progress known of it, and
// puts it in a short sentence.
func TaskPhase(t *fleet.Task, p *wire.Progress) (Phase, string) {
	if t.Held != nil {
		return PhaseWaiting, heldText(t.Held)
	}
	switch t.Status {
	case wire.StatusPending:
		return PhaseQueued, "waits for the machine to netboot"
	case wire.StatusReady:
		return PhaseQueued, "power it on to netboot"
	case wire.StatusBooting:
		return PhaseQueued, "netbooting"
	case wire.StatusPendingApproval:
		if t.Problem != "" {
			return PhaseWaiting, t.Problem
		}
		if w := t.FirstWord; w != nil {
			return PhaseWaiting, "approved by " + w.By + "; a second person has to approve it, too"
		}
		return PhaseWaiting, "waits for you to approve"
	case wire.StatusNeedsReview:
		if t.Problem != "" {
			return PhaseWaiting, t.Problem
		}
		if w := t.FirstWord; w != nil {
			return PhaseWaiting, "looked at again and approved by " + w.By + "; a second person has to, too"
		}
		return PhaseWaiting, "look again: " + t.Review
	case wire.StatusApproved:
		return PhaseQueued, "approved, the agent is about to begin"
	case wire.StatusInstalling:
		return installing(p)
	case wire.StatusCompleted:
		return PhaseInstalled, installedText(t)
	case wire.StatusFailed:
		if t.Error != nil {
			return PhaseFailed, t.Error.Message
		}
		return PhaseFailed, "failed"
	case wire.StatusInterrupted:
		return PhaseFailed, "interrupted while the disk was being written"
	case wire.StatusRejected:
		return PhaseDiscovered, "rejected" + by(t.Approval)
	case wire.StatusCancelled:
		return PhaseDiscovered, "cancelled"
	}
	return PhaseDiscovered, string(t.Status)
}

func heldText(h *fleet.Held) string { return "held: " + h.Reason }

func by(a *fleet.Approval) string {
	if a == nil || a.By == "" {
		return ""
	}
	return " by " + a.By
}

func installing(p *wire.Progress) (Phase, string) {
	if p == nil {
		return PhaseErasing, "about to erase"
	}
	percent := fmt.Sprintf(" %.0f %%", p.Percentage)
	switch p.Stage {
	case wire.StagePartitioning:
		return PhaseErasing, "erasing" + percent
	case wire.StageDownloading:
		return PhaseInstalling, "downloading" + percent
	case wire.StageInstalling:
		return PhaseInstalling, "verifying" + percent
	}
	return PhaseInstalling, "configuring" + percent
}

func installedText(t *fleet.Task) string {
	if t.CameUp == nil {
		return "written, waits for it to come up"
	}
	return cameUpText(t.CameUp)
}

func cameUpText(up *fleet.CameUp) string {
	text := "came up " + up.At.UTC().Format("15:04:05") + " UTC"
	if up.Hostname != "" {
		text += " as " + up.Hostname
	}
	return text
}

// bootPhase is where a machine stands that is asked to boot a profile.
func bootPhase(n *fleet.NextBoot) (Phase, string) {
	if n.Erases && n.Approval == nil {
		return PhaseWaiting, "profile " + n.Profile + ": " + n.Waits()
	}
	return PhaseQueued, "boots profile " + n.Profile + " once, " + n.Waits() + " (until " + n.Expires.UTC().Format("15:04") + " UTC)"
}

// machinePhase says where a machine stands: with its task if that says
// anything, or else by what is on its disk.
func machinePhase(m *fleet.Machine, t *fleet.Task, p *wire.Progress) (Phase, string) {
	if m.Held != nil {
		return PhaseWaiting, heldText(m.Held)
	}
	asked := m.NextBoot != nil && m.Question == ""
	if t != nil && !asked && t.Status != wire.StatusRejected && t.Status != wire.StatusCancelled {
		if phase, text := TaskPhase(t, p); m.Question == "" || phase == PhaseErasing || phase == PhaseInstalling {
			return phase, text
		}
	}
	switch b := m.LastBoot; {
	case m.Question != "":
		return PhaseWaiting, m.Question
	case m.NextBoot != nil:
		return bootPhase(m.NextBoot)
	case b != nil && b.Erases && b.CameUp != nil:
		return PhaseInstalled, "was installed by profile " + b.Profile + ", and " + cameUpText(b.CameUp)
	case b != nil && b.Erases:
		return PhaseInstalling, "being installed by profile " + b.Profile + " since " + b.At.UTC().Format("15:04:05") + " UTC, and has not reported"
	case m.Unfinished:
		return PhaseFailed, "an install was stopped, its disk does not boot"
	case m.Installed != nil:
		return PhaseInstalled, "runs " + m.Installed.Image
	case t != nil:
		return TaskPhase(t, p)
	}
	return PhaseDiscovered, "choose what to install"
}

// Lost reports whether the machine's agent should be talking to us and has
// been silent for too long.
func (l Lens) Lost(m *fleet.Machine, t *fleet.Task) bool {
	if t == nil || m.Held != nil {
		return false
	}
	switch t.Status {
	case wire.StatusPendingApproval, wire.StatusNeedsReview, wire.StatusApproved, wire.StatusInstalling:
		return l.Now.Sub(l.lastWord(m)) > silence
	}
	return false
}

// contact is the machine's last word, as far as anybody has heard it.
func (l Lens) contact(m *fleet.Machine) time.Time {
	at := m.ReportedAt
	if l.Contact != nil {
		if c := l.Contact(m.ID); c.After(at) {
			at = c
		}
	}
	return at
}

// lastWord is the contact, or the start of this node when that was later: what
// was said before it began to listen, it cannot know.
func (l Lens) lastWord(m *fleet.Machine) time.Time {
	if c := l.contact(m); c.After(l.Started) {
		return c
	}
	return l.Started
}

// lostText names the silence in minutes, so that the sentence stays true for a
// while and need not be told every second.
func lostText(quiet time.Duration, t *fleet.Task) string {
	text := fmt.Sprintf("silent for %d min", int(quiet.Minutes()))
	if t.Status == wire.StatusInstalling {
		text += " while its disk was being written"
	}
	return text
}

// contentsText is what lies on a disk in a few words.
func contentsText(c wire.Contents) string {
	switch {
	case c.Unreadable != "":
		return "unreadable: " + c.Unreadable
	case c.Blank():
		return "blank"
	}
	var parts []string
	if c.OS != "" {
		parts = append(parts, c.OS)
	}
	if n := len(c.Partitions); n > 0 {
		parts = append(parts, counted(n, "partition"))
	}
	if len(c.Signatures) > 0 {
		parts = append(parts, strings.Join(c.Signatures, ", "))
	}
	if len(parts) == 0 {
		if c.Table != "" {
			return "an empty " + strings.ToUpper(c.Table) + " table"
		}
		return "an earlier install of ours"
	}
	return strings.Join(parts, ", ")
}

func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
