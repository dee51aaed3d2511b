package boot

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// Cmdline is what the boot script tells the agent on the kernel command line.
type Cmdline struct {
	Nodes []string  // lpmos.node=URL, up to three, in order of preference
	MAC   string    // lpmos.mac=: of the interface the firmware booted from; lower case, colons
	Pin   pin.Pin   // lpmos.pin=: of the cluster's authority; zero if there is none
	Time  time.Time // lpmos.time=UNIX SECONDS: the node's clock when the script was written
}

// ParseCmdline reads the agent's words out of a kernel command line. What is not
// for the agent, or is not well formed, is left out.
func ParseCmdline(line string) Cmdline {
	var c Cmdline
	for _, word := range strings.Fields(line) {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			continue
		}
		switch key {
		case "lpmos.node":
			c.Nodes = wire.Nodes(c.Nodes, []string{value})
		case "lpmos.mac":
			// iPXE writes ${mac:hexhyp} with hyphens.
			if mac, err := net.ParseMAC(value); err == nil && len(mac) == 6 {
				c.MAC = mac.String()
			}
		case "lpmos.pin":
			if p, err := pin.Parse(value); err == nil {
				c.Pin = p
			}
		case "lpmos.time":
			if sec, err := strconv.ParseInt(value, 10, 64); err == nil && sec > 0 && sec < 1<<40 {
				c.Time = time.Unix(sec, 0)
			}
		}
	}
	return c
}
