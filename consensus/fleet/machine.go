package fleet

import (
	"slices"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Machine is a bare-metal computer.
type Machine struct {
	ID       string `json:"id"`
	Name     string `json:"name"` // the hostname it was given, else made from serial or MAC
	RegionID string `json:"region_id"`
	IDs      IDs    `json:"ids"`

	// Inventory is what its agent last reported; its hash is part of every plan.
	Inventory     *wire.Inventory `json:"inventory,omitempty"`
	InventoryHash string          `json:"inventory_hash,omitempty"`

	// Addresses are the IPv4 addresses it keeps for ever, by MAC.
	Addresses map[string]string `json:"addresses,omitempty"`
	// Assigned are those that a person has given it, by MAC. They go before what it keeps.
	Assigned map[string]string `json:"assigned,omitempty"`
	// Left are those that were taken back from it, and when: it may use one until its
	// lease is over.
	Left map[string]time.Time `json:"left,omitempty"`

	// BootID and SessionHash belong to the agent that reported last. The hash is of
	// a public key, whose private half is known to the agent alone.
	BootID      string `json:"boot_id,omitempty"`
	SessionHash string `json:"session_hash,omitempty"`
	AgentMAC    string `json:"agent_mac,omitempty"`
	AgentIP     string `json:"agent_ip,omitempty"`
	// FormerSessions are those that a later report took the place of, the newest last.
	// A machine that starts anew loses their keys: who still signs with one is a second
	// agent, and is taken out when the alarm was given.
	FormerSessions []string `json:"former_sessions,omitempty"`
	// AgentDone is set when that agent is about to leave, because it has installed
	// or was sent to the machine's own disk: its session still counts for what it
	// repeats, but nobody waits there.
	AgentDone bool `json:"agent_done,omitempty"`

	// Doubled is when a second agent last reported as this machine.
	Doubled time.Time `json:"doubled,omitzero"`
	// ClockOff is how many seconds its clock was ahead of the node's when it
	// started, 0 if that is of no account.
	ClockOff int64 `json:"clock_off,omitempty"`

	FirstSeen  time.Time `json:"first_seen"`
	ReportedAt time.Time `json:"reported_at"`

	TaskID    string     `json:"task_id,omitempty"` // the open task, else the last one
	Installed *Installed `json:"installed,omitempty"`
	// Unfinished is set from the first destructive byte until the install
	// completes: the disk does not boot.
	Unfinished bool `json:"unfinished,omitempty"`
	// Erasing is the disk that the unfinished install may erase, as it was before;
	// nil when it did not boot then either.
	Erasing *wire.PlanDisk `json:"erasing,omitempty"`

	// NextBoot is the profile it is asked to boot once, LastBoot the one it took last.
	NextBoot *NextBoot    `json:"next_boot,omitempty"`
	LastBoot *ProfileBoot `json:"last_boot,omitempty"`
	// Unseen is the profile that may have written to its disk since its agent looked last:
	// what the inventory says lies there nobody has seen.
	Unseen string `json:"unseen,omitempty"`
	// NotBooted says why it did not boot what it was asked to, and since when that is so.
	NotBooted *Held `json:"not_booted,omitempty"`

	// Protected machines take no approval.
	Protected bool `json:"protected,omitempty"`
	// Netboots counts how often it was told to start the agent since that last
	// reported; Held is set when that was too often.
	Netboots int   `json:"netboots,omitempty"`
	Held     *Held `json:"held,omitempty"`

	// Question is a clash of ids a person has to settle, as a sentence.
	Question string `json:"question,omitempty"`
	Rival    *IDs   `json:"rival,omitempty"` // the ids that clash
	// Dismissed is the last question that was answered with no: the machine that
	// raised it asks again every few seconds, and people are not.
	Dismissed string `json:"dismissed,omitempty"`
}

// Installed says what we put on a machine.
type Installed struct {
	TaskID   string      `json:"task_id"`
	Image    string      `json:"image"` // name
	Digest   string      `json:"digest"`
	Disk     wire.DiskID `json:"disk"`
	Hostname string      `json:"hostname,omitempty"`
	At       time.Time   `json:"at"`
	CameUp   time.Time   `json:"came_up,omitzero"` // when it first reported from its own disk
}

// IDs is the set of ids a machine is known by.
type IDs struct {
	UUID   string   `json:"uuid,omitempty"`
	Serial string   `json:"serial,omitempty"`
	MACs   []string `json:"macs"`
}

// IDsOf takes the ids out of an inventory. Placeholders that vendors leave in
// place of a number identify nothing and are dropped.
func IDsOf(inv wire.Inventory) IDs {
	ids := IDs{UUID: strings.ToLower(inv.System.UUID), Serial: inv.System.Serial, MACs: inv.MACs()}
	if PlaceholderUUID(ids.UUID) {
		ids.UUID = ""
	}
	if placeholderSerial(ids.Serial) {
		ids.Serial = ""
	}
	return ids
}

// PlaceholderUUID reports whether a SMBIOS UUID is one that firmware ships on
// many boards at once, or none at all.
func PlaceholderUUID(uuid string) bool {
	u := strings.ToLower(strings.TrimSpace(uuid))
	digits := strings.ReplaceAll(u, "-", "")
	if len(digits) != 32 || strings.Trim(digits, "0123456789abcdef") != "" || strings.Count(digits, digits[:1]) == 32 {
		return true
	}
	switch u {
	case "03000200-0400-0500-0006-000700080009", // AMI's sample value
		"00020003-0004-0005-0006-000700080009", // the same in the other byte order
		"12345678-1234-5678-90ab-cddeefaabbcc",
		"12345678-1234-1234-1234-123456789abc",
		"01234567-89ab-cdef-0123-456789abcdef",
		"4c4c4544-0000-2010-8020-80c04f202020": // Dell without a service tag
		return true
	}
	return false
}

func placeholderSerial(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "00000000", "123456789", "0123456789", "none", "n/a", "not specified", "not available",
		"unknown", "default string", "system serial number", "serial number", "to be filled by o.e.m.",
		"to be filled by o.e.m", "oem", "empty", "invalid":
		return true
	}
	return false
}

// maxFormerSessions bounds what is remembered of a machine's agents.
const maxFormerSessions = 4

// displace has the agent with a session take the place of the one there was.
func (m *Machine) displace(session string) {
	former := without(m.FormerSessions, session)
	if m.SessionHash != "" && m.SessionHash != session {
		former = append(former, m.SessionHash)
	}
	m.FormerSessions = former[max(0, len(former)-maxFormerSessions):]
	if len(m.FormerSessions) == 0 {
		m.FormerSessions = nil
	}
}

// without is a list of its own that lacks the session.
func without(sessions []string, session string) []string {
	return slices.DeleteFunc(slices.Clone(sessions), func(s string) bool { return s == session })
}

// clash says why two sets of ids that share one cannot be the same machine, or
// "" when they can.
func clash(known, seen IDs) string {
	shared := false
	for _, m := range seen.MACs {
		if slices.Contains(known.MACs, m) {
			shared = true
		}
	}
	switch {
	case shared && known.UUID != "" && seen.UUID != "" && known.UUID != seen.UUID:
		return "a machine with UUID " + seen.UUID + " reported with a MAC of this machine, whose UUID is " + known.UUID
	case shared && (known.UUID == "" || seen.UUID == "") && known.Serial != "" && seen.Serial != "" && known.Serial != seen.Serial:
		return "a machine with serial " + quoteOrNone(seen.Serial) + " reported with a MAC of this machine, whose serial is " + quoteOrNone(known.Serial)
	case !shared && known.UUID == seen.UUID && known.UUID != "" && (known.Serial == "" || known.Serial != seen.Serial):
		return "a machine with this machine's UUID reported with other MACs (" + strings.Join(seen.MACs, ", ") + ") and serial " + quoteOrNone(seen.Serial)
	}
	return ""
}

// missing says which id of a known machine a report with one of its MACs leaves out,
// or "". Who pretends to be a machine might not know its ids; the machine itself
// does not forget them.
func missing(known, seen IDs) string {
	switch {
	case known.UUID != "" && seen.UUID == "":
		return "a machine without a UUID reported as this machine, whose UUID is " + known.UUID
	case known.Serial != "" && seen.Serial == "":
		return "a machine without a serial reported as this machine, whose serial is " + quoteOrNone(known.Serial)
	}
	return ""
}

// doubt says why a report with a known machine's ids might be another's, or "". All
// ids are the agent's own word but the MAC that its claim code was given to, so a
// session begins with a MAC that was the machine's before. A card may be gone when
// a machine starts anew; while its agent runs, none goes.
func doubt(known *Machine, seen IDs, b ReportMachine) string {
	if b.Claim != "" && !slices.Contains(known.IDs.MACs, b.ClaimMAC) {
		return "a machine that was started with MAC " + b.ClaimMAC + " reported as this machine, which has no such MAC"
	}
	if b.SessionHash == "" || b.SessionHash != known.SessionHash {
		return ""
	}
	for _, mac := range known.IDs.MACs {
		if !slices.Contains(seen.MACs, mac) {
			return "the agent of this machine reported again without MAC " + mac + ", which it had when it started"
		}
	}
	return ""
}

func quoteOrNone(s string) string {
	if s == "" {
		return "none"
	}
	return `"` + s + `"`
}

// machineName makes a name people can point at until the machine is given one.
// It may end up as the installed system's hostname, and serials are written by
// firmware, so what no hostname may hold becomes a dash.
func machineName(ids IDs) string {
	dashed := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(ids.Serial))
	if name := strings.Trim(dashed, "-"); ValidHostname(name) {
		return name
	}
	if name := "m-" + strings.ReplaceAll(ids.MACs[0], ":", ""); ValidHostname(name) {
		return name
	}
	return "machine"
}

// Actions a person may take on a machine now, given its latest task.
func (m *Machine) Actions(t *Task) (can []string) {
	if m.Held != nil {
		can = append(can, "release")
	}
	switch {
	case m.Question != "":
		can = append(can, "resolve")
	case t != nil && t.Open(), m.Protected:
	default:
		can = append(can, "install")
	}
	switch {
	case m.NextBoot != nil:
		can = append(can, "cancel_boot")
	case m.Question == "" && (t == nil || !t.Open()):
		can = append(can, "boot")
	}
	if m.Protected {
		return append(can, "unprotect")
	}
	if t == nil || !t.Open() || m.Question != "" {
		can = append(can, "forget")
	}
	return append(can, "protect")
}
