package wire

import "time"

// Plan is what would be destroyed and written. People approve a plan, not a
// machine: its hash is what an approval binds, and any difference voids it.
type Plan struct {
	MachineID     string     `json:"machine_id"`
	SystemUUID    string     `json:"system_uuid,omitempty"`
	SystemSerial  string     `json:"system_serial,omitempty"`
	MACs          []string   `json:"macs"`
	InventoryHash string     `json:"inventory_hash"`
	Erase         PlanDisk   `json:"erase"`     // the one disk that is erased and written
	Untouched     []PlanDisk `json:"untouched"` // every other disk, named so that people see they stay
	Image         PlanImage  `json:"image"`
	Layout        Layout     `json:"layout"`
	FirstBoot     FirstBoot  `json:"first_boot"`
	Warnings      []string   `json:"warnings,omitempty"` // sentences for the person approving
}

// PlanDisk is a disk with what lies on it when the plan was made.
type PlanDisk struct {
	DiskID
	Name          string   `json:"name"`
	Model         string   `json:"model,omitempty"`
	Transport     string   `json:"transport,omitempty"`
	LogicalSector int      `json:"logical_sector"`
	Contents      Contents `json:"contents"`
}

// PlanImage names the bytes that are written.
type PlanImage struct {
	Name      string `json:"name"`
	Digest    string `json:"digest"` // of the manifest
	SizeBytes uint64 `json:"size_bytes"`
}

// Layout says how the image is laid out on the disk.
type Layout struct {
	// GrowRoot extends the image's last Linux partition to the end of the disk
	// (less the seed partition).
	GrowRoot bool `json:"grow_root"`
}

// FirstBoot is what the installed system is told about itself, by a NoCloud
// seed on a partition of its own.
type FirstBoot struct {
	Hostname      string   `json:"hostname,omitempty"`
	SSHKeys       []string `json:"ssh_keys,omitempty"`
	NetworkConfig string   `json:"network_config,omitempty"` // cloud-init network-config, version 2 YAML; empty means DHCP
	UserData      string   `json:"user_data,omitempty"`      // cloud-init user-data as given
}

// Hash names the plan. Where the kernel put a disk is left out: the same disk
// under another name is the same plan.
func (p Plan) Hash() string {
	p.Erase.Name = ""
	p.Warnings = nil
	untouched := make([]PlanDisk, len(p.Untouched))
	for i, d := range p.Untouched {
		d.Name = ""
		untouched[i] = d
	}
	p.Untouched = untouched
	return hashJSON(p)
}

// Grant is the one-use permission to erase that follows from an approval.
type Grant struct {
	TaskID     string `json:"task_id"`
	Generation uint64 `json:"generation"` // of the task; a retry raises it, so an old grant is void
	Plan       Plan   `json:"plan"`
	PlanHash   string `json:"plan_hash"`

	// Cluster and Epoch say who grants and in which of its ages: what was lent to
	// another cluster, or before a backup was restored, is void.
	Cluster       string `json:"cluster"`
	Epoch         uint64 `json:"epoch"`
	MachineID     string `json:"machine_id"`
	InventoryHash string `json:"inventory_hash"`
	Issued        int64  `json:"issued"`   // Unix seconds
	Lifetime      int64  `json:"lifetime"` // seconds, by a clock that nobody sets

	// PhoneHome is the URL the installed system reports to from its own disk, and
	// PhoneAlso are those of other nodes, should that one be gone by then.
	PhoneHome string   `json:"phone_home"`
	PhoneAlso []string `json:"phone_also,omitempty"`
}

// GrantLife is how long a grant is good from the moment it is signed. Each poll of
// a machine gets a new one.
const GrantLife = 15 * time.Minute

// SignedGrant is a grant as it travels.
type SignedGrant struct {
	Payload     []byte `json:"payload"`     // the JSON of a Grant
	Signature   []byte `json:"signature"`   // Ed25519, of GrantMessage
	Certificate []byte `json:"certificate"` // DER, of the key that signed
	CA          []byte `json:"ca"`          // DER, of the authority that has certified it
}

// GrantMessage is what is signed for a payload. Its first line keeps a signature
// from being one of anything else.
func GrantMessage(payload []byte) []byte { return append([]byte("lpmos grant 1\n"), payload...) }
