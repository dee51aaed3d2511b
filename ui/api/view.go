package api

import (
	"fmt"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Task is a task as people and scripts see it. Secrets are not part of it.
type Task struct {
	ID            string              `json:"id"`
	Generation    uint64              `json:"generation"`
	RegionID      string              `json:"region_id"`
	TargetMAC     string              `json:"target_mac"`
	MachineID     string              `json:"machine_id"`
	MachineName   string              `json:"machine_name"`
	OSType        string              `json:"os_type"`
	OSVersion     string              `json:"os_version"`
	Image         string              `json:"image" doc:"Name of the image"`
	DiskLayout    fleet.DiskLayout    `json:"disk_layout"`
	NetworkConfig fleet.NetworkConfig `json:"network_config"`
	UserData      string              `json:"user_data,omitempty" doc:"When one task is asked for, by an operator"`
	Tags          map[string]string   `json:"tags"`

	Status    wire.Status `json:"status"`
	Phase     Phase       `json:"phase"`
	PhaseText string      `json:"phase_text" doc:"The phase in a short sentence"`
	Actions   []string    `json:"actions" doc:"What a person may do with the task now"`

	Plan     *wire.Plan  `json:"plan" doc:"What would be erased and written"`
	PlanHash string      `json:"plan_hash"`
	Problem  string      `json:"problem" doc:"Why there is no plan"`
	Confirm  string      `json:"confirm" doc:"The serial whose last 4 characters an approval has to give; empty when nothing would be lost"`
	Review   string      `json:"review" doc:"Why a person has to look at it again"`
	Held     *fleet.Held `json:"held" doc:"Why the machine, which was never seen, waits before it starts the agent again"`
	// FirstWord is the approval that a second person has to join.
	FirstWord *fleet.Approval `json:"first_word" doc:"An approval that waits for a second person's"`
	Approval  *fleet.Approval `json:"approval"`
	Progress  *wire.Progress  `json:"progress"`
	Logs      []fleet.LogLine `json:"logs"`
	Error     *wire.TaskError `json:"error"`
	CameUp    *fleet.CameUp   `json:"came_up" doc:"The installed system's own word that it runs"`
	Stall     *Stall          `json:"stall,omitempty" doc:"Why the machine it waits for, which was never seen by its agent, does not go on"`
	Hardware  *wire.Inventory `json:"hardware,omitempty" doc:"When one task is asked for"`

	CreatedAt  time.Time `json:"created_at"`
	UpdatedAt  time.Time `json:"updated_at"`
	ReportedAt time.Time `json:"reported_at,omitzero"`
	StartedAt  time.Time `json:"started_at,omitzero"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// Machine is a machine as people and scripts see it.
type Machine struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	RegionID   string            `json:"region_id"`
	IDs        fleet.IDs         `json:"ids"`
	Addresses  map[string]string `json:"addresses" doc:"IPv4 addresses by MAC"`
	Assigned   map[string]string `json:"assigned,omitempty" doc:"Those that a person has given it, which go before the others"`
	Phase      Phase             `json:"phase"`
	PhaseText  string            `json:"phase_text"`
	Actions    []string          `json:"actions"`
	TaskID     string            `json:"task_id" doc:"Its open task, or else its last one"`
	Installed  *fleet.Installed  `json:"installed"`
	Protected  bool              `json:"protected" doc:"Nothing is approved for it"`
	Held       *fleet.Held       `json:"held" doc:"Why it waits before it starts the agent again"`
	Unfinished bool              `json:"unfinished" doc:"An install began and did not end: the disk does not boot"`
	Question   string            `json:"question" doc:"A clash of ids that a person has to settle"`
	Rival      *fleet.IDs        `json:"rival"`
	FirstSeen  time.Time         `json:"first_seen"`
	ReportedAt time.Time         `json:"reported_at"`
	AgentIP    string            `json:"agent_ip"`
	TrustTier  int               `json:"trust_tier" doc:"How far its netboot can be trusted: 0 means by the rack's network alone (see SECURITY.md)"`
	// PairingCode and Troubles are there when there is something to say.
	PairingCode string          `json:"pairing_code,omitempty" doc:"What its console shows: compare both before you approve"`
	Troubles    []string        `json:"troubles,omitempty" doc:"What a person should know about it, in sentences"`
	ContactAt   time.Time       `json:"contact_at,omitzero" doc:"When its agent last said anything"`
	Lost        bool            `json:"lost" doc:"Its agent should be talking and is silent"`
	NextBoot    *NextBoot       `json:"next_boot,omitempty" doc:"The profile it is asked to boot once"`
	NotBooted   *fleet.Held     `json:"not_booted,omitempty" doc:"Why it did not boot the profile it was asked to"`
	LastBoot    *LastBoot       `json:"last_boot,omitempty" doc:"The profile it booted last"`
	Summary     Summary         `json:"summary"`
	Inventory   *wire.Inventory `json:"inventory,omitempty" doc:"When one machine is asked for"`
	Sightings   []Sighting      `json:"sightings,omitempty" doc:"When one machine is asked for"`
	Timeline    []Moment        `json:"timeline,omitempty" doc:"When one machine is asked for: what it did and what was done to it, oldest first"`
	Stall       *Stall          `json:"stall,omitempty" doc:"Why it does not go on"`
}

// Summary is a machine's hardware on one line.
type Summary struct {
	Vendor      string        `json:"vendor"`
	Product     string        `json:"product"`
	CPU         string        `json:"cpu"`
	Cores       int           `json:"cores"`
	Threads     int           `json:"threads"`
	MemoryBytes uint64        `json:"memory_bytes"`
	Disks       []DiskSummary `json:"disks"`
	NICs        int           `json:"nics"`
	Firmware    string        `json:"firmware" doc:"bios or uefi"`
}

// DiskSummary is a disk on one line.
type DiskSummary struct {
	ID           string `json:"id" doc:"Serial, or else WWN"`
	Model        string `json:"model"`
	SizeBytes    uint64 `json:"size_bytes"`
	ContentsText string `json:"contents_text"`
}

// Image is an OS image people can choose.
type Image struct {
	Name        string    `json:"name"`
	OSType      string    `json:"os_type"`
	OSVersion   string    `json:"os_version"`
	Digest      string    `json:"digest"`
	SizeBytes   uint64    `json:"size_bytes"`
	StoredBytes uint64    `json:"stored_bytes"`
	Source      string    `json:"source"`
	CreatedAt   time.Time `json:"created_at"`
	UsedBy      int       `json:"used_by" doc:"Open tasks that want it and machines that run it"`
}

// Lens turns the fleet's values into views. It is a moment: now, and what is
// known beside the log at that moment. Its methods ask Contact and Latest, which
// may take the cluster's lock, so they are called outside of Cluster.View.
type Lens struct {
	Now     time.Time
	Started time.Time // of this node: nobody is lost before it had time to speak
	// Contact gives the last word of a machine's agent.
	Contact func(machineID string) time.Time
	// Latest gives the newest progress of a task, ahead of the log.
	Latest func(taskID string) (wire.Progress, bool)
	// Stall, if set, says why the machine with a MAC does not go on.
	Stall func(mac string) *Stall
	// Plan, if set, is told every plan that is shown.
	Plan func(hash string, p *wire.Plan)
}

// Task is the view of a task in lists; m is its machine, nil if not seen yet.
func (l Lens) Task(t *fleet.Task, m *fleet.Machine) Task {
	v := Task{
		ID: t.ID, Generation: t.Generation, RegionID: t.RegionID, TargetMAC: t.TargetMAC, MachineID: t.MachineID,
		OSType: t.Spec.OSType, OSVersion: t.Spec.OSVersion, Image: t.Spec.ImageName(),
		DiskLayout: t.Spec.DiskLayout, NetworkConfig: t.Spec.NetworkConfig, Tags: t.Spec.Tags,
		Status: t.Status, Actions: t.Actions(),
		Plan: withoutUserData(t.Plan), PlanHash: t.PlanHash, Problem: t.Problem,
		Confirm: fleet.Confirm(t.Plan), Review: t.Review, Held: t.Held, FirstWord: t.FirstWord,
		Approval: t.Approval, Progress: l.Progress(t), Logs: t.Logs, Error: t.Error, CameUp: t.CameUp,
		CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt, ReportedAt: t.ReportedAt, StartedAt: t.StartedAt, FinishedAt: t.FinishedAt,
	}
	v.Phase, v.PhaseText = TaskPhase(t, v.Progress)
	if m != nil {
		v.MachineName = m.Name
		if m.Held != nil && t.Open() {
			v.Phase, v.PhaseText = PhaseWaiting, heldText(m.Held)
		}
	} else if t.Open() {
		v.Stall = l.StallOf(t.TargetMAC)
	}
	if v.Tags == nil {
		v.Tags = map[string]string{}
	}
	if v.Logs == nil {
		v.Logs = []fleet.LogLine{}
	}
	if l.Plan != nil && t.Plan != nil {
		l.Plan(t.PlanHash, t.Plan)
	}
	return v
}

// tier is how far a machine's netboot can be trusted. None that is higher is built:
// they need keys in its firmware, or a TPM.
func tier(*fleet.Machine) int { return 0 }

// withoutUserData is the plan as everybody may see it: passwords and keys are found
// in what the installed system is given. The plan's hash stands for it, too.
func withoutUserData(p *wire.Plan) *wire.Plan {
	if p == nil || p.FirstBoot.UserData == "" {
		return p
	}
	shown := *p
	shown.FirstBoot.UserData = "(not shown)"
	return &shown
}

// FullTask is the view of one task.
func (l Lens) FullTask(t *fleet.Task, m *fleet.Machine) Task {
	v := l.Task(t, m)
	v.UserData = t.Spec.UserData
	if m != nil {
		v.Hardware = m.Inventory
	}
	return v
}

// Progress is the newest that is known of a task.
func (l Lens) Progress(t *fleet.Task) *wire.Progress {
	if t.Status != wire.StatusInstalling || l.Latest == nil {
		return t.Progress
	}
	p, ok := l.Latest(t.ID)
	if !ok || t.Progress != nil && p.Percentage < t.Progress.Percentage {
		return t.Progress
	}
	return &p
}

// Machine is the view of a machine in lists; t is its open or last task, or nil.
func (l Lens) Machine(m *fleet.Machine, t *fleet.Task) Machine {
	v := Machine{
		ID: m.ID, Name: m.Name, RegionID: m.RegionID, IDs: m.IDs, Addresses: m.Addresses, Assigned: m.Assigned,
		Actions: m.Actions(t), TaskID: m.TaskID,
		Protected: m.Protected, Held: m.Held,
		Installed: m.Installed, Unfinished: m.Unfinished, Question: m.Question, Rival: m.Rival,
		FirstSeen: m.FirstSeen, ReportedAt: m.ReportedAt, AgentIP: m.AgentIP, ContactAt: l.contact(m),
		Lost: l.Lost(m, t), Summary: summary(m.Inventory),
		TrustTier: tier(m), PairingCode: wire.PairingCode(m.SessionHash), Troubles: troubles(m),
	}
	v.NextBoot, v.LastBoot, v.NotBooted = nextBoot(m.NextBoot), lastBoot(m.LastBoot), m.NotBooted
	v.Phase, v.PhaseText = l.phase(m, t)
	v.Stall = l.StallOf(m.IDs.MACs...)
	if v.Addresses == nil {
		v.Addresses = map[string]string{}
	}
	if v.Actions == nil {
		v.Actions = []string{}
	}
	if v.IDs.MACs == nil {
		v.IDs.MACs = []string{}
	}
	return v
}

// StallOf is the first that one of a machine's cards has.
func (l Lens) StallOf(macs ...string) *Stall {
	for _, mac := range macs {
		if l.Stall == nil {
			break
		}
		if s := l.Stall(mac); s != nil {
			return s
		}
	}
	return nil
}

// troubles are what is odd about a machine and keeps nobody from using it.
func troubles(m *fleet.Machine) (out []string) {
	if !m.Doubled.IsZero() {
		out = append(out, "A second agent reported as this machine at "+m.Doubled.UTC().Format("2006-01-02 15:04:05")+
			" UTC: either there are two with its ids, or somebody pretends to be it. Compare the pairing code with the one on its console.")
	}
	if off := time.Duration(m.ClockOff) * time.Second; off != 0 {
		way := "ahead of"
		if off < 0 {
			way = "behind"
		}
		out = append(out, "Its clock was "+span(off.Abs())+" "+way+" the node's when it started: its battery may be empty.")
	}
	return out
}

// span words a time that need not be exact.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*365*day:
		return fmt.Sprintf("%d years", d/(365*day))
	case d >= 2*day:
		return fmt.Sprintf("%d days", d/day)
	}
	return d.Round(time.Second).String()
}

// phase is where a machine stands, and in a sentence.
func (l Lens) phase(m *fleet.Machine, t *fleet.Task) (Phase, string) {
	if l.Lost(m, t) {
		return PhaseLost, lostText(l.Now.Sub(l.lastWord(m)), t)
	}
	var p *wire.Progress
	if t != nil {
		p = l.Progress(t)
	}
	return machinePhase(m, t, p)
}

// FullMachine is the view of one machine, with what it did on the wire.
func (l Lens) FullMachine(m *fleet.Machine, t *fleet.Task, sightings []Sighting) Machine {
	v := l.Machine(m, t)
	v.Inventory, v.Sightings, v.Timeline = m.Inventory, sightings, Timeline(sightings, m, t)
	return v
}

// ImageView is the view of an image that is used by so many.
func ImageView(img *fleet.Image, usedBy int) Image {
	return Image{Name: img.Name, OSType: img.OSType, OSVersion: img.OSVersion, Digest: img.Digest,
		SizeBytes: img.SizeBytes, StoredBytes: img.Stored, Source: img.Source, CreatedAt: img.CreatedAt, UsedBy: usedBy}
}

func summary(inv *wire.Inventory) Summary {
	if inv == nil {
		return Summary{Disks: []DiskSummary{}}
	}
	v := Summary{
		Vendor: inv.System.Vendor, Product: inv.System.Product, CPU: inv.CPU.Model, Cores: inv.CPU.Cores, Threads: inv.CPU.Threads,
		MemoryBytes: inv.Memory.TotalBytes, NICs: len(inv.NICs), Firmware: inv.Firmware.Mode,
		Disks: make([]DiskSummary, 0, len(inv.Disks)),
	}
	for _, d := range inv.Disks {
		v.Disks = append(v.Disks, DiskSummary{ID: d.ID().String(), Model: d.Model, SizeBytes: d.SizeBytes, ContentsText: contentsText(d.Contents)})
	}
	return v
}
