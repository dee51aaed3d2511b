package consensus

import (
	"net"
	"sync"
)

// conns remembers Raft's connections to other nodes, so that those of a follower
// that stands still can be cut: the next ones are new.
type conns struct {
	mu   sync.Mutex
	open map[string]map[*tracked]struct{} // by address
	sent map[string]uint64                // bytes, by address
}

type tracked struct {
	net.Conn
	of *conns
	to string
}

func (c *conns) add(to string, conn net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open, c.sent = map[string]map[*tracked]struct{}{}, map[string]uint64{}
	}
	if c.open[to] == nil {
		c.open[to] = map[*tracked]struct{}{}
	}
	t := &tracked{Conn: conn, of: c, to: to}
	c.open[to][t] = struct{}{}
	return t
}

// Close forgets the connection.
func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.open[t.to], t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

// Write counts what is sent.
func (t *tracked) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	t.of.mu.Lock()
	t.of.sent[t.to] += uint64(n)
	t.of.mu.Unlock()
	return n, err
}

// sentTo is how many bytes were sent to an address.
func (c *conns) sentTo(to string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[to]
}

// reset closes all connections to an address.
func (c *conns) reset(to string) int {
	c.mu.Lock()
	var all []*tracked
	for t := range c.open[to] {
		all = append(all, t)
	}
	c.mu.Unlock()
	for _, t := range all {
		t.Close()
	}
	return len(all)
}
