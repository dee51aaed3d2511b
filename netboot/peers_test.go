package netboot

import (
	"bufio"
	"bytes"
	"errors"
	"net/netip"
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

// startDnsmasq runs dnsmasq beside the node.
func startDnsmasq(t *testing.T, w *wire, path string, more ...string) (stop func()) {
	t.Helper()
	return startBeside(t, w, []string{"sockets bound exclusively", "DHCP, IP range"}, append([]string{path, "-d", "--port=0", "--conf-file=/dev/null", "--interface=d1", "--bind-interfaces",
		"--dhcp-range=10.77.0.200,10.77.0.220,255.255.255.0,1h", "--no-ping", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"),
		"--user=root", "--log-facility=-", "--dhcp-authoritative"}, more...)...)
}

// startKea runs Kea's DHCPv4 server beside the node.
func startKea(t *testing.T, w *wire) (stop func()) {
	t.Helper()
	path, err := exec.LookPath("kea-dhcp4")
	if err != nil {
		t.Skip("kea-dhcp4 is not installed")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(config, []byte(`{"Dhcp4": {"interfaces-config": {"interfaces": ["d1"]},
		"lease-database": {"type": "memfile", "persist": false}, "valid-lifetime": 3600,
		"subnet4": [{"subnet": "10.77.0.0/24", "pools": [{"pool": "10.77.0.200 - 10.77.0.220"}]}],
		"loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "stderr"}], "severity": "INFO"}]}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	return startBeside(t, w, []string{"DHCP4_STARTED"}, "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, path, "-c", config)
}

// startBeside runs a server in a namespace of its own, at 10.77.0.2 on d1, until it says
// one of the words by which it is known to be up.
func startBeside(t *testing.T, w *wire, up []string, args ...string) (stop func()) {
	t.Helper()
	sleep := exec.Command("sleep", "infinity")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(sleep.Process.Pid)
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	w.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	t.Cleanup(func() { w.run("ip", "link", "del", "d0") })
	w.run("ip", "link", "set", "d0", "master", "br0", "up")
	w.run("ip", "link", "set", "d1", "netns", pid)
	w.run("nsenter", "-t", pid, "-n", "ip", "address", "add", "10.77.0.2/24", "dev", "d1")
	w.run("nsenter", "-t", pid, "-n", "ip", "link", "set", "d1", "up")
	cmd := exec.Command("nsenter", append([]string{"-t", pid, "-n"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	t.Cleanup(stop)
	said := make(chan bool)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if slices.ContainsFunc(up, func(word string) bool { return strings.Contains(sc.Text(), word) }) {
				select {
				case said <- true:
				default:
				}
			}
		}
	}()
	select {
	case <-said:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come up", args[0])
	}
	return stop
}

// The DHCP clients people have: each gets an address, keeps it, and gives it
// back.
func TestRealClients(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	w.start(s)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	// Both clients tell their script what they got, under different names.
	body := "#!/bin/sh\necho \"$reason$1 $new_ip_address$ip $new_subnet_mask$subnet $new_routers$router $new_domain_name_servers$dns $bootfile\" >> " + dir + "/out\n" +
		"a=$new_ip_address$ip; [ -z \"$a\" ] || ip address replace $a/24 dev v1\n"
	if err := os.WriteFile(script, []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	told := func() string {
		b, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}

	if _, err := exec.LookPath("udhcpc"); err != nil {
		t.Log("udhcpc is not installed")
	} else {
		w.inside("udhcpc", "-i", "v1", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script)
		if got := told(); !strings.Contains(got, "bound 10.77.0.100 255.255.255.0 10.77.0.1 10.77.0.53 \n") {
			t.Errorf("udhcpc was told\n%s", got)
		}
		w.inside("udhcpc", "-i", "v1", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", script, "-V", "PXEClient:Arch:00007:UNDI:003016", "-O", "bootfile")
		if got := told(); !strings.Contains(got, "bound 10.77.0.100 255.255.255.0 10.77.0.1 10.77.0.53 snponly.efi\n") {
			t.Errorf("udhcpc posing as UEFI was told\n%s", got)
		}
	}
	if _, err := exec.LookPath("dhclient"); err != nil {
		t.Log("dhclient is not installed")
	} else {
		lf, pf := filepath.Join(dir, "lease"), filepath.Join(dir, "pid")
		client := []string{"dhclient", "-4", "-1", "-v", "-sf", script, "-lf", lf, "-pf", pf}
		w.inside(append(client, "v1")...)
		// It goes on in the background, and can be ended once it has said as which process.
		if err := eventually(t.Context(), func() error { _, err := os.Stat(pf); return err }); err != nil {
			t.Fatal(err)
		}
		if got := told(); !strings.Contains(got, "BOUND 10.77.0.100 255.255.255.0 10.77.0.1 10.77.0.53 \n") {
			t.Errorf("dhclient was told\n%s", got)
		}
		w.inside("dhclient", "-4", "-x", "-v", "-sf", script, "-lf", lf, "-pf", pf, "v1")
		w.inside(append(client, "v1")...) // init-reboot: it remembers its lease
		if got := told(); !strings.Contains(got, "REBOOT 10.77.0.100") {
			t.Errorf("dhclient after a reboot was told\n%s", got)
		}
		w.inside("dhclient", "-4", "-r", "-v", "-sf", script, "-lf", lf, "-pf", pf, "v1")
		if err := eventually(t.Context(), func() error {
			if s.Stats()["dhcp.release"] == 0 {
				return errors.New("no release came")
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
	if st := s.Stats(); st["dhcp.nak"] != 0 || st["dhcp.ack"] < 2 {
		t.Errorf("stats: %v", st)
	}
}

func TestStartSaysWhatIsInTheWay(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root for a network namespace")
	}
	run := func(s *setup) error { return s.Run(t.Context()) }

	s := newSetup(t, ModeDHCP)
	if err := run(s); err == nil || !strings.Contains(err.Error(), `interface "br0" does not exist; there are: lo`) {
		t.Errorf("no interface: %v", err)
	}

	w := newWire(t)
	taken, err := listenUDP(t.Context(), "br0", 67, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(newSetup(t, ModeDHCP)); err == nil || !strings.Contains(err.Error(), "UDP port 67 on br0 is taken by netboot.test (process ") {
		t.Errorf("port taken: %v", err)
	}
	taken.Close()

	s = newSetup(t, ModeDHCP)
	s.cfg.Interfaces[0].Range = Range{netip.MustParseAddr("10.99.0.1"), netip.MustParseAddr("10.99.0.9")}
	if err := run(s); err == nil || !strings.Contains(err.Error(), "range 10.99.0.1-10.99.0.9 does not lie in its network 10.77.0.0/24") {
		t.Errorf("foreign range: %v", err)
	}

	w.run("ip", "address", "flush", "dev", "br0")
	if err := run(newSetup(t, ModeDHCP)); err == nil || !strings.Contains(err.Error(), "interface br0 has no IPv4 address: give it one") {
		t.Errorf("no address: %v", err)
	}
	w.run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
}

// A second interface with machines on it hears nothing.
func TestOtherInterfacesHearNothing(t *testing.T) {
	w := newWire(t)
	w.run("ip", "link", "add", "x0", "type", "veth", "peer", "name", "x1")
	t.Cleanup(func() { w.run("ip", "link", "del", "x0") })
	w.run("ip", "address", "add", "10.88.0.1/24", "dev", "x0")
	w.run("ip", "link", "set", "x0", "up")
	w.run("ip", "link", "set", "x1", "netns", strconv.Itoa(w.pid))
	w.inside("ip", "link", "set", "x1", "up")
	s := newSetup(t, ModeDHCP)
	w.start(s)
	cmd := w.command("udhcpc", "-i", "x1", "-n", "-q", "-f", "-t", "1", "-T", "1", "-s", "/bin/true")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "no lease") {
		t.Errorf("udhcpc on another interface: %v\n%s", err, out)
	}
	for name, n := range s.Stats() {
		// The other card, coming up, looks for routers; this node looks for other servers.
		if !strings.HasPrefix(name, "router.") && name != "dhcp.probe" {
			t.Errorf("something was heard: %s %d", name, n)
		}
	}
}

func TestGarbageIsCounted(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	w.start(s)
	w.inside("ip", "address", "add", "10.77.0.120/24", "dev", "v1")
	good := packet{kind: discover}.bytes()
	for _, b := range [][]byte{{0}, good[:239], bytes.Repeat([]byte{0xff}, 1400)} {
		if got := w.datagram(t, "10.77.0.1:67", b); got != nil {
			t.Errorf("%d bytes of garbage were answered with %q", len(b), got)
		}
	}
	if st := s.Stats(); st["dhcp.drop.malformed"] != 3 || st["dhcp.drop.panic"] != 0 {
		t.Errorf("stats: %v", st)
	}
}
