package netboot

import "sync"

// Stats are counters since the start, by name: what was received and answered
// ("dhcp.discover", "dhcp.offer", "tftp.sent", "http.script"), and why things
// were dropped ("dhcp.drop.malformed", "tftp.refused.no such file").
type Stats map[string]uint64

// counters is the live form of Stats. The names come from this package only,
// never from the wire, so the map stays small.
type counters struct {
	mu sync.Mutex
	n  Stats
}

func (c *counters) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(Stats)
	}
	c.n[name]++
}

func (c *counters) snapshot() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(Stats, len(c.n))
	for k, v := range c.n {
		out[k] = v
	}
	return out
}
