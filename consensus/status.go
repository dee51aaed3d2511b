package consensus

import "time"

// Status is how the cluster looks from one node. It is local knowledge, told
// with its age: a node that is cut off still answers.
type Status struct {
	Node      string    `json:"node"`             // id of the node that tells this
	Role      string    `json:"role"`             // "leader", "follower", "candidate", "starting" or "stopped"
	Leader    string    `json:"leader,omitempty"` // id; empty while none is known
	Term      uint64    `json:"term"`
	Applied   uint64    `json:"applied"`   // index of the state people see here
	Committed uint64    `json:"committed"` // highest index known to be agreed on
	Quorum    bool      `json:"quorum"`    // a majority is in reach, as far as is known here
	HeardAt   time.Time `json:"heard_at"`  // when the leader was last heard; now, on the leader
	// Problem is one plain sentence on what this node cannot do now, and why;
	// empty when all is well.
	Problem string   `json:"problem,omitempty"`
	Members []Member `json:"members"` // sorted by name, this node among them
}

// Member is one node as another sees it.
type Member struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Region    string    `json:"region"`
	Version   string    `json:"version,omitempty"`
	Address   string    `json:"address"`             // for other nodes
	Dashboard string    `json:"dashboard,omitempty"` // for people
	Voter     bool      `json:"voter"`
	Leader    bool      `json:"leader"`
	Reachable bool      `json:"reachable"`          // it answered lately
	SeenAt    time.Time `json:"seen_at,omitzero"`   // when it last answered
	Applied   uint64    `json:"applied"`            // index of its state when it last answered
	Lag       uint64    `json:"lag"`                // entries behind what is committed
	RoundTrip float64   `json:"round_trip_ms"`      // milliseconds
	ClockOff  float64   `json:"clock_off_seconds"`  // its clock less ours
	Problem   string    `json:"problem,omitempty"`  // in its own words
	Described Described `json:"described,omitzero"` // what it says of itself
}

// Described is what a node says of itself beside Raft.
type Described struct {
	FreeBytes uint64          `json:"free_bytes"`       // on the disk of its data directory
	Images    map[string]Hold `json:"images,omitempty"` // by manifest digest
}

// Hold is how much of an image a node has.
type Hold struct {
	Have  int `json:"have"`  // different chunks
	Total int `json:"total"` // different chunks
}
