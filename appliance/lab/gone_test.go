package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
			// Outside, inside, two nodes, dnsmasq and two machines.
			if members := running(); len(members) != 7 {
				t.Fatalf("a running rack is %q, want 7 processes", members)
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
			for _, n := range s.Nodes {
				if _, err := http.Get(n.URL); err == nil {
					t.Errorf("the dashboard's address of %s still answers", n.Name)
				}
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
