package consensus

import (
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// greetings is how many handshakes are under way at once, and greetingsPerHost
	// how many of them may be with one address.
	greetings        = 128
	greetingsPerHost = 32
)

// greeting bounds the handshakes under way. When there are too many the oldest is
// cut: a node that means it is done within milliseconds, so those that say
// nothing cannot keep it out.
type greeting struct {
	mu     sync.Mutex
	closed bool
	conns  []net.Conn // oldest first
}

func (g *greeting) begin(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		c.Close()
		return
	}
	host, same, first := hostOf(c), 0, -1
	for i, other := range g.conns {
		if hostOf(other) == host {
			if same++; first < 0 {
				first = i
			}
		}
	}
	switch {
	case same >= greetingsPerHost:
		g.conns[first].Close()
		g.conns = slices.Delete(g.conns, first, first+1)
	case len(g.conns) >= greetings:
		g.conns[0].Close()
		g.conns = slices.Delete(g.conns, 0, 1)
	}
	g.conns = append(g.conns, c)
}

func (g *greeting) end(c net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.conns, c); i >= 0 {
		g.conns = slices.Delete(g.conns, i, i+1)
	}
}

// cut ends all of them, and those that are still to come.
func (g *greeting) cut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, c := range g.conns {
		c.Close()
	}
}

const (
	// refusalEvery is how often one address is complained about.
	refusalEvery = 10 * time.Second
	// refusalHosts is how many addresses are remembered for that.
	refusalHosts = 1024
)

// refusals tells in the log who was turned away, one line an address and a while,
// so that a flood of connections is no flood of lines.
type refusals struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	hosts map[string]*refusal
}

type refusal struct {
	told time.Time
	more int // since then
}

func (r *refusals) tell(host string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	known := r.hosts[host]
	if known != nil && now.Sub(known.told) < refusalEvery {
		known.more++
		return
	}
	if len(r.hosts) >= refusalHosts || r.hosts == nil {
		r.hosts = map[string]*refusal{}
	}
	more := 0
	if known != nil {
		more = known.more
	}
	r.hosts[host] = &refusal{told: now}
	r.log.Warn("refused a connection to the cluster address", "from", host, "err", err, "refused_before", more)
}

func hostOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

// A peer whose host died or whose cable was cut says nothing any more. These make
// the kernel end its connections after about five seconds, idle or not.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3}

const unacknowledgedLimit = 5 * time.Second

func noticeDeath(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	// Errors are of a connection that is gone already, which reading will tell.
	_ = tcp.SetKeepAliveConfig(keepAlive)
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = noticeDeathOf("", "", raw)
	}
}

func noticeDeathOf(_, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledgedLimit.Milliseconds()))
	})
	return errors.Join(err, failed)
}
