package boot

import (
	"errors"
	"fmt"
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
	Time  time.Time // lpmos.time=UNIX SECONDS: the node's clock when the script was written
	Pin   pin.Pin   // lpmos.pin=HEX: of the cluster's authority; zero if there is none, or a bad one
	Claim string    // lpmos.claim=CODE: which begins the agent's session

	badPin error // why Pin is zero
}

// Check says why nobody can be believed by what stands on the command line. An
// agent must not begin then: it would talk to anybody, or wait for ever.
func (c Cmdline) Check() error {
	switch {
	case c.badPin != nil:
		return fmt.Errorf("lpmos.pin on the kernel command line: %w", c.badPin)
	case c.Pin == pin.Pin{}:
		return errors.New("the kernel command line has no lpmos.pin, so no node can be believed")
	case len(c.Nodes) == 0:
		return errors.New("the kernel command line has no lpmos.node=https://ADDRESS, so there is no node to talk to")
	case c.Time.IsZero():
		return errors.New("the kernel command line has no lpmos.time, and the clock of a machine may show any year")
	}
	return nil
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
			if c.Pin != (pin.Pin{}) || c.badPin != nil { // two pins are none: which one is ours?
				c.Pin, c.badPin = pin.Pin{}, errors.New("it is there twice")
				continue
			}
			c.Pin, c.badPin = pin.Parse(value)
		case "lpmos.claim":
			c.Claim = value
		case "lpmos.time":
			if sec, err := strconv.ParseInt(value, 10, 64); err == nil && sec > 0 && sec < 1<<40 {
				c.Time = time.Unix(sec, 0)
			}
		}
	}
	return c
}
