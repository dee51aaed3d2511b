//go:build journey

package journey

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/lab"
)

const bareMAC = "52:54:00:56:00:01"

// bare is one machine with a disk, started by QEMU with the agent's kernel and a
// command line of the test's own. Its console is read until the end.
type bare struct {
	t    *testing.T
	disk string
	line chan string
}

func startBare(t *testing.T, rtc, words string) *bare {
	t.Helper()
	dir := t.TempDir()
	b := &bare{t: t, disk: filepath.Join(dir, "disk.raw"), line: make(chan string, 10_000)}
	content := make([]byte, 1<<20)
	_, _ = rand.Read(content)
	if err := os.WriteFile(b.disk, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(b.disk, 64<<20); err != nil {
		t.Fatal(err)
	}
	assets := filepath.Join(repository(t), "images/bootimage/assets")
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot", "-monitor", "none",
		"-rtc", "base="+rtc, "-kernel", filepath.Join(assets, "vmlinuz"), "-initrd", filepath.Join(assets, "initrd"),
		"-append", "console=ttyS0,115200 lpmos.mac="+bareMAC+" "+words,
		"-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,mac="+bareMAC,
		"-drive", "if=virtio,format=raw,file="+b.disk)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			b.line <- strings.TrimRight(lines.Text(), "\r")
		}
		close(b.line)
	}()
	t.Cleanup(func() {
		cancel()
		<-read
		_ = cmd.Wait() // it was killed
	})
	return b
}

// says waits for a line of the console.
func (b *bare) says(want string) string {
	b.t.Helper()
	var all []string
	limit := time.After(patience)
	for {
		select {
		case l, on := <-b.line:
			if all = append(all, l); strings.Contains(l, want) {
				b.t.Log(l)
				return l
			}
			if on {
				continue
			}
		case <-limit:
		}
		b.t.Fatalf("the machine does not say %q:\n%s", want, strings.Join(all[max(0, len(all)-40):], "\n"))
	}
}

// node is one of a cluster, which takes reports and says wait. QEMU's network shows
// this host as 10.0.2.2.
func node(t *testing.T, c *pintest.Cluster, told chan wire.ReportRequest) (url string) {
	t.Helper()
	s := c.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/report"):
			var req wire.ReportRequest
			if json.Unmarshal(body, &req) == nil {
				told <- req
			}
			_ = json.NewEncoder(w).Encode(wire.ReportResponse{MachineID: "m1"})
		case strings.Contains(r.URL.Path, "/approval/"):
			select {
			case <-r.Context().Done():
			case <-time.After(2 * time.Second):
			}
			_ = json.NewEncoder(w).Encode(wire.ApprovalResponse{Verdict: wire.VerdictWait, Reason: "wait"})
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return "https://10.0.2.2:" + port
}

// A machine that cannot believe its node says why on its console, tells it nothing
// and leaves its disk alone.
func TestS56_AWrongPinStopsTheAgent(t *testing.T) {
	c := pintest.New(t)
	told := make(chan wire.ReportRequest, 100)
	words := fmt.Sprintf("lpmos.node=%s lpmos.time=%d lpmos.claim=x", node(t, c, told), time.Now().Unix())
	for name, tc := range map[string]struct{ pin, says string }{
		"no pin":                    {"", "STOPPED: the kernel command line has no lpmos.pin"},
		"a pin that is none":        {" lpmos.pin=12", "STOPPED: lpmos.pin on the kernel command line"},
		"a pin that is there twice": {" lpmos.pin=" + c.Pin().String() + " lpmos.pin=" + pin.Pin{1}.String(), "STOPPED: lpmos.pin on the kernel command line: it is there twice"},
		"another cluster's pin":     {" lpmos.pin=" + pin.Pin{1}.String(), "is not believed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBare(t, "utc", words+tc.pin)
			before := hashFile(t, b.disk)
			b.says(tc.says)
			b.says("nothing was changed on this machine")
			if hashFile(t, b.disk) != before {
				t.Error("the disk was written")
			}
			if len(told) > 0 {
				t.Errorf("a node that is not believed was told %+v", <-told)
			}
		})
	}
}

// Whatever the clock of a machine shows, it believes its node, and its clock is set
// only then; the node is told how far it was off.
func TestS53_AClockOfAnyYear(t *testing.T) {
	for _, year := range []int{1970, 2000, 2099} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			c := pintest.New(t)
			told := make(chan wire.ReportRequest, 100)
			b := startBare(t, fmt.Sprintf("%d-01-01", year), fmt.Sprintf("lpmos.node=%s lpmos.time=%d lpmos.claim=x lpmos.pin=%s", node(t, c, told), time.Now().Unix(), c.Pin()))
			// What the clock shows is between QEMU and the kernel, which disagree about
			// years as far away as 2099; that it is far off is enough.
			_, was, _ := strings.Cut(b.says("clock: was "), "clock: was ")
			showed, err := time.Parse(time.DateTime, was[:len(time.DateTime)])
			off := time.Until(showed)
			if err != nil || off.Abs() < 365*24*time.Hour {
				t.Fatalf("the clock showed %q, %v", was, err)
			}
			b.says("this is machine m1")
			if got := time.Duration((<-told).ClockOff) * time.Second; (got - off).Abs() > time.Hour {
				t.Errorf("the clock is said to be off by %s, it is by %s", got, off)
			}
		})
	}
}

// A whole install at a machine whose clock is far ahead.
func TestS53_AnInstallWithAClockOf2099(t *testing.T) {
	r := newRack(t, lab.Options{Machines: 1, RTC: "2099-01-01"})
	m := r.state().Machines[0]
	r.powerOn(m.Name)
	r.machineOf(m.MAC)
	done := r.until(r.approve(m.MAC, "web-2099", "").ID, "completes", completed)
	t.Logf("approve to installed %.1f s", done.FinishedAt.Sub(done.Approval.At).Seconds())
}
