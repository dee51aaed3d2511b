package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// The node gets the host's listener and sees the rack's network, nothing else.
func TestNodeLivesInTheRack(t *testing.T) {
	r := testRack(t, Options{Machines: 2, StartOff: true})
	seen := askNode(t, r)
	slices.Sort(seen.Links)
	if want := []string{"lo", "rack0", "tap1", "tap2"}; !slices.Equal(seen.Links, want) {
		t.Errorf("node sees links %v, want %v", seen.Links, want)
	}
	s, err := r.Client().State(patience(t))
	if err != nil {
		t.Fatal(err)
	}
	if s.NodePID != seen.PID || s.URL != r.URL() {
		t.Errorf("state says node %d at %s, it is %d at %s", s.NodePID, s.URL, seen.PID, r.URL())
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
	first := askNode(t, r).PID

	if err := c.KillNode(ctx, true); err != nil {
		t.Fatal(err)
	}
	second := askNode(t, r).PID
	if second == first {
		t.Fatalf("the node survived kill -9 as %d", first)
	}

	if err := c.KillNode(ctx, false); err != nil {
		t.Fatal(err)
	}
	if s, err := c.State(ctx); err != nil || s.NodePID != 0 {
		t.Fatalf("node is %d (%v), want it dead", s.NodePID, err)
	}
	if err := c.KillNode(ctx, false); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("killing a dead node: %v, want an error that says so", err)
	}
	if err := c.StartNode(ctx); err != nil {
		t.Fatal(err)
	}
	third := askNode(t, r).PID

	if err := syscall.Kill(third, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	events.wait(ctx, t, "starting it again")
	if fourth := askNode(t, r).PID; fourth == third {
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

// However a rack ends, no process of it stays, and after an orderly end no
// socket either.
func TestNothingStays(t *testing.T) {
	tests := map[string]struct {
		end     func(up *os.Process, s State, c *Client) error
		orderly bool
	}{
		"Ctrl-C":                 {func(up *os.Process, _ State, _ *Client) error { return up.Signal(os.Interrupt) }, true},
		"control socket":         {func(_ *os.Process, _ State, c *Client) error { return c.Stop(context.Background()) }, true},
		"kill -9 of the outside": {func(up *os.Process, _ State, _ *Client) error { return up.Kill() }, false},
		"kill -9 of the inside":  {func(_ *os.Process, s State, _ *Client) error { return syscall.Kill(s.PID, syscall.SIGKILL) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir, out := t.TempDir(), newEvents()
			needRack(t, Options{Dir: dir, ExternalDHCP: true})
			up := exec.Command(os.Args[0], "lab", "up", dir)
			up.Stdout, up.Stderr = out, out
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { up.Process.Kill() })
			out.wait(patience(t), t, "m2    power on")
			c := NewClient(dir)
			s, err := c.State(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			running := func() []string { return processesOf(t, dir, s.PID) }
			// Outside, inside, node, dnsmasq and two machines.
			if members := running(); len(members) != 6 {
				t.Fatalf("a running rack is %q, want 6 processes", members)
			}
			if err := tt.end(up.Process, s, c); err != nil {
				t.Fatal(err)
			}
			if err := up.Wait(); (err == nil) != tt.orderly {
				t.Errorf("lab up ended with %v and said\n%s", err, out)
			}
			// The kernel takes the children of a killed process at its own pace.
			waitUntil(t, func() error {
				if left := running(); len(left) > 0 {
					return fmt.Errorf("still there: %q", left)
				}
				return nil
			})
			if _, err := os.Stat(socketPath(dir)); tt.orderly != os.IsNotExist(err) {
				t.Errorf("control socket: %v", err)
			}
			if _, err := http.Get(s.URL); err == nil {
				t.Error("the dashboard's address still answers")
			}
			if tt.orderly && !strings.Contains(out.String(), "nothing of it runs any more") {
				t.Errorf("lab up did not say goodbye:\n%s", out)
			}
			// Nor does anything keep the next one from starting.
			testRack(t, Options{Dir: dir, StartOff: true})
		})
	}
}

// processesOf lists the processes whose command line names the rack's
// directory, and the inside, whose does not.
func processesOf(t *testing.T, dir string, inside int) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		line, err := os.ReadFile(f)
		text := strings.ReplaceAll(string(line), "\x00", " ")
		ours := strings.Contains(text, dir) || f == fmt.Sprintf("/proc/%d/cmdline", inside) && text != ""
		if err == nil && ours {
			found = append(found, f+" "+text)
		}
	}
	return found
}

// waitUntil asks again until the answer is nil. It is for conditions the
// kernel brings about, of which nobody can tell us.
func waitUntil(t *testing.T, condition func() error) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal(err)
		}
	}
}

// The host's links are the same before, while and after a rack runs. The test
// runs itself again in a namespace of its own, that stands for the host: on a real
// one other programs come and go.
func TestHostLinksStayAsTheyAre(t *testing.T) {
	const marker = "LPMOS_LAB_TEST_HOST"
	if os.Getenv(marker) == "" {
		needRack(t, Options{Dir: t.TempDir()})
		cmd := exec.Command(os.Args[0], "-test.run=^TestHostLinksStayAsTheyAre$", "-test.v")
		cmd.Env = append(os.Environ(), marker+"=1")
		cmd.SysProcAttr = namespaceAttr(os.Geteuid(), os.Getegid())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := ip([]string{"link set lo up", "link add eth7 type veth peer name eth8", "link set eth7 up"}); err != nil {
		t.Fatal(err)
	}
	links := func() string {
		out, err := exec.Command("ip", "-o", "link").CombinedOutput()
		if err != nil {
			t.Fatal(err, string(out))
		}
		return string(out)
	}
	before := links()
	r, err := Start(t.Context(), Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Machines: 2, MemoryMB: 64, DiskBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if now := links(); now != before {
		t.Errorf("links changed while the rack runs:\n%s\nwere\n%s", now, before)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if after := links(); after != before {
		t.Errorf("links changed by the rack:\n%s\nwere\n%s", after, before)
	}
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

// events collects what the rack prints.
type events struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{}
}

func newEvents() *events { return &events{grown: make(chan struct{})} }

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text.Write(p)
	close(e.grown)
	e.grown = make(chan struct{})
	return len(p), nil
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.String()
}

func (e *events) wait(ctx context.Context, t *testing.T, word string) {
	t.Helper()
	for {
		e.mu.Lock()
		text, grown := e.text.String(), e.grown
		e.mu.Unlock()
		if strings.Contains(text, word) {
			return
		}
		select {
		case <-grown:
		case <-ctx.Done():
			t.Fatalf("the rack never said %q:\n%s", word, text)
		}
	}
}
