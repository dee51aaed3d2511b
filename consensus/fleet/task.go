package fleet

import (
	"slices"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Task is one wish to install one machine.
type Task struct {
	ID         string      `json:"id"`
	Generation uint64      `json:"generation"` // raised by each retry; a grant is bound to one
	RegionID   string      `json:"region_id"`
	TargetMAC  string      `json:"target_mac"`
	MachineID  string      `json:"machine_id,omitempty"` // once the machine is known
	Spec       Spec        `json:"spec"`
	Status     wire.Status `json:"status"`

	// Plan is what would be destroyed and written, from the latest report.
	// Problem says why there is none.
	Plan     *wire.Plan `json:"plan,omitempty"`
	PlanHash string     `json:"plan_hash,omitempty"`
	Problem  string     `json:"problem,omitempty"`
	// FormerPlan is the one before Plan: who approves it is told what changed.
	FormerPlan *wire.Plan `json:"former_plan,omitempty"`

	Approval *Approval `json:"approval,omitempty"`
	// FirstWord is an approval that waits for a second person's.
	FirstWord *Approval `json:"first_word,omitempty"`
	// Review says why a person has to look again at a task that needs review.
	Review   string          `json:"review,omitempty"`
	Progress *wire.Progress  `json:"progress,omitempty"`
	Error    *wire.TaskError `json:"error,omitempty"`
	Logs     []LogLine       `json:"logs,omitempty"`

	// Netboots and Held are as in Machine, while the machine was never seen.
	Netboots int   `json:"netboots,omitempty"`
	Held     *Held `json:"held,omitempty"`

	// InstallBootID is the boot of the agent that won the compare-and-set.
	InstallBootID string `json:"install_boot_id,omitempty"`
	// WasUnfinished says that the disk may not boot whatever this install did: the
	// machine was Unfinished before, or an earlier run of the agent has written.
	WasUnfinished bool `json:"was_unfinished,omitempty"`
	// PhoneToken is the secret of the URL the installed system reports to.
	PhoneToken string  `json:"phone_token"`
	CameUp     *CameUp `json:"came_up,omitempty"`

	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	ReportedAt time.Time `json:"reported_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"` // first destructive byte allowed
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Spec is what a person asked for.
type Spec struct {
	OSType        string            `json:"os_type"`
	OSVersion     string            `json:"os_version,omitempty"`
	DiskLayout    DiskLayout        `json:"disk_layout"`
	NetworkConfig NetworkConfig     `json:"network_config"`
	UserData      string            `json:"user_data,omitempty"`
	Tags          map[string]string `json:"tags,omitempty"`
}

// DiskLayout says which disk is written and how.
type DiskLayout struct {
	// Disk is the serial or WWN of the disk; empty lets LPMOS choose the smallest
	// that fits, and the plan names it.
	Disk     string `json:"disk,omitempty"`
	KeepRoot bool   `json:"keep_root_size,omitempty"` // do not grow the root partition
}

// NetworkConfig is what the installed system is told about itself.
type NetworkConfig struct {
	Hostname string   `json:"hostname,omitempty"`
	SSHKeys  []string `json:"ssh_keys,omitempty"`
	Config   string   `json:"config,omitempty"` // cloud-init network-config version 2; empty means DHCP
}

// Approval is a person's decision on one plan.
type Approval struct {
	Approved bool      `json:"approved"`
	By       string    `json:"by"`
	Notes    string    `json:"notes,omitempty"`
	PlanHash string    `json:"plan_hash,omitempty"`
	At       time.Time `json:"at"`
	From     string    `json:"from,omitempty"`  // the address it came from, or "socket"
	ByID     string    `json:"by_id,omitempty"` // of the user whose word it is, as Origin has it
	// ExpiresAt is when an approval ends of which no use was made.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// First is who approved the same plan before, where it takes two people.
	First string `json:"first,omitempty"`
}

// CameUp is the installed system's own word that it runs.
type CameUp struct {
	At       time.Time `json:"at"`
	Hostname string    `json:"hostname,omitempty"`
	IP       string    `json:"ip,omitempty"`
}

// LogLine is one milestone of a task.
type LogLine struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// maxLogLines bounds the milestones a task keeps; the oldest go first.
const maxLogLines = 100

// Open reports whether the task still wants something of its machine.
func (t *Task) Open() bool {
	switch t.Status {
	case wire.StatusPending, wire.StatusReady, wire.StatusBooting, wire.StatusPendingApproval,
		wire.StatusNeedsReview, wire.StatusApproved, wire.StatusInstalling:
		return true
	}
	return false
}

// Actions a person may take on the task now. Screens show these and know no rule.
func (t *Task) Actions() []string {
	if t.Held != nil {
		return []string{"release", "cancel", "delete"}
	}
	switch t.Status {
	case wire.StatusPending, wire.StatusReady, wire.StatusBooting:
		return []string{"cancel", "delete"}
	case wire.StatusPendingApproval, wire.StatusNeedsReview:
		if t.Plan == nil {
			return []string{"reject", "cancel", "delete"}
		}
		return []string{"approve", "reject", "cancel", "delete"}
	case wire.StatusApproved, wire.StatusInstalling:
		return []string{"cancel"}
	case wire.StatusCompleted:
		return []string{"delete"}
	default:
		return []string{"retry", "delete"}
	}
}

// ended drops what only somebody who may still approve asks for.
func (t *Task) ended() { t.FormerPlan, t.FirstWord, t.Held = nil, nil, nil }

// clone gives a task to change. Its milestones are the same until log adds one.
func (t *Task) clone() *Task {
	c := *t
	c.Logs = slices.Clip(t.Logs)
	return &c
}

func (t *Task) log(at time.Time, text string) {
	t.Logs = append(t.Logs, LogLine{At: at, Text: text})
	if n := len(t.Logs) - maxLogLines; n > 0 {
		t.Logs = slices.Delete(t.Logs, 0, n)
	}
	t.UpdatedAt = at
}
