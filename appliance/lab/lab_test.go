package lab

import (
	"context"
	"fmt"
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
// "lab inner" and as a node's "up".
func TestMain(m *testing.M) {
	args := os.Args[1:]
	switch {
	case slices.Equal(args, []string{"lab", "inner"}):
		exit(Inner(context.Background()))
	case slices.Equal(args, []string{"lab", "fleet"}):
		exit(fleetForTest())
	case len(args) >= 3 && args[0] == "up" && args[1] == "--config":
		exit(runFakeNode(args[2], args[3:]))
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
	return Up(ctx, Options{Dir: dir, Listen: "127.0.0.1:0", Nodes: 2, Machines: 2, MemoryMB: 64, DiskBytes: 1 << 20, ExternalDHCP: true, Out: os.Stdout})
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
