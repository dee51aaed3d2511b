package apitest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

const gb = 1000 * 1000 * 1000

// Gallery is a fleet with a machine in every state there is, made by the rules
// themselves. Names say the state.
func Gallery(n *Node) error {
	g := gallery{node: n}
	g.images()
	g.atRest()
	g.before()
	g.during()
	g.after()
	g.odd()
	for _, s := range []api.Sighting{
		{Kind: "dhcp", Step: "offer", Stage: "pxe", File: "snponly.efi", Text: "asked for an address as UEFI amd64 PXE firmware; was offered 10.77.0.100 and the boot file snponly.efi"},
		{Kind: "dhcp", Step: "ack", Stage: "pxe", File: "snponly.efi", Text: "as UEFI amd64 PXE firmware, was lent 10.77.0.100 and the boot file snponly.efi"},
		{Kind: "tftp", Step: "served", File: "snponly.efi", Text: "fetched snponly.efi over TFTP (173792 bytes)"},
		{Kind: "script", Step: "script", Stage: "ipxe", Text: "was told to start the agent: not known here"},
		{Kind: "http", Step: "served", File: "initrd", Text: "fetched initrd over HTTP (21003412 bytes)"},
	} {
		s.At, s.MAC = n.Clock.Tick(), mac(3)
		n.Sightings.Add(s)
	}
	stranger := api.Sighting{At: n.Clock.Tick(), MAC: "52:54:00:ff:ff:01", Kind: "tftp", Step: "served", File: "snponly.efi", Text: "fetched snponly.efi over TFTP (173792 bytes)"}
	n.Sightings.Add(stranger)
	n.Sightings.Stalls(stranger.MAC, &api.Stall{ID: "loader-silent", Text: "took snponly.efi, then silence for 40 s: did Secure Boot refuse it?",
		Hint: "switch Secure Boot off in the machine's setup: snponly.efi is not signed. If it is off, look at the screen", Since: stranger.At, At: stranger.At.Add(40 * time.Second)})
	for _, m := range n.Membership.Status().Members[1:] {
		g.do(fleet.PutNode{Node: fleet.Node{ID: m.ID, Name: m.Name, RegionID: m.Region, Address: m.Dashboard, Version: m.Version}})
	}
	return g.err
}

type gallery struct {
	node *Node
	made int
	err  error
}

// do proposes unless something went wrong before.
func (g *gallery) do(body fleet.Body) any {
	if g.err != nil {
		return nil
	}
	v, err := g.node.Cluster.Propose(context.Background(), body)
	if err != nil {
		g.err = fmt.Errorf("%T: %w", body, err)
	}
	return v
}

func mac(i int) string { return fmt.Sprintf("52:54:00:12:00:%02x", i) }

func digest(c string) string { return strings.Repeat(c, 64) }

func (g *gallery) images() {
	g.do(fleet.PutNode{Node: fleet.Node{ID: "n-1", Name: "n1", RegionID: "dc1", Address: "127.0.0.1:8080", Version: "test"}})
	// It shows more installs at once than one word is good for.
	g.do(fleet.PutPolicy{ApprovalCap: 1000, ApprovalWindow: time.Minute, SecondApprover: fleet.SecondOverCap, By: "admin"})
	g.do(fleet.PutImage{Image: fleet.Image{Name: "debian-12", OSType: "debian", OSVersion: "12", Digest: digest("d"), SizeBytes: 2 * gb, Stored: 340 << 20, Sector: 512, Source: "upload"}})
	g.do(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: digest("7"), SizeBytes: 64 << 20, Stored: 9 << 20, Sector: 512, Source: "http://images.example/tiny.raw.xz"}})
}

// machine reports a machine with an agent that waits, and gives its number.
func (g *gallery) machine(inv wire.Inventory, session string) int {
	g.made++
	i := g.made
	inv.NICs = []wire.NIC{
		{Name: "eno1", MAC: mac(i), Driver: "ixgbe", Bus: "0000:17:00.0", SpeedMbps: 10000, Link: true, IP: fmt.Sprintf("10.77.0.%d", 99+i), Boot: true},
		{Name: "eno2", MAC: fmt.Sprintf("52:54:00:13:00:%02x", i), Driver: "ixgbe", Bus: "0000:17:00.1"},
	}
	inv.System.UUID = fmt.Sprintf("4c4c4544-0035-4d10-8052-b7c04f4e%04x", i)
	inv.System.Serial = fmt.Sprintf("LAB-%02d", i)
	g.do(fleet.ReportMachine{NewID: fmt.Sprintf("m-%02d", i), RegionID: "dc1", BootID: fmt.Sprintf("b-%d", i), SessionHash: session,
		MAC: mac(i), IP: fmt.Sprintf("10.77.0.%d", 99+i), Inventory: inv})
	return i
}

// Server is a machine with a blank small disk and a large one that holds Debian.
func Server() wire.Inventory {
	return wire.Inventory{
		System:   wire.System{Vendor: "Dell Inc.", Product: "PowerEdge R640", BoardVendor: "Dell Inc.", BoardProduct: "0X45NX", BoardSerial: "CN70163", ChassisSerial: "5M4RBN3"},
		Firmware: wire.Firmware{Mode: "uefi", Vendor: "Dell Inc.", Version: "2.21.2", Date: "02/19/2024"},
		CPU:      wire.CPU{Model: "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", Arch: "amd64", Sockets: 2, Cores: 32, Threads: 64, MHz: 2100, NUMANodes: 2},
		Memory: wire.Memory{TotalBytes: 64 << 30, DIMMs: []wire.DIMM{
			{Slot: "A1", SizeBytes: 32 << 30, Type: "DDR4", SpeedMTs: 2666, Manufacturer: "Samsung", Serial: "40D6D1A4", Part: "M393A4K40CB2"},
			{Slot: "B1", SizeBytes: 32 << 30, Type: "DDR4", SpeedMTs: 2666, Manufacturer: "Samsung", Serial: "40D6D1A5", Part: "M393A4K40CB2"},
		}},
		Disks: []wire.Disk{
			{Name: "sda", Model: "MZ7LH480HAHQ0D3", Vendor: "SAMSUNG", Serial: "S4EVNX0M902114", WWN: "5002538e40a1b2c3", Transport: "sata", SizeBytes: 480 * gb, LogicalSector: 512, PhysicalSector: 4096},
			{Name: "nvme0n1", Model: "Dell Ent NVMe P5500 RI", Serial: "PHAB1234001L1P9S", WWN: "eui.01000000010000005cd2e4a1b2c30051", Transport: "nvme", SizeBytes: 1920 * gb, LogicalSector: 512, PhysicalSector: 512,
				Contents: wire.Contents{Table: "gpt", OS: "Debian 12", Partitions: []wire.Partition{
					{Number: 1, StartBytes: 1 << 20, SizeBytes: 512 << 20, Type: "EFI system", Filesystem: "vfat"},
					{Number: 2, StartBytes: 513 << 20, SizeBytes: 1900 * gb, Type: "Linux", Label: "root", Filesystem: "ext4", FSLabel: "root"},
				}}},
		},
		PCI: []wire.PCIDevice{{Address: "0000:17:00.0", Vendor: "8086", Device: "10fb", Class: "020000", Driver: "ixgbe"}},
		BMC: &wire.BMC{Interface: "kcs", Firmware: "6.10.80.00", IP: "10.77.1.21", MAC: "d0:94:66:2a:00:01"},
		TPM: &wire.TPM{Version: "2.0", Description: "NTC 7.2.3.1"},
	}
}

// small is a machine with one disk.
func small(d wire.Disk) wire.Inventory {
	inv := Server()
	inv.System = wire.System{Vendor: "QEMU", Product: "Standard PC (Q35 + ICH9, 2009)"}
	inv.Firmware = wire.Firmware{Mode: "bios", Vendor: "SeaBIOS", Version: "1.16.2", Date: "04/01/2014"}
	inv.CPU = wire.CPU{Model: "QEMU Virtual CPU version 2.5+", Arch: "amd64", Sockets: 1, Cores: 1, Threads: 1}
	inv.Memory = wire.Memory{TotalBytes: 1 << 30}
	inv.Disks = []wire.Disk{d}
	inv.PCI, inv.BMC, inv.TPM, inv.Virtualization = nil, nil, nil, "qemu"
	return inv
}

func blank(serial string, size uint64) wire.Disk {
	return wire.Disk{Name: "vda", Model: "QEMU HARDDISK", Serial: serial, Transport: "virtio", SizeBytes: size, LogicalSector: 512, PhysicalSector: 512}
}

// task asks for debian-12 on machine i under a name, and gives the task's id.
func (g *gallery) task(i int, name string) string {
	id := fmt.Sprintf("t-%02d", i)
	g.do(fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: mac(i), PhoneToken: "secret-" + id, Spec: fleet.Spec{OSType: "debian", OSVersion: "12",
		NetworkConfig: fleet.NetworkConfig{Hostname: name, SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops@example"}}, UserData: "#cloud-config\npackages: [htop]\n", Tags: map[string]string{"rack": "r02"}}})
	return id
}

func (g *gallery) atRest() {
	g.machine(small(blank("LAB-1-D1", 8*gb)), "s-1") // discovered, blank
	inv := small(blank("LAB-2-D1", 16*gb))
	inv.System.Product = `"><img src=x onerror=alert(1)>`
	inv.Disks[0].Contents = wire.Contents{Table: "mbr", OS: "Windows", Partitions: []wire.Partition{{Number: 1, StartBytes: 1 << 20, SizeBytes: 15 * gb, Type: "0x07", Filesystem: "ntfs", FSLabel: "System"}}}
	g.machine(inv, "s-2") // discovered, holds Windows
}

func (g *gallery) before() {
	// The plan would erase the disk that holds Debian.
	i := g.machine(Server(), "s-3")
	g.do(fleet.CreateTask{ID: "t-03", RegionID: "dc1", TargetMAC: mac(i), PhoneToken: "secret-t-03", Spec: fleet.Spec{OSType: "debian", OSVersion: "12",
		DiskLayout: fleet.DiskLayout{Disk: "PHAB1234001L1P9S"}, NetworkConfig: fleet.NetworkConfig{Hostname: "waiting"}}})
	i = g.machine(small(blank("LAB-4-D1", 1*gb)), "s-4")
	g.task(i, "too-small")
	i = g.machine(small(blank("LAB-5-D1", 8*gb)), "")
	g.task(i, "ready")
	i = g.machine(small(blank("LAB-6-D1", 8*gb)), "")
	g.task(i, "booting")
	g.do(fleet.ServeBoot{MAC: mac(i)})
	g.approved("approved")
	g.do(fleet.CreateTask{ID: "t-00", RegionID: "dc1", TargetMAC: "52:54:00:99:00:01", PhoneToken: "secret-t-00", Spec: fleet.Spec{OSType: "tiny", NetworkConfig: fleet.NetworkConfig{Hostname: "pending"}}})
}

// approved is a machine with an approved task; it gives the task as it stands.
func (g *gallery) approved(name string) *fleet.Task {
	i := g.machine(small(blank(fmt.Sprintf("LAB-%d-D1", g.made+1), 8*gb)), fmt.Sprintf("s-%d", g.made+1))
	id := g.task(i, name)
	var hash string
	g.node.Cluster.View(func(s *fleet.State) {
		if t := s.Task(id); t != nil {
			hash = t.PlanHash
		}
	})
	t, _ := g.do(fleet.DecideTask{TaskID: id, Approved: true, PlanHash: hash, Notes: "agreed in the morning round", By: "operator at 127.0.0.1"}).(*fleet.Task)
	return t
}

// begun is an install that has come so far.
func (g *gallery) begun(name string, steps ...wire.Progress) *fleet.Task {
	t := g.approved(name)
	if t == nil {
		return &fleet.Task{}
	}
	g.do(fleet.StartInstall{TaskID: t.ID, Generation: t.Generation, PlanHash: t.PlanHash, SessionHash: "s-" + fmt.Sprint(g.made)})
	for _, p := range steps {
		g.do(fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: t.ID, Generation: t.Generation, Progress: p}}})
	}
	return t
}

var steps = []wire.Progress{
	{Stage: wire.StagePartitioning, Percentage: 12, Message: "wiping signatures"},
	{Stage: wire.StageDownloading, Percentage: 43, Message: "writing chunk 49 of 86", Details: wire.ProgressDetails{BytesDownloaded: 205 << 20, BytesTotal: 340 << 20, BytesWritten: 1150 << 20, SpeedMbps: 843.5}},
	{Stage: wire.StageInstalling, Percentage: 71, Message: "reading back", Details: wire.ProgressDetails{BytesDownloaded: 340 << 20, BytesTotal: 340 << 20, BytesWritten: 2 * gb}},
	{Stage: wire.StageConfiguring, Percentage: 97, Message: "writing the seed", Details: wire.ProgressDetails{BytesDownloaded: 340 << 20, BytesTotal: 340 << 20, BytesWritten: 2 * gb}},
}

func (g *gallery) during() {
	g.begun("erasing", steps[:1]...)
	g.begun("downloading", steps[:2]...)
	g.begun("verifying", steps[:3]...)
	g.begun("configuring", steps...)
}

func (g *gallery) finished(name string, err *wire.TaskError) *fleet.Task {
	t := g.begun(name, steps...)
	g.do(fleet.FinishInstall{TaskID: t.ID, Generation: t.Generation, SessionHash: "s-" + fmt.Sprint(g.made), Error: err})
	return t
}

func (g *gallery) after() {
	g.finished("written", nil)
	t := g.finished("web-1", nil)
	g.do(fleet.ReportUp{PhoneToken: t.PhoneToken, Hostname: "web-1", IP: "10.77.0.113"})
	g.finished("failed", &wire.TaskError{Code: wire.CodeVerifyFailed, Message: "chunk 17 read back differs from what was written", Details: "sector 139264 of vda"})
	g.begun("interrupted", steps[:2]...)
	inv := small(blank(fmt.Sprintf("LAB-%d-D1", g.made), 8*gb))
	i := g.made
	inv.NICs = []wire.NIC{{Name: "eno1", MAC: mac(i), Link: true, Boot: true}}
	inv.System.UUID, inv.System.Serial = fmt.Sprintf("4c4c4544-0035-4d10-8052-b7c04f4e%04x", i), fmt.Sprintf("LAB-%02d", i)
	g.do(fleet.ReportMachine{RegionID: "dc1", BootID: "b-again", SessionHash: "s-again", MAC: mac(i), IP: "10.77.0.115", Inventory: inv})
}

func (g *gallery) odd() {
	i := g.machine(small(blank("LAB-16-D1", 8*gb)), "s-16")
	g.do(fleet.DecideTask{TaskID: g.task(i, "rejected"), Notes: "wrong rack", By: "operator at 127.0.0.1"})
	t := g.begun("cancelled", steps[:2]...)
	g.do(fleet.CancelTask{TaskID: t.ID, By: "operator at 127.0.0.1"})
	i = g.machine(small(blank("LAB-18-D1", 8*gb)), "s-18")
	// Another machine answers with one of its MACs.
	inv := small(blank("OTHER-D1", 8*gb))
	inv.System.UUID, inv.System.Serial = "11112222-3333-4444-5555-666677778888", "OTHER"
	inv.NICs = []wire.NIC{{Name: "eno1", MAC: mac(i), Link: true, Boot: true}}
	if g.err == nil {
		_, err := g.node.Cluster.Propose(context.Background(), fleet.ReportMachine{NewID: "m-other", RegionID: "dc1", BootID: "b-other", MAC: mac(i), Inventory: inv})
		if fleet.ErrorCode(err) != fleet.Conflict {
			g.err = fmt.Errorf("a clash of ids was not refused: %w", err)
		}
	}
	// One that is silent while its disk is being written: everybody else speaks.
	g.begun("lost", steps[:2]...)
	now := g.node.Clock.Move(2 * time.Minute)
	for j := 1; j < g.made; j++ {
		g.node.Contact.Heard(fmt.Sprintf("m-%02d", j), now)
	}
}
