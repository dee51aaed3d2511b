package netboot

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startDnsmasq runs a DHCP server in a third namespace on the same bridge and
// returns when it answers.
func startDnsmasq(t *testing.T, w *wire, path string) {
	t.Helper()
	sleep := exec.Command("sleep", "infinity")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(sleep.Process.Pid)
	t.Cleanup(func() { sleep.Process.Kill(); sleep.Wait() })
	w.run("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	w.run("ip", "link", "set", "d0", "master", "br0", "up")
	w.run("ip", "link", "set", "d1", "netns", pid)
	w.run("nsenter", "-t", pid, "-n", "ip", "address", "add", "10.77.0.2/24", "dev", "d1")
	w.run("nsenter", "-t", pid, "-n", "ip", "link", "set", "d1", "up")
	cmd := exec.Command("nsenter", "-t", pid, "-n", path, "-d", "--port=0", "--conf-file=/dev/null", "--interface=d1", "--bind-interfaces",
		"--dhcp-range=10.77.0.200,10.77.0.220,255.255.255.0,1h", "--no-ping", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"),
		"--user=root", "--log-facility=-", "--dhcp-authoritative")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	up := make(chan bool)
	go func() {
		sc := bufio.NewScanner(out)
		for sc.Scan() {
			if strings.Contains(sc.Text(), "sockets bound exclusively") || strings.Contains(sc.Text(), "DHCP, IP range") {
				select {
				case up <- true:
				default:
				}
			}
		}
	}()
	select {
	case <-up:
	case <-time.After(10 * time.Second):
		t.Fatal("dnsmasq did not come up")
	}
}
