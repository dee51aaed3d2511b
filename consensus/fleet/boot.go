package fleet

import (
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// BootAction is what a machine that netboots is told to do.
type BootAction string

// The answers. Whatever is not wanted by a person boots its own disk.
const (
	BootAgent BootAction = "agent"
	BootLocal BootAction = "local"
	BootOnce  BootAction = "profile" // what it was asked to boot once
	BootHold  BootAction = "hold"    // the agent is wanted and does not start: wait for a person
)

// BootDecision is the answer with its reason.
type BootDecision struct {
	Action    BootAction
	MachineID string // empty for a machine not known
	Name      string
	Reason    string // a sentence
	// LocalDrive is the BIOS drive to boot for BootLocal, counted from 0.
	LocalDrive int
	// SecureBoot is whether Secure Boot was on when the machine reported last.
	SecureBoot bool
	// Once is what it is asked to boot, for BootOnce.
	Once *NextBoot
}

// Boot decides what the machine with this hardware address boots. It changes
// nothing: an unknown machine costs no log entry.
//
// A machine boots the agent when it is not known yet, when a task wants it, when
// its last install did not finish (its disk does not boot), or when nothing at
// all lies on its disks. In every other case it boots its own disk. When the agent
// was started in vain too often, the machine waits in its place.
func (s *State) Boot(mac string) BootDecision { return s.BootAt(mac, time.Time{}) }

// BootAt is Boot for who knows the time, and with it which wishes are over; for who does
// not, one stands until that is in the log.
func (s *State) BootAt(mac string, now time.Time) BootDecision {
	m, t := s.MachineByMAC(mac), s.TaskForMAC(mac)
	if m == nil {
		if t != nil && t.Netboots >= maxNetboots {
			return BootDecision{Action: BootHold, Reason: holdReason}
		}
		if t != nil {
			return BootDecision{Action: BootAgent, Reason: "task " + t.ID + " waits for it"}
		}
		return BootDecision{Action: BootAgent, Reason: "not known here: the agent looks at what it is and changes nothing"}
	}
	d := BootDecision{MachineID: m.ID, Name: m.Name, LocalDrive: localDrive(m), SecureBoot: m.Inventory != nil && m.Inventory.Firmware.SecureBoot}
	switch {
	case t != nil:
		d.Action, d.Reason = BootAgent, "task "+t.ID+" is "+string(t.Status)
	case m.asked(now) && !m.NextBoot.Ready(now):
		d.Action, d.Reason = BootAgent, "its disks are looked at once more before profile "+m.NextBoot.Profile+" may erase one"
	case m.asked(now) && m.NextBoot.Agent():
		d.Action, d.Reason = BootAgent, who(m.NextBoot.By)+" asked for a look at it, once"
	case m.asked(now):
		d.Action, d.Reason, d.Once = BootOnce, "asked by "+who(m.NextBoot.By)+", once", m.NextBoot
	case m.Unfinished:
		d.Action, d.Reason = BootAgent, "its last install did not finish, so its disk does not boot"
	case m.Installed != nil:
		d.Action, d.Reason = BootLocal, m.Installed.Image+" was installed by task "+m.Installed.TaskID
	case m.LastBoot != nil && m.LastBoot.Erases:
		d.Action, d.Reason = BootLocal, "profile "+m.LastBoot.Profile+" was to install it"
	case m.Unseen != "":
		d.Action, d.Reason = BootLocal, "profile "+m.Unseen+" was to install it"
	case m.Inventory != nil && allBlank(m.Inventory.Disks):
		d.Action, d.Reason = BootAgent, "nothing is asked of it and nothing lies on its disks"
	default:
		d.Action, d.Reason = BootLocal, "nothing is asked of it"
	}
	if d.Action == BootAgent && m.Netboots >= maxNetboots {
		d.Action, d.Reason = BootHold, holdReason
		if t == nil && !m.Unfinished { // nobody wants anything of it
			d.Action = BootLocal
		}
	}
	return d
}

// asked reports whether the machine is to boot a profile, or the agent before that.
func (m *Machine) asked(now time.Time) bool {
	n := m.NextBoot
	return n != nil && (now.IsZero() || !n.Lapsed(now)) && (!n.Erases || n.Approval != nil)
}

// bootTokens are the secrets of its boots into profiles.
func (m *Machine) bootTokens() (out []string) {
	if m.NextBoot != nil {
		out = append(out, m.NextBoot.Token)
	}
	if m.LastBoot != nil {
		out = append(out, m.LastBoot.Token)
	}
	return out
}

func allBlank(disks []wire.Disk) bool {
	for _, d := range disks {
		if !d.Removable && !d.Contents.Blank() {
			return false
		}
	}
	return true
}

// localDrive guesses the BIOS number of the installed disk: firmware counts the
// fixed disks in the order the kernel finds them far more often than not.
func localDrive(m *Machine) int {
	if m.Installed == nil || m.Inventory == nil {
		return 0
	}
	n := 0
	for _, d := range m.Inventory.Disks {
		if d.Removable {
			continue
		}
		if d.ID() == m.Installed.Disk {
			return n
		}
		n++
	}
	return 0
}
