package netboot

import (
	"fmt"
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
	for _, h := range Holders(network, port) {
		return fmt.Sprintf(" by %s (process %d)", h.Name, h.PID)
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
