package appliance

import (
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How many connections a node holds at once. Neither door may take all of them:
// while somebody floods the dashboard machines still boot, and the other way
// round people still see it. One machine needs a few.
const (
	allSeats     = 4096
	peopleSeats  = allSeats - 1024
	machineSeats = allSeats - 256
	seatsOfOne   = 128 // of one address, at the machines' door
	peopleOfOne  = 256 // of one address, at the people's: several may come by one proxy
)

// A machine that takes nothing of an answer for stallTime is given up, and so is
// one whose request has not come whole after bodyLimit.
const (
	stallTime = 2 * time.Minute
	bodyLimit = 30 * time.Second
)

// seats counts who is connected to a node. It also counts what went wrong at the
// machines' door, for the figures.
type seats struct {
	stall, body time.Duration
	log         *slog.Logger

	mu       sync.Mutex
	people   map[netip.Addr]int
	came     int // people
	machines map[netip.Addr]int
	taken    int // by machines
	events   map[string]uint64
}

func newSeats(log *slog.Logger) *seats {
	return &seats{stall: stallTime, body: bodyLimit, log: log, people: map[netip.Addr]int{}, machines: map[netip.Addr]int{}, events: map[string]uint64{}}
}

// forPeople limits who connects to the dashboard.
func (s *seats) forPeople(l net.Listener) net.Listener {
	return &usher{l, s, func(c net.Conn) (leave func()) {
		one := comesFrom(c)
		switch {
		case s.people[one] >= peopleOfOne:
			s.events["people.refused.too many"]++
			return nil
		case s.came >= peopleSeats || s.came+s.taken >= allSeats:
			s.events["people.refused.full"]++
			return nil
		}
		s.came++
		s.people[one]++
		return func() {
			s.came--
			if s.people[one]--; s.people[one] == 0 {
				delete(s.people, one)
			}
		}
	}}
}

// comesFrom is the address at the other end, of IPv6 the network: a host there has
// as many addresses as it wants.
func comesFrom(c net.Conn) netip.Addr {
	ap, _ := netip.ParseAddrPort(c.RemoteAddr().String())
	one := ap.Addr().Unmap()
	if one.Is6() {
		one = netip.PrefixFrom(one, 64).Masked().Addr()
	}
	return one
}

// timely keeps a person's request from holding its connection for ever: one whose
// body does not come is not waited for. A handler that reads long bodies moves the
// limit as it reads. When all has come there is none: it would look as if whoever
// waits for the answer had gone.
func (s *seats) timely(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			timed := http.NewResponseController(w)
			_ = timed.SetReadDeadline(time.Now().Add(s.body)) // a writer without is no connection
			r.Body = &wholeBody{r.Body, func() { _ = timed.SetReadDeadline(time.Time{}) }}
		}
		h.ServeHTTP(w, r)
	})
}

// wholeBody says when it was read to its end.
type wholeBody struct {
	io.ReadCloser
	whole func()
}

func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole()
	}
	return n, err
}

// forMachines limits who connects to where machines boot from.
func (s *seats) forMachines(l net.Listener) net.Listener {
	return &usher{l, s, func(c net.Conn) (leave func()) {
		one := comesFrom(c)
		switch {
		case s.machines[one] >= seatsOfOne:
			s.events["http.refused.too many"]++
			return nil
		case s.taken >= machineSeats || s.came+s.taken >= allSeats:
			s.events["http.refused.full"]++
			return nil
		}
		s.taken++
		s.machines[one]++
		return func() {
			s.taken--
			if s.machines[one]--; s.machines[one] == 0 {
				delete(s.machines, one)
			}
		}
	}}
}

// counters are what happened, by name.
func (s *seats) counters() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.events)
}

// guard keeps a request of a machine from harming the node: one that panics costs
// its own connection, and one whose body does not come is not waited for.
func (s *seats) guard(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault != http.ErrAbortHandler {
				s.mu.Lock()
				s.events["http.panic"]++
				s.mu.Unlock()
				s.log.Error("a request of a machine caused a panic; its connection was cut", "from", r.RemoteAddr, "method", r.Method, "panic", fault, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // half an answer may not look like a whole one
		}()
		// Also the server itself waits for what a handler leaves of a body. Without
		// one nothing may time out: it would look as if the machine had gone.
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.body)) // a writer without is no connection
		}
		h.ServeHTTP(w, r)
	})
}

// usher is a listener that shows out at once whom it has no seat for.
type usher struct {
	net.Listener
	seats *seats
	admit func(net.Conn) (leave func()) // with the lock held; nil: there is no seat
}

// Accept gives the next connection that has a seat.
func (d *usher) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		d.seats.mu.Lock()
		leave := d.admit(c)
		d.seats.mu.Unlock()
		if leave == nil {
			c.Close()
			continue
		}
		d.seats.giveUpAfterStall(c)
		return &seat{Conn: c, leave: sync.OnceFunc(func() {
			d.seats.mu.Lock()
			defer d.seats.mu.Unlock()
			leave()
		})}, nil
	}
}

// giveUpAfterStall lets the kernel end a connection whose other end takes nothing
// any more, or is gone (tcp(7), TCP_USER_TIMEOUT).
func (s *seats) giveUpAfterStall(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err == nil {
		ctlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(s.stall.Milliseconds()))
		})
		err = errors.Join(ctlErr, err)
	}
	if err != nil {
		s.log.Debug("a connection has no limit of how long it may stall", "from", c.RemoteAddr(), "err", err)
	}
}

// seat is a connection that is counted.
type seat struct {
	net.Conn
	leave func()
}

// Close ends the connection and frees the seat.
func (s *seat) Close() error {
	s.leave()
	return s.Conn.Close()
}

// ReadFrom lets the kernel copy a file to the connection.
func (s *seat) ReadFrom(r io.Reader) (int64, error) { return io.Copy(s.Conn, r) }

// CloseWrite ends what is sent, as HTTP does before it hangs up.
func (s *seat) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// SyscallConn lets others look at the socket.
func (s *seat) SyscallConn() (syscall.RawConn, error) {
	if own, ok := s.Conn.(syscall.Conn); ok {
		return own.SyscallConn()
	}
	return nil, errors.New("the connection is no socket")
}
