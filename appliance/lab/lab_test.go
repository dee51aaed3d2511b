package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary stand in for lpmos: the rack runs it as
// "lab inner" and as the node's "serve".
func TestMain(m *testing.M) {
	args := os.Args[1:]
	switch {
	case slices.Equal(args, []string{"lab", "inner"}):
		exit(Inner(context.Background()))
	case len(args) == 3 && args[0] == "serve" && args[1] == "--config":
		exit(fakeNode(args[2]))
	case len(args) == 3 && args[0] == "lab" && args[1] == "up":
		exit(upForTest(args[2]))
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// upForTest is "lab up": a rack that Ctrl-C ends.
func upForTest(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	return Up(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", Machines: 2, MemoryMB: 64, DiskBytes: 1 << 20, ExternalDHCP: true, Out: os.Stdout})
}

// fakeNode is a node that only says who it is and what it sees.
func fakeNode(config string) error {
	content, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	if strings.Contains(string(content), "fail: true") {
		return fmt.Errorf("configuration line 1: bad key")
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var seen nodeView
		seen.PID = os.Getpid()
		links, _ := net.Interfaces()
		for _, l := range links {
			seen.Links = append(seen.Links, l.Name)
		}
		json.NewEncoder(w).Encode(seen)
	})}
	go server.Serve(l)
	<-ctx.Done()
	return server.Close()
}

type nodeView struct {
	PID   int
	Links []string
}

// askNode asks the node by the dashboard's address on the host.
func askNode(t *testing.T, r *Rack) nodeView {
	t.Helper()
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(r.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var v nodeView
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// testRack starts a rack for a test and stops it afterwards.
func testRack(t *testing.T, o Options) *Rack {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	o.Listen = "127.0.0.1:0"
	if o.Out == nil {
		o.Out = logWriter{t}
	}
	needRack(t, o)
	r, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("the rack did not end well: %v", err)
		}
	})
	return r
}

// needRack skips where QEMU is not installed or the device is out of reach.
func needRack(t *testing.T, o Options) {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkNeeds(needs(o), hasProgramOrFile); err != nil {
		t.Skip(err)
	}
	if err := checkTun(); err != nil {
		t.Skip(err)
	}
}

// logWriter prints the rack's events into the test's log.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	return w.t.Output().Write(p)
}

// A BIOS machine on a wire with no DHCP server reaches iPXE, and all it says
// is on its console and in its logs. Then the plug is pulled.
func TestMachineReachesFirmware(t *testing.T) {
	r := testRack(t, Options{MemoryMB: 128, DiskBytes: 1 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	c := r.Client()
	banner, err := c.WaitSerial(ctx, "m1", `iPXE \(http`, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1fs: %s", banner.Elapsed, banner.Text)
	// The card in the machine is the one on the tap.
	if _, err := c.WaitSerial(ctx, "m1", `52:54:00:77:00:01`, 0); err != nil {
		t.Fatal(err)
	}
	m, err := c.Machine(ctx, "m1")
	if err != nil {
		t.Fatal(err)
	}
	if !m.Power || m.PID == 0 || m.Since.IsZero() {
		t.Errorf("machine is %+v, want it to have power", m)
	}
	timed, err := os.ReadFile(filepath.Join(m.Dir, "serial.timed.log"))
	if err != nil || !strings.Contains(string(timed), banner.Text) {
		t.Errorf("timed log (%v) lacks %q:\n%s", err, banner.Text, timed)
	}

	before := m.Lines
	if err := c.Reset(ctx, "m1"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WaitSerial(ctx, "m1", `iPXE \(http`, before); err != nil {
		t.Fatal(err)
	}
	if err := c.PowerOff(ctx, "m1"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.PID, 0); err != syscall.ESRCH {
		t.Errorf("QEMU %d after power off: %v, want no such process", m.PID, err)
	}
}

// A UEFI machine reaches the iPXE in its card's ROM, or OVMF's own PXE when
// told so.
func TestUEFIReachesNetworkBoot(t *testing.T) {
	tests := map[string]struct {
		native bool
		want   string
	}{
		"iPXE ROM":   {false, `iPXE \d`},
		"native PXE": {true, `Start PXE over IPv4`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := testRack(t, Options{Firmware: []string{"uefi"}, NativePXE: tt.native, MemoryMB: 256, DiskBytes: 1 << 20})
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			m, err := r.Client().WaitSerial(ctx, "m1", tt.want, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%.1fs: %s", m.Elapsed, m.Text)
		})
	}
}
