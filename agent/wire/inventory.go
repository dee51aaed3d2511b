package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
)

// Inventory is what an agent found on a machine. Strings come from firmware
// and are untrusted: the node caps and cleans them before it keeps them.
type Inventory struct {
	System         System      `json:"system"`
	Firmware       Firmware    `json:"firmware"`
	CPU            CPU         `json:"cpu"`
	Memory         Memory      `json:"memory"`
	Disks          []Disk      `json:"disks"`
	NICs           []NIC       `json:"nics"`
	PCI            []PCIDevice `json:"pci,omitempty"`
	BMC            *BMC        `json:"bmc,omitempty"`
	TPM            *TPM        `json:"tpm,omitempty"`
	Virtualization string      `json:"virtualization,omitempty"` // "kvm", "vmware", ...; empty on bare metal
	Truncated      bool        `json:"truncated,omitempty"`      // the node dropped entries over its limits
}

// System identifies the computer as SMBIOS types 1, 2 and 3 give it.
type System struct {
	Vendor        string `json:"vendor,omitempty"`
	Product       string `json:"product,omitempty"`
	Serial        string `json:"serial,omitempty"`
	UUID          string `json:"uuid,omitempty"` // lower case, in the byte order Linux prints
	BoardVendor   string `json:"board_vendor,omitempty"`
	BoardProduct  string `json:"board_product,omitempty"`
	BoardSerial   string `json:"board_serial,omitempty"`
	ChassisSerial string `json:"chassis_serial,omitempty"`
	AssetTag      string `json:"asset_tag,omitempty"`
}

// Firmware is the machine's BIOS or UEFI.
type Firmware struct {
	Mode       string `json:"mode"` // "bios" or "uefi"
	Vendor     string `json:"vendor,omitempty"`
	Version    string `json:"version,omitempty"`
	Date       string `json:"date,omitempty"`
	SecureBoot bool   `json:"secure_boot,omitempty"`
}

// CPU is the processor topology.
type CPU struct {
	Model     string   `json:"model,omitempty"`
	Arch      string   `json:"arch,omitempty"` // GOARCH
	Sockets   int      `json:"sockets"`
	Cores     int      `json:"cores"`   // over all sockets
	Threads   int      `json:"threads"` // over all cores
	MHz       int      `json:"mhz,omitempty"`
	Microcode string   `json:"microcode,omitempty"`
	NUMANodes int      `json:"numa_nodes,omitempty"`
	Flags     []string `json:"flags,omitempty"`
}

// Memory is what the machine has, in bytes, and the modules it sits on.
type Memory struct {
	TotalBytes uint64 `json:"total_bytes"`
	DIMMs      []DIMM `json:"dimms,omitempty"`
}

// DIMM is one memory module (SMBIOS type 17).
type DIMM struct {
	Slot         string `json:"slot,omitempty"`
	SizeBytes    uint64 `json:"size_bytes"`
	Type         string `json:"type,omitempty"` // "DDR4", ...
	SpeedMTs     int    `json:"speed_mts,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Serial       string `json:"serial,omitempty"`
	Part         string `json:"part,omitempty"`
}

// Disk is a whole block device. Its Name is where the kernel put it this time
// and identifies nothing; WWN, serial and size together do.
type Disk struct {
	Name           string   `json:"name"` // "sda": for people reading the machine's console only
	Model          string   `json:"model,omitempty"`
	Vendor         string   `json:"vendor,omitempty"`
	Serial         string   `json:"serial,omitempty"`
	WWN            string   `json:"wwn,omitempty"`
	Firmware       string   `json:"firmware,omitempty"`
	Transport      string   `json:"transport,omitempty"` // "nvme", "sata", "sas", "usb", "virtio"
	SizeBytes      uint64   `json:"size_bytes"`
	LogicalSector  int      `json:"logical_sector"`  // bytes
	PhysicalSector int      `json:"physical_sector"` // bytes
	Rotational     bool     `json:"rotational"`
	Removable      bool     `json:"removable,omitempty"`
	ReadOnly       bool     `json:"read_only,omitempty"`
	Contents       Contents `json:"contents"`
}

// ID returns the identity of the disk.
func (d Disk) ID() DiskID { return DiskID{WWN: d.WWN, Serial: d.Serial, SizeBytes: d.SizeBytes} }

// DiskID is how a disk is recognised again after names have moved. At least one
// of WWN and Serial is set on a disk that may be approved for writing.
type DiskID struct {
	WWN       string `json:"wwn,omitempty"`
	Serial    string `json:"serial,omitempty"`
	SizeBytes uint64 `json:"size_bytes"`
}

// Known reports whether the disk can be told from any other of its size.
func (id DiskID) Known() bool { return id.WWN != "" || id.Serial != "" }

// String is the identity as people read it: the WWN or else the serial.
func (id DiskID) String() string {
	if id.Serial != "" {
		return id.Serial
	}
	return id.WWN
}

// Contents is what lies on a disk now, as far as its first and last sectors and
// the start of each partition tell.
type Contents struct {
	Table      string      `json:"table,omitempty"` // "gpt", "mbr" or empty
	Partitions []Partition `json:"partitions,omitempty"`
	Signatures []string    `json:"signatures,omitempty"` // on the whole disk: "lvm2", "zfs", "md", "luks", "ext4", ...
	OS         string      `json:"os,omitempty"`         // best guess, in words: "Debian 12", "Windows", "unknown Linux"
	Marker     *Marker     `json:"marker,omitempty"`     // left by an earlier install of ours
	// NoHead says that there is a table though the first sector is all zeros: an
	// install of ours wipes that first, and a GPT is found without it.
	NoHead     bool   `json:"no_head,omitempty"`
	Unreadable string `json:"unreadable,omitempty"` // why it could not be read
}

// Blank reports whether nothing was found that writing would destroy.
func (c Contents) Blank() bool {
	return c.Table == "" && len(c.Partitions) == 0 && len(c.Signatures) == 0 && c.Marker == nil && c.Unreadable == ""
}

// Partition is one entry of a partition table.
type Partition struct {
	Number     int    `json:"number"`
	StartBytes uint64 `json:"start_bytes"`
	SizeBytes  uint64 `json:"size_bytes"`
	Type       string `json:"type,omitempty"`       // "EFI system", "Linux", "0x83", a GUID
	Label      string `json:"label,omitempty"`      // GPT name
	Filesystem string `json:"filesystem,omitempty"` // "ext4", "vfat", "ntfs", "xfs", "lvm2", ...
	FSLabel    string `json:"fs_label,omitempty"`
}

// Marker is what the agent leaves on a disk it has installed.
type Marker struct {
	MachineID  string `json:"machine_id"`
	TaskID     string `json:"task_id"`
	Generation uint64 `json:"generation"`
	Image      string `json:"image"` // digest
	// Issued is that of the grant (Unix seconds): a grant that is not younger than an
	// install on the disk was used already or came too late.
	Issued int64 `json:"issued,omitempty"`
}

// NIC is a network interface.
type NIC struct {
	Name      string `json:"name"`
	MAC       string `json:"mac"` // lower case, colons
	Driver    string `json:"driver,omitempty"`
	Firmware  string `json:"firmware,omitempty"`
	Bus       string `json:"bus,omitempty"` // PCI address
	SpeedMbps int    `json:"speed_mbps,omitempty"`
	Link      bool   `json:"link"`
	IP        string `json:"ip,omitempty"`
	Boot      bool   `json:"boot,omitempty"` // the agent talks to the node through it
}

// PCIDevice is one function on the PCI bus.
type PCIDevice struct {
	Address string `json:"address"`
	Vendor  string `json:"vendor"` // four hex digits
	Device  string `json:"device"` // four hex digits
	Class   string `json:"class"`  // six hex digits
	Driver  string `json:"driver,omitempty"`
}

// BMC is the management controller, if one is announced.
type BMC struct {
	Interface string `json:"interface,omitempty"` // "kcs", "ssif", ...
	Firmware  string `json:"firmware,omitempty"`
	IP        string `json:"ip,omitempty"`
	MAC       string `json:"mac,omitempty"`
}

// TPM is the trusted platform module.
type TPM struct {
	Version     string `json:"version,omitempty"` // "2.0"
	Description string `json:"description,omitempty"`
}

// Hash names the parts of the inventory that must not change between what a
// person approved and what is erased: who the machine is and which disks and
// cards it has. Order of discovery, kernel names, link state and what lies on
// the disks do not take part (contents are in the plan itself).
func (inv Inventory) Hash() string {
	type identity struct {
		UUID   string
		Serial string
		Board  string
		MACs   []string
		Disks  []DiskID
		Memory uint64
		CPU    string
	}
	id := identity{
		UUID:   strings.ToLower(inv.System.UUID),
		Serial: inv.System.Serial,
		Board:  inv.System.BoardSerial,
		MACs:   inv.MACs(),
		CPU:    inv.CPU.Model,
	}
	for _, d := range inv.Memory.DIMMs {
		id.Memory += d.SizeBytes
	}
	for _, d := range inv.Disks {
		if !d.Removable {
			id.Disks = append(id.Disks, d.ID())
		}
	}
	slices.SortFunc(id.Disks, func(a, b DiskID) int {
		if c := strings.Compare(a.WWN, b.WWN); c != 0 {
			return c
		}
		if c := strings.Compare(a.Serial, b.Serial); c != 0 {
			return c
		}
		return int(int64(a.SizeBytes>>9) - int64(b.SizeBytes>>9))
	})
	return hashJSON(id)
}

// MACs returns every hardware address, lower case and sorted.
func (inv Inventory) MACs() []string {
	var macs []string
	for _, n := range inv.NICs {
		if n.MAC != "" {
			macs = append(macs, strings.ToLower(n.MAC))
		}
	}
	slices.Sort(macs)
	return slices.Compact(macs)
}

// hashJSON is the SHA-256 of the JSON form, in hex. The types given to it hold
// nothing that json.Marshal can refuse.
func hashJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("wire: cannot hash: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
