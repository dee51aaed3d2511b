package api

import (
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// The types of frames a node sends that are not those of the fleet's events.
const (
	FrameHello         = "hello"
	FrameSnapshot      = "snapshot"
	FrameResumed       = "resumed" // in place of a snapshot: what was missed follows
	FrameProgressBatch = "progress_batch"
	FrameStats         = "stats"
	FrameCluster       = "cluster" // how the cluster looks from the node that tells this
	FrameSighting      = "sighting"
	FrameImport        = "import"
	FramePong          = "pong"
	FrameError         = "error"
)

// Frame is one JSON document on the socket, node to viewer, except for the
// snapshot. Which fields are set follows from Type. Index is the place in the
// log up to which the viewer has been told everything: it resumes from there.
type Frame struct {
	Type      string         `json:"type"`
	Index     uint64         `json:"index,omitempty"`
	Time      time.Time      `json:"time"`
	TaskID    string         `json:"task_id,omitempty"`
	MachineID string         `json:"machine_id,omitempty"`
	Name      string         `json:"name,omitempty"` // of an image or node
	ID        string         `json:"id,omitempty"`   // of a node that was removed
	Task      *Task          `json:"task,omitempty"`
	Machine   *Machine       `json:"machine,omitempty"`
	Image     *Image         `json:"image,omitempty"`
	Node      any            `json:"node,omitempty"` // the node's name in hello, the *fleet.Node in node
	Stats     *Stats         `json:"stats,omitempty"`
	Progress  *wire.Progress `json:"progress,omitempty"`
	Phase     Phase          `json:"phase,omitempty"`
	PhaseText string         `json:"phase_text,omitempty"`
	Items     []ProgressItem `json:"items,omitempty"` // of a progress_batch

	Version string          `json:"version,omitempty"` // in hello
	Who     *Who            `json:"who,omitempty"`     // in hello: the viewer
	At      time.Time       `json:"at,omitzero"`       // with those up to seen: a sighting
	MAC     string          `json:"mac,omitempty"`
	Kind    string          `json:"kind,omitempty"`
	Text    string          `json:"text,omitempty"` // of a sighting or error
	Step    string          `json:"step,omitempty"`
	Stall   string          `json:"stall,omitempty"`
	Hint    string          `json:"hint,omitempty"`
	Seen    string          `json:"seen,omitempty"` // the node that saw it, if that is another
	Import  *ImportProgress `json:"import,omitempty"`
	Cluster *ClusterView    `json:"cluster,omitempty"`

	Audit *fleet.AuditRecord `json:"audit,omitempty"`
}

// ProgressItem is the newest progress of one task.
type ProgressItem struct {
	TaskID    string         `json:"task_id"`
	MachineID string         `json:"machine_id"`
	Progress  *wire.Progress `json:"progress"`
	Phase     Phase          `json:"phase"`
	PhaseText string         `json:"phase_text"`
}

// Snapshot is the frame that everything after it changes.
type Snapshot struct {
	Type     string        `json:"type"`
	Index    uint64        `json:"index"`
	Time     time.Time     `json:"time"`
	Machines []Machine     `json:"machines"`
	Tasks    []Task        `json:"tasks"` // open ones, the latest of each machine, and the newest
	Images   []Image       `json:"images"`
	Nodes    []*fleet.Node `json:"nodes"`
	Stats    Stats         `json:"stats"`
	Cluster  *ClusterView  `json:"cluster,omitempty"`
}

// Subscribe is a frame a viewer sends: what it wants to be told, and how fast.
// Lists that are absent mean all.
type Subscribe struct {
	Type string `json:"type"` // "subscribe", or "ping" with nothing else
	// Since resumes after an index; it counts in the first frame of a connection.
	Since    *uint64  `json:"since,omitempty"`
	Tasks    []string `json:"tasks,omitempty"`
	Machines []string `json:"machines,omitempty"`
	// Rows are the machines on the screen: their progress comes ten times a
	// second, that of the others once.
	Rows []string `json:"rows,omitempty"`
}

// newestTasks is how many tasks a viewer is told of that matter to no machine any
// more. Those that are past are very many.
const newestTasks = 200

// Snapshot is what a viewer is told first. keep says which tasks and machines it
// wants; nil means all.
func (s *Server) Snapshot(p *Picture, keep func(taskID, machineID string) bool) Snapshot {
	lens := s.Lens()
	snap := Snapshot{Type: FrameSnapshot, Index: p.Index, Time: lens.Now, Machines: []Machine{}, Tasks: []Task{}, Images: []Image{}, Nodes: p.Nodes, Stats: s.Count(p), Cluster: s.Cluster()}
	for _, m := range p.Machines {
		if keep == nil || keep(m.TaskID, m.ID) {
			snap.Machines = append(snap.Machines, lens.Machine(m, p.Task(m.TaskID)))
		}
	}
	for i, t := range p.Tasks {
		m := p.Machine(t.MachineID)
		latest := m != nil && m.TaskID == t.ID
		if !t.Open() && !latest && i < len(p.Tasks)-newestTasks || keep != nil && !keep(t.ID, t.MachineID) {
			continue
		}
		snap.Tasks = append(snap.Tasks, lens.Task(t, m))
	}
	use := p.ImageUse()
	for _, img := range p.Images {
		snap.Images = append(snap.Images, ImageView(img, use[img.Name]))
	}
	return snap
}
