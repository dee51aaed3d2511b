package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// externalRange are the addresses dnsmasq gives; the node has none of them.
const externalRange = "10.77.0.50-10.77.0.99"

// dnsmasqArgs is a plain DHCP server that knows nothing of network boot, as
// the one a site already has.
func dnsmasqArgs(dir string) []string {
	return []string{
		// Alone of the modes this one keeps its user: the root of an unprivileged
		// rack may become nobody else.
		"--no-daemon", "--conf-file=/dev/null",
		"--port=0", "--interface=dhcp1", "--bind-interfaces",
		"--dhcp-range=10.77.0.50,10.77.0.99,1h", "--dhcp-option=option:router", "--dhcp-option=option:dns-server",
		"--dhcp-authoritative", "--no-ping", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(dir, "dnsmasq.leases"),
	}
}

// externalDHCP is a dnsmasq on the rack's wire. It has a network namespace of
// its own: on the node's host the two would fight for port 67.
type externalDHCP struct {
	cmd  *exec.Cmd
	gone chan struct{}
}

func dnsmasqLog(dir string) string { return filepath.Join(dir, "dnsmasq.log") }

// startDHCP runs a dnsmasq and tells ended when it is no more.
func startDHCP(dir string, ended func(error)) (*externalDHCP, error) {
	log, err := os.OpenFile(dnsmasqLog(dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("dnsmasq log: %w", err)
	}
	d := &externalDHCP{gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(d.gone)
		defer log.Close()
		// Never unlocked: the thread sits in the new namespace and ends with this goroutine.
		runtime.LockOSThread()
		if err := d.start(dir, log); err != nil {
			started <- err
			return
		}
		started <- nil
		// Waiting here keeps the thread, and by Pdeathsig dnsmasq, alive.
		err := d.cmd.Wait()
		ended(fmt.Errorf("dnsmasq ended (%v): %s", err, lastLine(dnsmasqLog(dir))))
	}()
	if err := <-started; err != nil {
		<-d.gone
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	return d, nil
}

// start plugs a cable from the bridge into a new namespace and runs dnsmasq at
// its end. The calling thread is left inside.
func (d *externalDHCP) start(dir string, log *os.File) error {
	err := ip([]string{
		"link add dhcp0 type veth peer name dhcp1",
		"link set dhcp0 master " + bridgeName + " up",
	})
	if err != nil {
		return err
	}
	rack, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", syscall.Gettid()))
	if err != nil {
		return err
	}
	defer rack.Close()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	here := fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), syscall.Gettid())
	// The child starts in the thread's namespace; ip has to go back to where the cable is.
	move := exec.Command("nsenter", "--net=/proc/self/fd/3", "ip", "link", "set", "dhcp1", "netns", here)
	move.ExtraFiles = []*os.File{rack}
	if out, err := move.CombinedOutput(); err != nil {
		return fmt.Errorf("move the cable: %w: %s", err, out)
	}
	err = ip([]string{"link set lo up", "addr add 10.77.0.2/24 dev dhcp1", "link set dhcp1 up"})
	if err != nil {
		return err
	}
	d.cmd = exec.Command("dnsmasq", dnsmasqArgs(dir)...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = dieWithParent()
	return d.cmd.Start()
}

func (d *externalDHCP) close() {
	_ = d.cmd.Process.Kill()
	<-d.gone
}
