package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// externalRange are the addresses dnsmasq gives; a node has none of them.
const externalRange = "10.77.0.50-10.77.0.99"

// externalPrefix is dnsmasq's own address: behind those of the nodes.
const externalPrefix = "10.77.0.9/24"

// dnsmasqArgs is a plain DHCP server that knows nothing of network boot, as
// the one a site already has.
func dnsmasqArgs(dir string) []string {
	return []string{
		// Alone of the modes this one keeps its user: the root of an unprivileged
		// rack may become nobody else.
		"--no-daemon", "--conf-file=/dev/null",
		"--port=0", "--interface=" + cableEnd, "--bind-interfaces",
		"--dhcp-range=10.77.0.50,10.77.0.99,1h", "--dhcp-option=option:router", "--dhcp-option=option:dns-server",
		"--dhcp-authoritative", "--no-ping", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(dir, "dnsmasq.leases"),
	}
}

// externalDHCP is a dnsmasq on the rack's wire. As every node it has a network
// namespace of its own: two in one would fight for port 67.
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
	defer log.Close()
	cable, err := plug("dhcp0", externalPrefix)
	if err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	defer cable.ns.Close() // dnsmasq holds it
	d := &externalDHCP{cmd: exec.Command("dnsmasq", dnsmasqArgs(dir)...), gone: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = dieWithParent()
	err = cable.start(d.cmd, func(err error) {
		ended(fmt.Errorf("dnsmasq ended (%v): %s", err, lastLine(dnsmasqLog(dir))))
		close(d.gone)
	})
	if err != nil {
		return nil, fmt.Errorf("start dnsmasq: %w", err)
	}
	return d, nil
}

func (d *externalDHCP) close() {
	_ = d.cmd.Process.Kill()
	<-d.gone
}
