package fleet

import "time"

// EventType says what changed.
type EventType string

// The types of events.
const (
	EventTaskCreated    EventType = "task_created"
	EventStatus         EventType = "status"   // a task moved, or its plan changed
	EventProgress       EventType = "progress" // how far an install has come
	EventTaskDeleted    EventType = "task_deleted"
	EventHardware       EventType = "hardware" // an agent reported an inventory
	EventMachine        EventType = "machine"  // anything else about a machine
	EventMachineDeleted EventType = "machine_deleted"
	EventImage          EventType = "image"
	EventImageDeleted   EventType = "image_deleted"
	EventNode           EventType = "node"
	EventNodeDeleted    EventType = "node_deleted"
	EventCluster        EventType = "cluster"
	EventToken          EventType = "token"
	EventTokenDeleted   EventType = "token_deleted"
	EventPool           EventType = "pool"
	EventLeader         EventType = "leader"
	EventAudit          EventType = "audit"
	EventPolicy         EventType = "policy"
	EventProfile        EventType = "profile"
	EventProfileDeleted EventType = "profile_deleted"

	EventUser            EventType = "user"
	EventUserDeleted     EventType = "user_deleted"
	EventSession         EventType = "session" // begun, or in use
	EventSessionEnded    EventType = "session_ended"
	EventAPIToken        EventType = "api_token"
	EventAPITokenDeleted EventType = "api_token_deleted"
	EventEvidence        EventType = "evidence" // an install whose task is forgotten is kept
	EventCode            EventType = "code"     // made, or used
	EventCodeDeleted     EventType = "code_deleted"
)

// Event is one change, published inside the state change that made it.
type Event struct {
	Index     uint64    `json:"index"` // of the log entry; several events may share one
	Type      EventType `json:"type"`
	At        time.Time `json:"at"`
	TaskID    string    `json:"task_id,omitempty"`
	MachineID string    `json:"machine_id,omitempty"`
	Name      string    `json:"name,omitempty"` // of the image, profile, node, user or API token, the network of the pool
	ID        string    `json:"id,omitempty"`   // of the node, token, user, session, API token or code

	// Live marks a progress that is ahead of the log: Index is then the index of
	// the state it was told beside, and a watcher that resumes gets a newer one.
	Live bool `json:"live,omitempty"`

	// What it is after the change; nil after a deletion.
	Task    *Task    `json:"-"`
	Machine *Machine `json:"-"`
	Image   *Image   `json:"-"`
	Node    *Node    `json:"-"`
	Cluster *Cluster `json:"-"`
	Token   *Token   `json:"-"`
	Pool    *Pool    `json:"-"`
	Leader  *Leader  `json:"-"`
	Policy  *Policy  `json:"-"`
	Profile *Profile `json:"-"`

	Evidence *Evidence   `json:"-"`
	User     *User       `json:"-"`
	Session  *Session    `json:"-"`
	APIToken *APIToken   `json:"-"`
	Code     *OneUseCode `json:"-"`

	Audit *AuditRecord `json:"-"` // what was added
}
