package fleet

import "time"

// Image is an OS image people can choose by name. Its bytes are chunks in the
// nodes' image stores; the digest names the manifest that lists them.
type Image struct {
	Name      string    `json:"name"` // "debian-12"
	OSType    string    `json:"os_type"`
	OSVersion string    `json:"os_version,omitempty"`
	Digest    string    `json:"digest"`
	SizeBytes uint64    `json:"size_bytes"`
	Stored    uint64    `json:"stored_bytes"` // of non-zero chunks, compressed
	Sector    int       `json:"sector_bytes"`
	Arch      string    `json:"arch,omitempty"` // GOARCH that it is for; empty when it does not say
	Source    string    `json:"source,omitempty"`
	CreatedAt time.Time `json:"created_at"`
}

// Node is one running appliance.
type Node struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	RegionID string    `json:"region_id"`
	Address  string    `json:"address,omitempty"` // of its dashboard
	Version  string    `json:"version,omitempty"`
	SeenAt   time.Time `json:"seen_at"`

	ClusterAddress string   `json:"cluster_address,omitempty"` // where other nodes reach it
	BootURLs       []string `json:"boot_urls,omitempty"`       // http://IP:PORT of each interface it serves machines on
	Networks       []string `json:"networks,omitempty"`        // the subnets it serves, in CIDR form

	// StandsBy says that a person wants it to have no vote. It is changed by
	// SeatNode alone.
	StandsBy bool `json:"stands_by,omitempty"`
}
