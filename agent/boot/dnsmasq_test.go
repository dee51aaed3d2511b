package boot

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// insideVar marks the copy of the test that runs in a network of its own.
const insideVar = "LPMOS_BOOT_TEST_INSIDE"

// TestAgainstDnsmasq gets an address from a real DHCP server over a real socket,
// puts it on a real interface, and renews it.
func TestAgainstDnsmasq(t *testing.T) {
	if os.Getenv(insideVar) == "" {
		for _, tool := range []string{"dnsmasq", "ip", "nsenter"} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%s is not installed", tool)
			}
		}
		if os.Getuid() != 0 {
			t.Skip("a network namespace needs root")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestAgainstDnsmasq$", "-test.v")
		cmd.Env = append(os.Environ(), insideVar+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	// The server lives in a third network, held open by a process that waits.
	holder := exec.Command("sleep", "60")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	pid := strconv.Itoa(holder.Process.Pid)
	there := func(args ...string) []string { return append([]string{"nsenter", "-t", pid, "-n"}, args...) }
	for _, args := range [][]string{
		{"ip", "link", "add", "srv", "type", "veth", "peer", "name", "cli"},
		{"ip", "link", "set", "srv", "netns", pid},
		there("ip", "addr", "add", "10.77.0.1/24", "dev", "srv"),
		there("ip", "link", "set", "srv", "up"),
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	args := there("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=srv", "--bind-interfaces",
		"--dhcp-authoritative", "--no-ping", "--dhcp-range=10.77.0.100,10.77.0.150,10m", "--dhcp-option=3,10.77.0.1", "--pid-file=",
		"--user=root", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	server := exec.Command(args[0], args[1:]...)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()

	if err := linkUp("cli"); err != nil {
		t.Fatal(err)
	}
	ifc, err := net.InterfaceByName("cli")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n := &Network{Rand: func() uint32 { return 77 }, Say: t.Logf}
	waits := make([]time.Duration, 40)
	for i := range waits {
		waits[i] = 500 * time.Millisecond // the server may still be starting
	}
	l, err := n.acquire(ctx, *ifc, waits)
	if err != nil {
		t.Fatal(err)
	}
	if l.Address.Bits() != 24 || !netip.MustParsePrefix("10.77.0.0/24").Contains(l.Address.Addr()) || l.Router != netip.MustParseAddr("10.77.0.1") || l.Time != 10*time.Minute {
		t.Errorf("lease %+v", l)
	}
	addrs, err := ifc.Addrs()
	if err != nil || len(addrs) == 0 || addrs[0].String() != l.Address.String() {
		t.Errorf("on the interface: %v %v", addrs, err)
	}
	next, err := n.renewOnce(ctx, l, false)
	if err != nil || next.Address != l.Address {
		t.Errorf("renewed: %+v %v", next, err)
	}
}
