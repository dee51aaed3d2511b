package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

const fleetEnv = "LPMOS_TEST_FLEET"

// A rack is powered on: every machine reaches the agent, no address is given
// twice, and nothing is sent again.
func TestARackPoweredOnAtOnce(t *testing.T) {
	const machines = 60
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	s.timePasses() // all machines of this test fetch from one address, more than is allowed in a second
	w.start(s)
	out := filepath.Join(t.TempDir(), "fleet")
	cmd := w.command(os.Args[0], "-test.run=^TestFleetProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", fleetEnv, machines, out))
	begin := time.Now()
	if o, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, o)
	}
	t.Logf("%d machines in %.2f s; %v", machines, time.Since(begin).Seconds(), s.Stats())
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, addr := range strings.Fields(string(b)) {
		if seen[addr] {
			t.Errorf("%s was given twice", addr)
		}
		seen[addr] = true
	}
	if len(seen) != machines {
		t.Errorf("%d machines have an address, want %d", len(seen), machines)
	}
	if st := s.Stats(); st["http.script"] != machines || st["tftp.sent"] != machines || st["tftp.failed"] != 0 || st["dhcp.nak"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// TestFleetProcess is the rack.
func TestFleetProcess(t *testing.T) {
	var machines int
	var out string
	if n, err := fmt.Sscan(os.Getenv(fleetEnv), &machines, &out); n != 2 || err != nil {
		t.Skip("started by other tests only")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pw, err := pxeclient.OpenWire(ctx, "v1", func(_ context.Context, p netip.Prefix) error {
		return exec.Command("ip", "address", "replace", p.String(), "dev", "v1").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var addrs []string
	for i := range machines {
		wg.Go(func() {
			n := pw.Client()
			defer n.Close()
			c := pxeclient.Client{
				Shape: []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI}[i%2],
				MAC:   net.HardwareAddr{0x52, 0x54, 0, 1, byte(i >> 8), byte(i)}, Net: n,
			}
			res, err := c.Boot(ctx)
			if err != nil || res.Outcome != pxeclient.Kernel {
				t.Errorf("machine %d: %q, %v", i, res.Outcome, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			addrs = append(addrs, res.Loader.Addr.Addr().String())
		})
	}
	wg.Wait()
	if err := os.WriteFile(out, []byte(strings.Join(addrs, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
}
