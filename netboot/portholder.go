package netboot

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// PortHolder names the process that has a local port open, as " by dnsmasq
// (process 812)", or "" when /proc does not tell. network is "tcp" or "udp".
func PortHolder(network, port string) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		return ""
	}
	return heldBy(network, n)
}

// heldBy says " by dnsmasq (process 812)" when /proc tells who has a local port
// open, and nothing when it does not: the answer is help in an error, no more.
func heldBy(network string, port int) string {
	inodes := make(map[string]bool)
	for _, table := range []string{network, network + "6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			if inode, ok := socketOnPort(sc.Text(), port); ok {
				inodes["socket:["+inode+"]"] = true
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !inodes[target] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf(" by %s (process %s)", strings.TrimSpace(string(name)), pid)
	}
	return ""
}

// The states of a socket that waits to be talked to, as /proc/net writes them: TCP
// in LISTEN, UDP not connected. A connection from the port holds nobody off.
const (
	tcpListen = "0A"
	udpOpen   = "07"
)

// socketOnPort reads one line of /proc/net/udp or tcp: the second field is the
// local address and port in hex, the fourth the state, the tenth the inode.
func socketOnPort(line string, port int) (inode string, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != tcpListen && fields[3] != udpOpen {
		return "", false
	}
	_, hexPort, ok := strings.Cut(fields[1], ":")
	if !ok {
		return "", false
	}
	n, err := strconv.ParseUint(hexPort, 16, 16)
	return fields[9], err == nil && int(n) == port
}
