package lab

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// buildNetwork makes the rack's wire in the namespace we are in: loopback, the
// bridge, and a tap for every machine. Nodes are plugged in afterwards.
func buildNetwork(machines []Machine) error {
	return ip(networkCommands(machines))
}

// networkCommands are lines for "ip -batch". Without stp_state 0 and
// forward_delay 0 a port stays deaf for 15 seconds after its machine got power,
// longer than firmware waits for an offer.
func networkCommands(machines []Machine) []string {
	lines := []string{
		"link set lo up",
		"link add " + bridgeName + " type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
		"link set " + bridgeName + " up",
	}
	for _, m := range machines {
		lines = append(lines,
			"tuntap add dev "+m.Tap+" mode tap",
			"link set "+m.Tap+" master "+bridgeName+" up")
	}
	return lines
}

// ip runs commands of iproute2 in one go and stops at the first that fails. The
// files are descriptors from 3 on, for commands to name.
func ip(lines []string, files ...*os.File) error {
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	cmd.ExtraFiles = files
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the rack's network with ip: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// networkNamespace names the namespace this process lives in.
func networkNamespace() (string, error) {
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "", fmt.Errorf("find the network namespace: %w", err)
	}
	return ns, nil
}
