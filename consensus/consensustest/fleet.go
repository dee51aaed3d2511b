package consensustest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

const gb = 1000 * 1000 * 1000

// Image is the one that all machines of a Fleet are given.
func Image() fleet.PutImage {
	return fleet.PutImage{Image: fleet.Image{Name: "debian-12", OSType: "debian", OSVersion: "12",
		Digest: strings.Repeat("ab", 32), SizeBytes: 2 * gb, Sector: 512, Stored: gb / 2, Source: "debian-12.raw"}}
}

// OneWord is the policy under which one person may have any number of machines
// erased, as tests with many of them need it.
func OneWord() fleet.PutPolicy {
	return fleet.PutPolicy{ApprovalCap: 1000, ApprovalWindow: time.Minute, SecondApprover: fleet.SecondNever, By: "ann"}
}

// Fleet is a state with machines, each installed so many times, come to be by the
// commands that it would come to be by in life.
func Fleet(t testing.TB, machines, installs int) *fleet.State {
	t.Helper()
	s := fleet.NewState()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	do := func(b fleet.Body) any {
		at = at.Add(time.Second)
		result, _, err := s.Apply(s.Index()+1, fleet.Command{At: at, Body: b})
		if err != nil {
			t.Fatalf("%T: %v", b, err)
		}
		return result
	}
	do(Image())
	do(OneWord())
	for n := range machines {
		Server(n, do)
	}
	for k := range installs {
		for n := range machines {
			Install(n, k, do)
		}
	}
	return s
}

// Server is the first report of machine number n. do proposes a command and
// gives its result.
func Server(n int, do func(fleet.Body) any) { report(n, 0, do) }

// Install is everything that happens to machine number n from the wish to
// install it for the kth time to the word of the system that came up, and the
// report of the agent that looks at it afterwards.
func Install(n, k int, do func(fleet.Body) any) {
	id, host, phone := taskID(n, k), fmt.Sprintf("web-%05d", n), fmt.Sprintf("%016x%016x", n, k)
	t := do(fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: mac(n, 0), PhoneToken: phone,
		Spec: fleet.Spec{OSType: "debian", OSVersion: "12", Tags: map[string]string{"role": "web", "rack": fmt.Sprint("r", n/40)},
			NetworkConfig: fleet.NetworkConfig{Hostname: host, SSHKeys: []string{
				"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGf0kM4s9qk0c2T4dZ0q1xv1iJwYj4i1oZ7n8xk2m3Qe operator@example.org"}}}}).(*fleet.Task)
	do(fleet.DecideTask{TaskID: id, Approved: true, PlanHash: t.PlanHash, By: "operator at 10.0.0.9"})
	do(fleet.StartInstall{TaskID: id, Generation: 1, PlanHash: t.PlanHash, SessionHash: session(n, k)})
	half, whole := uint64(gb/4), uint64(gb/2)
	for _, p := range []wire.Progress{
		{Stage: wire.StageDownloading, Percentage: 40, Details: wire.ProgressDetails{BytesDownloaded: half, BytesTotal: whole, BytesWritten: gb, SpeedMbps: 812.5}},
		{Stage: wire.StageInstalling, Percentage: 75, Message: "reading back"},
		{Stage: wire.StageConfiguring, Percentage: 95, Details: wire.ProgressDetails{BytesDownloaded: whole, BytesTotal: whole, BytesWritten: 2 * gb, SpeedMbps: 812.5}},
	} {
		do(fleet.Advance{Items: []fleet.AdvanceItem{{TaskID: id, Generation: 1, Progress: p}}})
	}
	do(fleet.FinishInstall{TaskID: id, Generation: 1, SessionHash: session(n, k)})
	do(fleet.ReportUp{PhoneToken: phone, Hostname: host, IP: address(n)})
	report(n, k+1, do)
}

func report(n, boot int, do func(fleet.Body) any) {
	do(fleet.ReportMachine{NewID: MachineID(n), RegionID: "dc1", BootID: fmt.Sprintf("%016x%016x", n, boot),
		SessionHash: session(n, boot), MAC: mac(n, 0), BootMAC: mac(n, 0), IP: address(n), Inventory: inventory(n, boot)})
}

// MachineID is the id of machine number n.
func MachineID(n int) string { return fmt.Sprintf("m-%026d", n) }

func taskID(n, k int) string { return fmt.Sprintf("t-%010d%016d", k, n) }

func mac(n, card int) string {
	return fmt.Sprintf("b0:26:28:%02x:%02x:%02x", n>>12&0xff, n>>4&0xff, n<<4&0xf0|card)
}

func address(n int) string { return fmt.Sprintf("10.1.%d.%d", n/250, 1+n%250) }

func session(n, boot int) string { return fmt.Sprintf("%032x%032x", n, boot) }

// inventory is a rack server of the usual kind as its agent reports it.
func inventory(n, installs int) wire.Inventory {
	inv := wire.Inventory{
		System: wire.System{Vendor: "Dell Inc.", Product: "PowerEdge R650", Serial: fmt.Sprintf("SRV%07d", n),
			UUID: fmt.Sprintf("4c4c4544-0051-4a10-8053-%012x", n), BoardVendor: "Dell Inc.", BoardProduct: "0PYXKY",
			BoardSerial: fmt.Sprintf("..CN%010d.", n), ChassisSerial: fmt.Sprintf("SRV%07d", n)},
		Firmware: wire.Firmware{Mode: "uefi", Vendor: "Dell Inc.", Version: "1.10.2", Date: "12/27/2023"},
		CPU: wire.CPU{Model: "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz", Arch: "amd64", Sockets: 2, Cores: 64, Threads: 128,
			MHz: 2000, Microcode: "0xd0003b9", NUMANodes: 2, Flags: []string{"aes", "avx2", "avx512f", "vmx"}},
		Memory: wire.Memory{TotalBytes: 256 << 30},
		BMC:    &wire.BMC{Interface: "kcs", Firmware: "6.10", IP: fmt.Sprintf("10.2.%d.%d", n/250, 1+n%250), MAC: mac(n, 15)},
		TPM:    &wire.TPM{Version: "2.0", Description: "TPM 2.0 Device"},
	}
	for i := range 8 {
		inv.Memory.DIMMs = append(inv.Memory.DIMMs, wire.DIMM{Slot: fmt.Sprintf("A%d", i+1), SizeBytes: 32 << 30, Type: "DDR4",
			SpeedMTs: 3200, Manufacturer: "Hynix", Serial: fmt.Sprintf("%08X", n*16+i), Part: "HMA84GR7DJR4N-XN"})
	}
	for i := range 2 {
		d := wire.Disk{Name: fmt.Sprintf("nvme%dn1", i), Model: "Dell Express Flash NVMe P5500 1.92TB SFF", Serial: fmt.Sprintf("PHLE%010d", n*4+i),
			WWN: fmt.Sprintf("eui.01000000000000%010x", n*4+i), Firmware: "2CV1DC1G", Transport: "nvme", SizeBytes: uint64(1920+i) * gb,
			LogicalSector: 512, PhysicalSector: 4096}
		if i > 0 {
			d.Contents = wire.Contents{Signatures: []string{"xfs"}}
		} else if installs > 0 {
			d.Contents = wire.Contents{Table: "gpt", OS: "Debian 12", Partitions: []wire.Partition{
				{Number: 1, StartBytes: 1 << 20, SizeBytes: 1 << 20, Type: "BIOS boot", Label: "bios"},
				{Number: 2, StartBytes: 2 << 20, SizeBytes: 64 << 20, Type: "EFI system", Label: "esp", Filesystem: "vfat"},
				{Number: 3, StartBytes: 66 << 20, SizeBytes: 1919 * gb, Type: "Linux", Label: "root", Filesystem: "ext4", FSLabel: "root"},
				{Number: 4, StartBytes: 1919*gb + 66<<20, SizeBytes: 8 << 20, Type: "Linux", Label: "seed", Filesystem: "vfat", FSLabel: "cidata"}},
				Marker: &wire.Marker{MachineID: MachineID(n), TaskID: taskID(n, installs-1), Generation: 1, Image: strings.Repeat("ab", 32)}}
		}
		inv.Disks = append(inv.Disks, d)
	}
	for i := range 2 {
		inv.NICs = append(inv.NICs, wire.NIC{Name: fmt.Sprintf("eno%dnp%d", i+1, i), MAC: mac(n, i), Driver: "bnxt_en", Firmware: "224.0.157.0",
			Bus: fmt.Sprintf("0000:31:00.%d", i), SpeedMbps: 25000, Link: i < 2, Boot: i == 0})
	}
	return inv
}
