package lab

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience bounds a wait for something that takes well under a second.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// The node gets the host's listener and sees its cable, nothing else.
func TestNodeLivesInTheRack(t *testing.T) {
	r := testRack(t, Options{Machines: 2, StartOff: true})
	seen := askNode(t, r.URL())
	slices.Sort(seen.Links)
	if want := []string{"eth0", "lo"}; !slices.Equal(seen.Links, want) {
		t.Errorf("node sees links %v, want %v", seen.Links, want)
	}
	s, err := r.Client().State(patience(t))
	if err != nil {
		t.Fatal(err)
	}
	if n := s.Nodes[0]; len(s.Nodes) != 1 || n.PID != seen.PID || n.URL != r.URL() || !n.Well() {
		t.Errorf("state says %+v, it is %d at %s", s.Nodes, seen.PID, r.URL())
	}
	for _, m := range s.Machines {
		if m.Power || !m.Since.IsZero() {
			t.Errorf("%s was to start without power: %+v", m.Name, m)
		}
	}
}

// A node killed by request stays dead or comes back as asked; one that dies by
// itself comes back; the host's listener survives all of it.
func TestNodeIsKilledAndComesBack(t *testing.T) {
	events := newEvents()
	r := testRack(t, Options{StartOff: true, Out: events})
	c, ctx := r.Client(), patience(t)
	first := askNode(t, r.URL()).PID

	if err := c.KillNode(ctx, "n1", true); err != nil {
		t.Fatal(err)
	}
	second := askNode(t, r.URL()).PID
	if second == first {
		t.Fatalf("the node survived kill -9 as %d", first)
	}

	if err := c.KillNode(ctx, "n1", false); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Node(ctx, "n1"); err != nil || n.PID != 0 || n.State != NodeDead {
		t.Fatalf("node is %+v (%v), want it dead", n, err)
	}
	if err := c.KillNode(ctx, "n1", false); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("killing a dead node: %v, want an error that says so", err)
	}
	if err := c.StartNode(ctx, "n1"); err != nil {
		t.Fatal(err)
	}
	third := askNode(t, r.URL()).PID

	if err := syscall.Kill(third, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	events.wait(ctx, t, "starting it again")
	if fourth := askNode(t, r.URL()).PID; fourth == third {
		t.Errorf("the node is still %d after it died", third)
	}
}

// A node that cannot start ends the rack, and the error has the node's words.
func TestHopelessNodeEndsTheRack(t *testing.T) {
	o := Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", StartOff: true, NodeConfig: map[string]any{"fail": true}}
	needRack(t, o)
	r, err := Start(t.Context(), o)
	if err == nil {
		err = r.Wait()
	}
	if err == nil || !strings.Contains(err.Error(), "bad key") {
		t.Errorf("rack ended with %v, want the node's last words", err)
	}
}

// Disks change places with their identity, and only while the power is off.
func TestDisksAreSwapped(t *testing.T) {
	r := testRack(t, Options{MemoryMB: 128, Disks: 2, DiskBytes: 1 << 20})
	c, ctx := r.Client(), patience(t)
	before, err := c.Machine(ctx, "m1")
	if err != nil {
		t.Fatal(err)
	}
	swapped := slices.Clone(before.Disks)
	slices.Reverse(swapped)
	if err := c.SetDisks(ctx, "m1", swapped); err == nil {
		t.Error("disks were changed in a running machine")
	}
	if err := c.ReplaceDisks(ctx, "m1", swapped); err != nil {
		t.Fatal(err)
	}
	answer, err := c.QMP(ctx, "m1", "query-block", nil)
	if err != nil {
		t.Fatal(err)
	}
	slot0 := strings.Index(string(answer), `"device": "disk0"`)
	if slot0 < 0 {
		slot0 = strings.Index(string(answer), `"device":"disk0"`)
	}
	first, second := strings.Index(string(answer), swapped[0].Path), strings.Index(string(answer), swapped[1].Path)
	if slot0 < 0 || first < 0 || second < 0 || first > second {
		t.Errorf("slot 0 should hold %s: %s", swapped[0].Path, answer)
	}
	if info, err := os.Stat(swapped[0].Path); err != nil || info.Size() != 1<<20 {
		t.Errorf("disk file: %v, %v", info, err)
	}
}

// QEMU takes every kind of machine there is.
func TestEveryKindOfMachineStarts(t *testing.T) {
	tests := map[string]Options{
		"nvme":   {DiskBus: "nvme", Disks: 3},
		"ahci":   {DiskBus: "ahci", Disks: 6, NIC: "e1000"},
		"scsi":   {DiskBus: "scsi", Disks: 2, NIC: "e1000e"},
		"server": {BMC: true, RTC: "1970-01-01", CPUs: 4, Firmware: []string{"uefi"}},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			o.MemoryMB, o.DiskBytes = 128, 1<<20
			r := testRack(t, o)
			answer, err := r.Client().QMP(patience(t), "m1", "query-status", nil)
			if err != nil || !strings.Contains(string(answer), `"running"`) {
				t.Errorf("machine is %s, %v; want it running", answer, err)
			}
		})
	}
}

// A request the rack cannot follow is answered with what is wrong.
func TestControlRefuses(t *testing.T) {
	r := testRack(t, Options{StartOff: true})
	c, ctx := r.Client(), patience(t)
	good := Disk{Path: "/d.raw", Bytes: 1 << 20, Serial: "S1", Bus: "virtio"}
	bad := func(change func(*Disk)) []Disk { d := good; change(&d); return []Disk{d} }
	disks := func(d []Disk) error { return c.SetDisks(ctx, "m1", d) }
	tests := map[string]struct {
		err  error
		want string
	}{
		"unknown machine": {c.PowerOn(ctx, "m9"), `"m9"`},
		"unknown node":    {c.CutNode(ctx, "n2"), `"n2"`},
		"cut from itself": {c.CutPair(ctx, "n1", "n1"), "itself"},
		"reset when off":  {c.Reset(ctx, "m1"), "no power"},
		"type when off":   {c.Type(ctx, "m1", "x"), "no power"},
		"bad pattern":     {second(c.WaitSerial(ctx, "m1", "(", 0)), "missing closing"},
		"bus":             {disks(bad(func(d *Disk) { d.Bus = "tape" })), "tape"},
		"serial":          {disks(bad(func(d *Disk) { d.Serial = "a,b" })), "serial"},
		"path":            {disks(bad(func(d *Disk) { d.Path = "d.raw" })), "absolute"},
		"size":            {disks(bad(func(d *Disk) { d.Bytes = 100 })), "sectors"},
		"wwn":             {disks(bad(func(d *Disk) { d.WWN = "0x5000c50077000100" })), "wwn"},
		"one disk twice":  {disks([]Disk{good, good}), "two slots"},
	}
	for name, tt := range tests {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", name, tt.err, tt.want)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// While a rack lives nobody else gets its directory; afterwards anybody does.
func TestSecondRackIsRefused(t *testing.T) {
	r := testRack(t, Options{StartOff: true})
	_, err := Start(t.Context(), Options{Dir: r.dir, Listen: "127.0.0.1:0", Reset: true})
	if err == nil || !strings.Contains(err.Error(), "already running") {
		t.Fatalf("a second rack in %s: %v, want it refused", r.dir, err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	testRack(t, Options{Dir: r.dir, StartOff: true})
}

// With a real dnsmasq on the wire machines have an address from it, while the
// node runs beside it.
func TestExternalDHCP(t *testing.T) {
	r := testRack(t, Options{MemoryMB: 128, DiskBytes: 1 << 20, ExternalDHCP: true})
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Second)
	defer cancel()
	m, err := r.Client().WaitSerial(ctx, "m1", `net0: 10\.77\.0\.\d+/255`, 0)
	if err != nil {
		t.Fatal(err)
	}
	leases, err := os.ReadFile(filepath.Join(r.dir, "dnsmasq.leases"))
	if err != nil || !strings.Contains(string(leases), "52:54:00:77:00:01") {
		t.Errorf("m1 says %q, but dnsmasq's leases (%v) are:\n%s", m.Text, err, leases)
	}
}

// A rack without the DHCP server it was to have is no rack: it ends and says why.
func TestDeadDHCPServerEndsTheRack(t *testing.T) {
	o := Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", StartOff: true, ExternalDHCP: true}
	needRack(t, o)
	r, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processesOf(t, o.Dir, 0) {
		if pid, command, _ := strings.Cut(p, "/cmdline "); strings.HasPrefix(command, "dnsmasq ") {
			n, err := strconv.Atoi(filepath.Base(pid))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := r.Wait(); err == nil || !strings.Contains(err.Error(), "dnsmasq ended") {
		t.Errorf("rack ended with %v, want it to name dnsmasq", err)
	}
}

// An emulator that falls over is a power cut to its machine: power comes back. One
// that was killed on purpose stays dead.
func TestPowerComesBackAfterACrashOfTheEmulator(t *testing.T) {
	events := newEvents()
	r := testRack(t, Options{MemoryMB: 128, DiskBytes: 1 << 20, Out: events})
	c, ctx := r.Client(), patience(t)
	first, err := c.Machine(ctx, "m1")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first.PID, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	events.wait(ctx, t, "power is back")
	var second MachineState
	for second.PID == 0 || second.PID == first.PID {
		if second, err = c.Machine(ctx, "m1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Kill(second.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	events.wait(ctx, t, "signal: killed")
	if m, err := c.Machine(ctx, "m1"); err != nil || m.Power {
		t.Errorf("power is %v (%v) after its emulator was killed", m.Power, err)
	}
}
