//go:build journey

package journey

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/ui/api/client"
)

// netboots is how often a finished machine is made to netboot again.
const netboots = 10

// A machine with BIOS and one with UEFI, 512 MB of memory and a clock of 1970
// are installed at the same time; what was written is what the image holds, and
// from then on they boot their own disks, however often they netboot.
func TestFromPowerOnToInstalledSystem(t *testing.T) {
	r := newRack(t, lab.Options{Machines: 2, Firmware: []string{"bios", "uefi"}, RTC: "1970-01-01"})
	machines := r.state().Machines
	ids := map[string]string{} // machine → task
	for _, m := range machines {
		r.powerOn(m.Name)
	}
	for _, m := range machines {
		r.reportedAsBuilt(m)
		// The agent's restart switches the machine off, so that its disk can be
		// looked at before the installed system touches it.
		if _, err := r.c.QMP(r.ctx, m.Name, "set-action", map[string]string{"reboot": "shutdown"}); err != nil {
			t.Fatal(err)
		}
		ids[m.Name] = r.approve(m.MAC, "web-"+m.Firmware, "").ID
	}
	for _, m := range machines {
		done := r.until(ids[m.Name], "completes", completed)
		t.Logf("%s: approve to installed %.1f s", m.Firmware, done.FinishedAt.Sub(done.Approval.At).Seconds())
		r.await(m.Name+" has no power", func() bool { return !r.power(m.Name) })
		sameAsImage(t, m.Disks[0].Path, tinyImage(t))
	}
	for _, m := range machines {
		before := r.lines(m.Name)
		r.powerOn(m.Name)
		on := r.since(m.Name)
		login := r.waitSerial(m.Name, `web-`+m.Firmware+` login:`, before)
		up := r.until(ids[m.Name], "comes up", cameUp)
		if up.CameUp.Hostname != "web-"+m.Firmware {
			t.Errorf("%s came up as %q", m.Name, up.CameUp.Hostname)
		}
		t.Logf("%s: power-on to login prompt from its own disk %.1f s", m.Firmware, login.At.Sub(on).Seconds())
	}
	r.bootsItsOwnDisk(machines)
}

// reportedAsBuilt checks that the agent found the machine the rack built.
func (r *rack) reportedAsBuilt(m lab.MachineState) {
	r.t.Helper()
	found := r.machineOf(m.MAC)
	r.t.Logf("%s: power-on to report %.1f s", m.Firmware, found.ReportedAt.Sub(r.since(m.Name)).Seconds())
	inv := found.Inventory
	if inv.System.Serial != m.Serial || !strings.EqualFold(inv.System.UUID, m.UUID) || inv.Firmware.Mode != m.Firmware {
		r.t.Errorf("%s reports serial %q, uuid %q, firmware %q", m.Name, inv.System.Serial, inv.System.UUID, inv.Firmware.Mode)
	}
	if inv.CPU.Threads != m.CPUs || inv.Virtualization == "" || len(inv.Memory.DIMMs) == 0 || len(inv.PCI) == 0 {
		r.t.Errorf("%s reports too little: cpu %+v, %d DIMMs, %d PCI functions, virtualisation %q", m.Name, inv.CPU, len(inv.Memory.DIMMs), len(inv.PCI), inv.Virtualization)
	}
	if len(inv.Disks) != len(m.Disks) {
		r.t.Fatalf("%s reports %d disks, it has %d", m.Name, len(inv.Disks), len(m.Disks))
	}
	for i, d := range m.Disks {
		if inv.Disks[i].Serial != d.Serial || inv.Disks[i].SizeBytes != uint64(d.Bytes) {
			r.t.Errorf("%s reports disk %q of %d bytes, built was %q of %d", m.Name, inv.Disks[i].Serial, inv.Disks[i].SizeBytes, d.Serial, d.Bytes)
		}
	}
}

// bootsItsOwnDisk netboots finished machines again and again: each time they
// come up from their disks, and not a byte of those changes.
func (r *rack) bootsItsOwnDisk(machines []lab.MachineState) {
	r.t.Helper()
	before := map[string]string{}
	for _, m := range machines {
		if err := r.c.PowerOff(r.ctx, m.Name); err != nil {
			r.t.Fatal(err)
		}
		before[m.Name] = hashFile(r.t, m.Disks[0].Path)
	}
	for n := range netboots {
		from := map[string]int{}
		for _, m := range machines {
			from[m.Name] = r.lines(m.Name)
			if n == 0 {
				r.powerOn(m.Name)
			} else if err := r.c.Reset(r.ctx, m.Name); err != nil {
				r.t.Fatal(err)
			}
		}
		for _, m := range machines {
			r.waitSerial(m.Name, `web-`+m.Firmware+` login:`, from[m.Name])
		}
	}
	for _, m := range machines {
		if err := r.c.PowerOff(r.ctx, m.Name); err != nil {
			r.t.Fatal(err)
		}
		if got := hashFile(r.t, m.Disks[0].Path); got != before[m.Name] {
			r.t.Errorf("%s: the disk changed over %d netboots", m.Name, netboots)
		}
	}
	r.t.Logf("%d netboots each, disks unchanged", netboots)
}

// Of two disks only the approved one is written, also when they have changed
// places; a disk that was exchanged voids the approval.
func TestTheRightDisk(t *testing.T) {
	r := newRack(t, lab.Options{Machines: 2, Disks: 2})
	for _, m := range r.state().Machines {
		for _, d := range m.Disks {
			fill(t, d.Path, d.Bytes)
		}
		r.powerOn(m.Name)
	}
	swapped, exchanged := r.state().Machines[0], r.state().Machines[1]

	keep, write := swapped.Disks[0], swapped.Disks[1]
	kept := hashFile(t, keep.Path)
	id := r.approvedThenOff(swapped, write.Serial)
	if err := r.c.SetDisks(r.ctx, swapped.Name, []lab.Disk{write, keep}); err != nil {
		t.Fatal(err)
	}

	gone := exchanged.Disks[1]
	other := gone
	other.Path, other.Serial = gone.Path+".other", "ANOTHER-DISK"
	fill(t, other.Path, other.Bytes)
	hashes := []string{hashFile(t, exchanged.Disks[0].Path), hashFile(t, other.Path)}
	voided := r.approvedThenOff(exchanged, gone.Serial)
	if err := r.c.SetDisks(r.ctx, exchanged.Name, []lab.Disk{exchanged.Disks[0], other}); err != nil {
		t.Fatal(err)
	}
	r.powerOn(swapped.Name)
	r.powerOn(exchanged.Name)

	r.until(id, "completes", completed)
	if hashFile(t, keep.Path) != kept {
		t.Error("the disk that was not approved was written")
	}
	back := r.until(voided, "needs review", func(t task) bool { return t.Status == wire.StatusNeedsReview })
	why := ""
	for _, l := range back.Logs {
		why += l.Text + "\n"
	}
	if !strings.Contains(why, "the approval is void") || back.Problem == "" {
		t.Errorf("nobody says why: problem %q, log\n%s", back.Problem, why)
	}
	if err := r.c.PowerOff(r.ctx, exchanged.Name); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{exchanged.Disks[0].Path, other.Path} {
		if hashFile(t, path) != hashes[i] {
			t.Errorf("%s was written", path)
		}
	}
}

// approvedThenOff approves a machine's plan while it cannot act on it, and takes
// its power away.
func (r *rack) approvedThenOff(m lab.MachineState, disk string) (taskID string) {
	r.t.Helper()
	r.machineOf(m.MAC)
	if _, err := r.c.QMP(r.ctx, m.Name, "stop", nil); err != nil {
		r.t.Fatal(err)
	}
	made := r.approve(m.MAC, "", disk)
	if made.Plan.Erase.Serial != disk || len(made.Plan.Untouched) != 1 {
		r.t.Fatalf("the plan erases %s and leaves %d disks", made.Plan.Erase, len(made.Plan.Untouched))
	}
	if err := r.c.PowerOff(r.ctx, m.Name); err != nil {
		r.t.Fatal(err)
	}
	return made.ID
}

// The node is killed at random moments of installs. Every install finishes,
// none is approved twice, and progress goes on from where it was.
func TestNodeKilled(t *testing.T) {
	kills := runs(t, 3)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	r := newRack(t, lab.Options{})
	m := r.state().Machines[0]
	r.powerOn(m.Name)
	for n := range kills {
		r.machineOf(m.MAC)
		if n > 0 {
			// An installed machine boots its own disk until a task wants it.
			if err := r.c.Reset(r.ctx, m.Name); err != nil {
				t.Fatal(err)
			}
		}
		r.killedOnce(m, n, random.Float64()*100)
	}
}

// runs is how many installs LPMOS_KILLS asks for.
func runs(t *testing.T, usual int) int {
	t.Helper()
	s := os.Getenv("LPMOS_KILLS")
	if s == "" {
		return usual
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("LPMOS_KILLS: %v", err)
	}
	return n
}

// erasedOnce checks that a person decided once and a disk was erased once.
func (r *rack) erasedOnce(done task) {
	r.t.Helper()
	approved, erased := 0, 0
	for _, l := range done.Logs {
		if strings.HasPrefix(l.Text, "approved by") {
			approved++
		}
		if strings.Contains(l.Text, "may erase") {
			erased++
		}
	}
	if approved != 1 || erased != 1 || done.Generation != 1 {
		r.t.Errorf("task %s was approved %d times, erased %d times, generation %d", done.ID, approved, erased, done.Generation)
	}
}

// killedOnce runs one install with the node killed once it has come to at percent.
func (r *rack) killedOnce(m lab.MachineState, n int, at float64) {
	r.t.Helper()
	var made task
	code, text := r.call("POST", "/api/v1/tasks", map[string]any{"target_mac": m.MAC, "os_type": "tiny",
		"network_config": map[string]any{"hostname": "run-" + strconv.Itoa(n)}}, &made)
	if code != 201 {
		r.t.Fatalf("make task: %d %s", code, text)
	}
	ready := r.until(made.ID, "can be approved", func(t task) bool { return t.Status == wire.StatusPendingApproval && t.PlanHash != "" })
	if code, text = r.call("PUT", "/api/v1/tasks/"+made.ID+"/approve", ready.approval(), nil); code != 200 {
		r.t.Fatalf("approve: %d %s", code, text)
	}
	last, killedAt := 0.0, -1.0
	r.await("the install finishes", func() bool {
		var now task
		if code, _ := r.call("GET", "/api/v1/tasks/"+made.ID, nil, &now); code != 200 {
			return false
		}
		if now.Status == wire.StatusFailed {
			r.t.Fatalf("install failed after the kill at %.0f %%: %v", killedAt, now.Error)
		}
		if p := now.Progress; p != nil {
			// The newest percentages are ahead of the log by a second at most, so a
			// killed node may come back that much behind; a stage never goes back.
			if killedAt < 0 && p.Percentage < last {
				r.t.Errorf("progress ran backwards: %.1f after %.1f", p.Percentage, last)
			}
			last = p.Percentage
		}
		if killedAt < 0 && (last >= at || now.Status == wire.StatusCompleted) {
			killedAt = last
			if err := r.c.KillNode(r.ctx, "n1", true); err != nil {
				r.t.Fatal(err)
			}
		}
		return now.Status == wire.StatusCompleted && killedAt >= 0
	})
	done := r.until(made.ID, "comes up", cameUp)
	r.erasedOnce(done)
	r.t.Logf("install %d: node killed at %.0f %% (aimed at %.0f %%), finished and came up", n+1, killedAt, at)
}

// Beside a real DHCP server the node gives no address: machines keep the one
// dnsmasq gave them and still boot from the node.
func TestBesideAnotherDHCPServer(t *testing.T) {
	r := newRack(t, lab.Options{Machines: 2, Firmware: []string{"bios", "uefi"}, NativePXE: true, ExternalDHCP: true})
	ids := map[string]string{}
	for _, m := range r.state().Machines {
		r.powerOn(m.Name)
	}
	for _, m := range r.state().Machines {
		addr, err := netip.ParseAddr(r.machineOf(m.MAC).Addresses[m.MAC])
		if err != nil || addr.Less(netip.MustParseAddr("10.77.0.50")) || netip.MustParseAddr("10.77.0.99").Less(addr) {
			t.Errorf("%s has address %v (%v), which is not dnsmasq's to give", m.Name, addr, err)
		}
		ids[m.Name] = r.approve(m.MAC, "proxy-"+m.Firmware, "").ID
	}
	for name, id := range ids {
		done := r.until(id, "comes up", cameUp)
		t.Logf("%s came up as %s", name, done.CameUp.Hostname)
	}
}

// The whole journey as a person sees it, in a real browser.
func TestInTheBrowser(t *testing.T) {
	r := newRack(t, lab.Options{})
	r.powerOn(r.state().Machines[0].Name)
	shots := filepath.Join(repository(t), "build/screenshots")
	if err := os.MkdirAll(shots, 0o755); err != nil {
		t.Fatal(err)
	}
	code, err := client.AtTheNode(r.Nodes()[0].DataDir()).NewLoginCode(r.ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(r.ctx, "node", "journey.mjs")
	cmd.Dir = filepath.Join(repository(t), "ui/e2e")
	cmd.Env = append(os.Environ(), "LPMOS_URL="+client.LoginLink(r.URL(), code.Code), "LPMOS_IMAGE=tiny", "LPMOS_SHOTS="+shots)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}

// sameAsImage checks the written disk against the image. The agent changes on
// purpose: the partition table at the front (protective MBR, GPT header and
// entries: 34 sectors), the image's own backup table at its end (33 sectors,
// moved to the end of the disk), and what lies behind the image (the grown root,
// the seed partition, the backup table).
func sameAsImage(t *testing.T, disk, image string) {
	t.Helper()
	a, b := open(t, disk), open(t, image)
	info, err := b.Stat()
	if err != nil {
		t.Fatal(err)
	}
	const sector, buffer = 512, 1 << 20
	from, to := int64(34*sector), info.Size()-33*sector
	x, y := make([]byte, buffer), make([]byte, buffer)
	for at := from; at < to; at += buffer {
		n := min(buffer, to-at)
		if _, err := io.ReadFull(io.NewSectionReader(a, at, n), x[:n]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(io.NewSectionReader(b, at, n), y[:n]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x[:n], y[:n]) {
			t.Fatalf("%s differs from the image between %d and %d", disk, at, at+n)
		}
	}
	t.Logf("%s: bytes %d to %d equal the image", filepath.Base(disk), from, to)
	if out, err := exec.Command("sgdisk", "-v", disk).CombinedOutput(); err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("the partition table is not in order: %v\n%s", err, out)
	}
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func hashFile(t *testing.T, path string) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, open(t, path)); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fill makes a disk full of a pattern that is no partition table.
func fill(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := bytes.Repeat([]byte("not to be erased "), 1<<16)
	for at := int64(0); at < size; at += 64 << 20 { // a block every 64 MiB keeps the file sparse
		if _, err := f.WriteAt(block[:min(int64(len(block)), size-at)], at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func (r *rack) lines(name string) int {
	m, err := r.c.Machine(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Lines
}

func (r *rack) power(name string) bool {
	m, err := r.c.Machine(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Power
}

func (r *rack) since(name string) time.Time {
	m, err := r.c.Machine(r.ctx, name)
	if err != nil {
		r.t.Fatal(err)
	}
	return m.Since
}
