package fleet

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// rack makes the inventories of common two-socket servers.
type rack struct {
	flags []string
	pci   []wire.PCIDevice
}

func newRack() *rack {
	r := &rack{}
	for f := range 130 {
		r.flags = append(r.flags, fmt.Sprintf("flag%03d", f))
	}
	for p := range 30 {
		r.pci = append(r.pci, wire.PCIDevice{Address: fmt.Sprintf("0000:%02x:00.0", p), Vendor: "8086", Device: fmt.Sprintf("09%02x", p), Class: "088000", Driver: "pcieport"})
	}
	return r
}

// server is number i of them.
func (r *rack) server(i int) wire.Inventory {
	inv := wire.Inventory{
		System: wire.System{Vendor: "Dell Inc.", Product: "PowerEdge R650", Serial: fmt.Sprintf("SVC%05d", i),
			UUID: fmt.Sprintf("4c4c4544-0043-3310-8050-%012x", i), BoardVendor: "Dell Inc.", BoardProduct: "0PYXKY", BoardSerial: fmt.Sprintf(".SVC%05d.CNIVC00", i)},
		Firmware: wire.Firmware{Mode: "uefi", Vendor: "Dell Inc.", Version: "1.8.2", Date: "09/14/2025"},
		CPU:      wire.CPU{Model: "Intel(R) Xeon(R) Gold 6330 CPU @ 2.00GHz", Arch: "amd64", Sockets: 2, Cores: 56, Threads: 112, MHz: 2000, NUMANodes: 2, Flags: r.flags},
		Memory:   wire.Memory{TotalBytes: 256 << 30},
		PCI:      r.pci,
	}
	for d := range 8 {
		inv.Memory.DIMMs = append(inv.Memory.DIMMs, wire.DIMM{Slot: fmt.Sprintf("A%d", d+1), SizeBytes: 32 << 30, Type: "DDR4", SpeedMTs: 3200,
			Manufacturer: "Hynix Semiconductor", Serial: fmt.Sprintf("%04X%04d", d, i), Part: "HMA84GR7DJR4N-XN"})
	}
	for n := range 2 {
		inv.NICs = append(inv.NICs, wire.NIC{Name: fmt.Sprintf("eth%d", n), MAC: fmt.Sprintf("52:54:%02x:%02x:%02x:%02x", n, i>>16, i>>8&255, i&255),
			Driver: "i40e", Firmware: "9.40", Bus: fmt.Sprintf("0000:31:00.%d", n), SpeedMbps: 25000, Link: true, Boot: n == 0})
		inv.Disks = append(inv.Disks, wire.Disk{Name: fmt.Sprintf("nvme%dn1", n), Model: "Dell Ent NVMe v2 AGN RI U.2 1.92TB", Serial: fmt.Sprintf("S6UN%d%05d", n, i),
			WWN: fmt.Sprintf("eui.36554630%08x%08x", n, i), Transport: "nvme", SizeBytes: 1920 * gb, LogicalSector: 512, PhysicalSector: 4096,
			Contents: wire.Contents{Table: "gpt", OS: "Debian 11", Partitions: []wire.Partition{
				{Number: 1, StartBytes: 1 << 20, SizeBytes: 512 << 20, Type: "EFI system", Label: "EFI", Filesystem: "vfat"},
				{Number: 2, StartBytes: 513 << 20, SizeBytes: 1900 * gb, Type: "Linux", Label: "root", Filesystem: "ext4"}}}})
	}
	return inv
}

// largeFleet has as many machines, and tasks that were all carried out, in the
// way rules make them.
func largeFleet(t testing.TB, machines, tasks int) *State {
	t.Helper()
	s, index, at := NewState(), uint64(0), time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	do := func(b Body) {
		index++
		at = at.Add(1234567891 * time.Nanosecond)
		c := Command{Version: commandVersion, ID: fmt.Sprintf("01jc%022d", index), At: at, Body: b}
		if _, _, err := s.Apply(index, c); err != nil {
			t.Fatalf("%s: %v", b.commandType(), err)
		}
	}
	do(PutCluster{Cluster{ID: "c1"}})
	do(PutNode{Node{ID: "n1", Name: "first"}})
	do(debian())
	rack := newRack()
	for n := range tasks {
		i := n % machines
		inv := rack.server(i)
		id, secret, mac := fmt.Sprintf("01jt%022d", n), random(n), inv.NICs[0].MAC
		do(CreateTask{ID: id, RegionID: "dc1", TargetMAC: mac, PhoneToken: secret[:43],
			Spec: Spec{OSType: "debian", OSVersion: "12", Tags: map[string]string{"rack": fmt.Sprint("r", i/40)},
				NetworkConfig: NetworkConfig{Hostname: fmt.Sprintf("web-%d", i), SSHKeys: []string{"ssh-ed25519 " + strings.Repeat("A", 68) + " ann@example.org"}}}})
		do(ServeBoot{MAC: mac})
		do(ReportMachine{NewID: fmt.Sprintf("01jm%022d", i), RegionID: "dc1", BootID: secret[:36], SessionHash: secret, MAC: mac,
			IP: fmt.Sprintf("10.0.%d.%d", i>>8, i&255), Inventory: inv})
		hash := s.Task(id).PlanHash
		do(DecideTask{TaskID: id, Approved: true, PlanHash: hash, By: "ann"})
		do(StartInstall{TaskID: id, Generation: 1, PlanHash: hash, SessionHash: secret})
		for _, stage := range wire.Stages {
			_, to, _ := stage.Span()
			do(Advance{[]AdvanceItem{{TaskID: id, Generation: 1, Progress: wire.Progress{Stage: stage, Percentage: to - 1}}}})
		}
		do(FinishInstall{TaskID: id, Generation: 1, SessionHash: secret})
		do(ReportUp{PhoneToken: secret[:43], Hostname: fmt.Sprintf("web-%d", i), IP: "10.0.0.1"})
	}
	return s
}

// random is as hard to pack as what tokens and hashes are made of.
func random(n int) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte{byte(n), byte(n >> 8), byte(n >> 16)}))
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkSnapshot100k: 10,000 machines and 100,000 past tasks.
func BenchmarkSnapshot100k(b *testing.B) {
	s := largeFleet(b, 10_000, 100_000)
	whole := snapshotOf(b, s)
	b.Run("take", func(b *testing.B) {
		for b.Loop() {
			s.Snapshot()
		}
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			if err := s.Snapshot().Write(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(whole))/1e6, "MB")
	})
	packed := 0
	for _, p := range s.past.all() {
		packed += len(p.Packed)
	}
	bytesEach := float64(packed) / float64(len(s.past.list))
	b.Run("page", func(b *testing.B) {
		for b.Loop() {
			s.TaskPage(TaskQuery{Before: "01jt0000000000000000050000", Limit: 50}).Tasks()
		}
	})
	s = nil
	b.Run("restore", func(b *testing.B) {
		before := heap()
		for b.Loop() {
			s = nil
			var err error
			if s, err = Restore(bytes.NewReader(whole)); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB-heap")
		b.ReportMetric(bytesEach, "B/packed-task")
		runtime.KeepAlive(s)
	})
}

// BenchmarkApply: commands a second through the rules, as they come out of the log.
func BenchmarkApply(b *testing.B) {
	entries := map[string]func(i int) Body{
		"put_node": func(i int) Body { return PutNode{Node{ID: fmt.Sprint("n", i%1000), Name: "node"}} },
		"advance": func(i int) Body {
			return Advance{[]AdvanceItem{{TaskID: fmt.Sprint("t", i%1000), Generation: 1, Progress: wire.Progress{Stage: wire.StageDownloading, Percentage: 20 + 40*float64(i)/1e9}}}}
		},
	}
	for name, body := range entries {
		for _, batch := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/batch=%d", name, batch), func(b *testing.B) {
				s := NewState()
				var raw [][]byte
				for i := 0; i < b.N; i += batch {
					cmds := make([]Command, 0, batch)
					for j := i; j < min(i+batch, b.N); j++ {
						cmds = append(cmds, Command{ID: fmt.Sprintf("01jm%022d", j), At: time.Unix(int64(j), 0), Body: body(j)})
					}
					e, err := EncodeEntry(cmds)
					if err != nil {
						b.Fatal(err)
					}
					raw = append(raw, e)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i, e := range raw {
					cmds, err := DecodeEntry(e)
					if err != nil {
						b.Fatal(err)
					}
					for _, c := range cmds {
						if _, _, err := s.Apply(uint64(i), c); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			})
		}
	}
}

// BenchmarkEncodeEntry: what the leader spends on a command before it is in the log.
func BenchmarkEncodeEntry(b *testing.B) {
	c := Command{ID: "01jm2c3d4e5f6g7h8j9k0m1n2p", At: time.Unix(1, 0), Body: PutNode{Node{ID: "n1", Name: "node"}}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := EncodeEntry([]Command{c}); err != nil {
			b.Fatal(err)
		}
	}
}
