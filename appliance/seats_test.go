package appliance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/netboot"
)

// knows is a fleet that has met every machine.
type knows struct{ netboot.Fleet }

func (knows) Decide(context.Context, netboot.Machine) netboot.Decision {
	return netboot.Decision{Action: netboot.BootLocal, Reason: "it is installed"}
}
func (knows) BootServed(context.Context, netboot.Machine, netboot.Decision) error { return nil }
func (knows) Address(string) (netip.Addr, bool)                                   { return netip.Addr{}, false }
func (knows) Taken(netip.Addr) bool                                               { return false }

// filesOf are boot files, each of so many bytes.
func filesOf(t *testing.T, bytes int) *netboot.Files {
	t.Helper()
	content := fstest.MapFS{}
	for _, name := range []string{netboot.LoaderBIOS, netboot.LoaderUEFI, netboot.LoaderUEFIAll, netboot.LoaderShim, netboot.LoaderGRUB, netboot.FileKernel, netboot.FileInitrd} {
		content[name] = &fstest.MapFile{Data: make([]byte, bytes)}
	}
	files, err := netboot.LoadFiles(content)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// machinesDoor serves scripts and boot files with the limits of a node. What it
// is told to do at /panic it does.
func machinesDoor(t *testing.T, s *seats) (address string) {
	t.Helper()
	files := filesOf(t, 32<<20)
	id, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg := netboot.Config{DataDir: t.TempDir(), BootPort: 80, Files: files, Fleet: knows{}, Log: slog.New(slog.DiscardHandler)}
	bootTrust(id, &cfg)
	boot, err := netboot.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { boot.Close() })
	mux := http.NewServeMux()
	mux.Handle(netboot.BootPath, boot.Handler())
	mux.HandleFunc("/panic", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half an ") //nolint:errcheck // it will not end well
		panic("a defect")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, s.forMachines(l), s.guard(mux), slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// from dials from another address of this host, as another machine would.
func from(t *testing.T, n int, to string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(n))}, Timeout: 30 * time.Second}
	c, err := d.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// inUse is how many machines are connected.
func (s *seats) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not after 90 s", what)
		}
	}
}

// TestS16_SlowSocketsAreCut opens connections that send nothing, a byte of a header
// now and then, half a body, or read nothing of the answer. All of them are cut,
// and a machine that asks for its script meanwhile gets it. (S16 asks for 10,000
// and for times; what is here is what every run can have.)
func TestS16_SlowSocketsAreCut(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	s.stall, s.body = 2*time.Second, 2*time.Second
	address := machinesDoor(t, s)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()

	const machines, each = 20, 25 // of each kind
	kinds := map[string]string{
		"silent":        "",
		"slow header":   "GET /boot/script HTTP/1.1\r\nHost: x\r\nX-A: ",
		"slow body":     "POST /boot/script HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
		"never reading": "GET /boot/initrd HTTP/1.1\r\nHost: x\r\n\r\n",
	}
	for kind, begin := range kinds {
		for i := range machines * each {
			c := from(t, 1+i%machines, address)
			if kind == "never reading" {
				c.(*net.TCPConn).SetReadBuffer(4096) //nolint:errcheck // makes it slower only
			}
			if _, err := io.WriteString(c, begin); err != nil {
				t.Fatal(err)
			}
			if kind == "slow header" {
				go func() {
					for drip := time.NewTicker(time.Second); ; {
						select {
						case <-drip.C:
							if _, err := c.Write([]byte("x")); err != nil {
								return
							}
						case <-ctx.Done():
							return
						}
					}
				}()
			}
		}
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	served := 0
	until(t, "only the slow ones are left", func() bool {
		res, err := client.Get("http://" + address + "/boot/script")
		if err != nil {
			t.Fatalf("a machine that boots was not served: %v", err)
		}
		script, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !strings.HasPrefix(string(script), "#!ipxe") {
			t.Fatalf("a machine that boots was told %q: %v", script, err)
		}
		served++
		return s.inUse() <= 1 // its own may not be counted off yet
	})
	if served < 10 {
		t.Errorf("only %d boots were looked at", served)
	}
	until(t, "all are cut", func() bool { return s.inUse() == 0 })
}

func TestNoMachineTakesAllSeats(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	address := machinesDoor(t, s)
	for range seatsOfOne {
		from(t, 1, address)
	}
	until(t, "all have a seat", func() bool { return s.inUse() == seatsOfOne })
	late := from(t, 1, address)
	late.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // the read says it
	if _, err := late.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more of the same machine got a seat: %v", err)
	}
	other := from(t, 2, address)
	io.WriteString(other, "GET /boot/script HTTP/1.1\r\nHost: x\r\n\r\n") //nolint:errcheck // the read says it
	if line, err := bufio.NewReader(other).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Errorf("another machine is told %q: %v", line, err)
	}
	if n := s.counters()["http.refused.too many"]; n != 1 {
		t.Errorf("%d were counted, want 1", n)
	}
}

// pretend is a listener that gives connections that are none.
type pretend struct {
	n   int
	one bool // address
}

type nobody struct {
	net.Conn
	from net.Addr
}

func (n nobody) RemoteAddr() net.Addr { return n.from }
func (nobody) Close() error           { return nil }

func (p *pretend) Accept() (net.Conn, error) {
	if p.n == 0 {
		return nil, io.EOF
	}
	p.n--
	if p.one {
		return nobody{from: &net.TCPAddr{IP: net.IPv4(10, 9, 9, 9), Port: p.n + 1}}, nil
	}
	return nobody{from: &net.TCPAddr{IP: net.IPv4(10, 0, byte(p.n>>8), byte(p.n)), Port: 1}}, nil
}
func (*pretend) Close() error   { return nil }
func (*pretend) Addr() net.Addr { return nil }

// come lets so many come and gives those that got in.
func come(l func(net.Listener) net.Listener, n int) (in []net.Conn) {
	return comeBy(l, &pretend{n: n})
}

func comeBy(l func(net.Listener) net.Listener, from *pretend) (in []net.Conn) {
	d := l(from)
	for {
		c, err := d.Accept()
		if err != nil {
			return in
		}
		in = append(in, c)
	}
}

func TestEachDoorKeepsSeatsForTheOther(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	people := come(s.forPeople, 5000)
	machines := come(s.forMachines, 5000)
	if len(people) != 3072 || len(machines) != 1024 {
		t.Errorf("people first: %d people and %d machines", len(people), len(machines))
	}
	for _, c := range append(people, machines...) {
		c.Close()
		c.Close() // as net/http does now and then
	}
	machines = come(s.forMachines, 5000)
	people = come(s.forPeople, 5000)
	if len(people) != 256 || len(machines) != 3840 {
		t.Errorf("machines first: %d people and %d machines", len(people), len(machines))
	}
	if got := fmt.Sprint(s.counters()); got != "map[http.refused.full:5136 people.refused.full:6672]" {
		t.Errorf("it counted %s", got)
	}
}

func TestOneAddressTakesNotAllOfThePeoplesSeats(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	in := comeBy(s.forPeople, &pretend{n: 1000, one: true})
	if len(in) != peopleOfOne || len(come(s.forPeople, 10)) != 10 {
		t.Errorf("one address got %d seats, want %d, and others their own", len(in), peopleOfOne)
	}
	in[0].Close()
	if again := comeBy(s.forPeople, &pretend{n: 10, one: true}); len(again) != 1 {
		t.Errorf("for the one that was given back it got %d", len(again))
	}
}

// Whoever says that a body comes and sends none does not hold a connection, whether
// anybody reads it or not; and who has sent it all may wait for the answer.
func TestABodyThatDoesNotComeIsNotWaitedFor(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	s.body = 200 * time.Millisecond
	srv := httptest.NewServer(s.timely(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/read" {
			io.Copy(io.Discard, r.Body) //nolint:errcheck // the client sees it
		}
		if r.URL.Path == "/long" {
			io.Copy(io.Discard, r.Body) //nolint:errcheck // the client sees it
			select {
			case <-r.Context().Done():
				t.Error("who waits for a long answer is given up")
			case <-time.After(3 * s.body):
			}
		}
		io.WriteString(w, "done") //nolint:errcheck // the client sees it
	})))
	defer srv.Close()
	for _, path := range []string{"/read", "/not-read"} {
		c, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n", path)
		c.SetDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // the read says it
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s holds its connection", path)
		}
	}
	res, err := http.Post(srv.URL+"/long", "text/plain", strings.NewReader("all"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); string(b) != "done" {
		t.Errorf("it was answered %q", b)
	}
}

func TestAPanicCostsItsConnectionOnly(t *testing.T) {
	s := newSeats(slog.New(slog.DiscardHandler))
	address := machinesDoor(t, s)
	for range 3 {
		res, err := http.Get("http://" + address + "/panic")
		if err == nil {
			_, err = io.ReadAll(res.Body)
			res.Body.Close()
		}
		if err == nil {
			t.Error("half an answer came as a whole one")
		}
	}
	res, err := http.Get("http://" + address + "/boot/script")
	if err != nil {
		t.Fatal(err)
	}
	if res.Body.Close(); res.StatusCode != http.StatusOK {
		t.Errorf("after them a machine is answered %s", res.Status)
	}
	if n := s.counters()["http.panic"]; n != 3 {
		t.Errorf("%d panics were counted, want 3", n)
	}
}
