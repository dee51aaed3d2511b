package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Descriptors that Start hands to Inner.
const (
	readyFD    = 3 // a byte on it says that the control socket answers
	lockFD     = 4 // the rack's lock, held until the last of the two ends
	listenerFD = 5 // the first dashboard's listener on the host, passed on to the node; the others follow
)

// spec is what Start tells Inner, as JSON on its standard input.
type spec struct {
	Dir          string    `json:"dir"`
	Binary       string    `json:"binary"`
	Accel        string    `json:"accel"`
	Host         string    `json:"host"` // the host's network namespace, to stay out of
	Start        time.Time `json:"start"`
	Restart      bool      `json:"restart"`
	ExternalDHCP bool      `json:"external_dhcp"`
	Simulated    bool      `json:"simulated"`
	Nodes        []Node    `json:"nodes"`
	Machines     []Machine `json:"machines"`
}

// rack is the inside of a running rack.
type rack struct {
	spec
	nodes  []*node
	guests []*guest
	stop   context.CancelFunc

	fleet    sync.Mutex // held by the one simulated fleet
	printing sync.Mutex
	out      io.Writer
}

// Inner is the rack's inside, the body of the hidden command "lab inner": it
// runs until ctx ends, a SIGTERM comes, the control socket says so, or the rack
// breaks. Only Start can run it, since it lives on what it inherits.
func Inner(ctx context.Context) error {
	var s spec
	if err := json.NewDecoder(os.Stdin).Decode(&s); err != nil {
		return fmt.Errorf("read the rack's plan: %w; this command is for lab up alone", err)
	}
	// Nothing may be built before this is sure: the host's links are not ours.
	here, err := networkNamespace()
	if err != nil {
		return err
	}
	if here == s.Host {
		return errors.New("still in the host's network namespace: the rack is built in one of its own only")
	}
	// Close-on-exec, or every QEMU would hold the lock and the readiness pipe.
	for fd := range listenerFD + len(s.Nodes) {
		if fd >= readyFD {
			syscall.CloseOnExec(fd)
		}
	}
	ready := os.NewFile(readyFD, "ready")
	defer os.NewFile(lockFD, "lock").Close()

	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &rack{spec: s, out: os.Stdout, stop: func() { cancel(nil) }}
	if err := r.serve(ctx, cancel, ready); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// serve builds everything up in order and takes it down in reverse.
func (r *rack) serve(ctx context.Context, fail context.CancelCauseFunc, ready *os.File) error {
	if err := buildNetwork(r.Machines); err != nil {
		return err
	}
	if r.ExternalDHCP {
		dhcp, err := startDHCP(r.Dir, fail)
		if err != nil {
			return err
		}
		defer dhcp.close()
		r.say("dhcp", "dnsmasq gives %s", externalRange)
	}
	for _, m := range r.Machines {
		g, err := r.newGuest(m)
		if err != nil {
			return err
		}
		r.guests = append(r.guests, g)
	}
	for i, n := range r.Nodes {
		cable, err := plug("node"+strconv.Itoa(i+1), n.IP+r.mask())
		if err != nil {
			return err
		}
		if r.Simulated {
			if err := cable.toFleet(); err != nil {
				return err
			}
		}
		r.nodes = append(r.nodes, &node{
			Node: n, binary: r.Binary, listener: os.NewFile(uintptr(listenerFD+i), "listener"), cable: cable,
			restart: r.Restart, now: time.Now, hopeless: fail, lost: map[string]Node{},
			say: func(format string, args ...any) { r.say(n.Name, format, args...) },
		})
	}
	defer r.stopNodes()
	defer r.powerOff() // machines first: none should see its node go away

	control, err := r.listenControl()
	if err != nil {
		return err
	}
	defer control.close()
	if _, err := ready.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell lab up that the rack is ready: %w", err)
	}
	ready.Close()
	<-ctx.Done()
	return nil
}

// mask is the length of the wire's network.
func (r *rack) mask() string {
	if r.Simulated {
		return "/16"
	}
	return "/24"
}

func (r *rack) newGuest(m Machine) (*guest, error) {
	raw, err := os.OpenFile(m.SerialLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("serial log: %w", err)
	}
	timed, err := os.OpenFile(m.timedLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("serial log: %w", err)
	}
	return &guest{
		m: m, accel: r.Accel, now: time.Now,
		console: newConsole(raw, timed, r.Start, time.Now),
		say:     func(format string, args ...any) { r.say(m.Name, format, args...) },
	}, nil
}

func (r *rack) guest(name string) *guest {
	i := slices.IndexFunc(r.guests, func(g *guest) bool { return g.m.Name == name })
	if i < 0 {
		return nil
	}
	return r.guests[i]
}

func (r *rack) node(name string) (*node, error) {
	i := slices.IndexFunc(r.nodes, func(n *node) bool { return n.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("node %q: %w", name, os.ErrNotExist)
	}
	return r.nodes[i], nil
}

// heal takes back what was done to a node, also what the others had to do.
func (r *rack) heal(n *node) error {
	for _, other := range r.nodes {
		if err := other.find(n.Node); err != nil {
			return err
		}
	}
	return n.heal()
}

func (r *rack) stopNodes() {
	var all sync.WaitGroup
	for _, n := range r.nodes {
		all.Go(n.stop)
	}
	all.Wait()
}

func (r *rack) powerOff() {
	var all sync.WaitGroup
	for _, g := range r.guests {
		all.Go(g.off)
	}
	all.Wait()
}

// say prints one event: elapsed seconds, who, what.
func (r *rack) say(who, format string, args ...any) {
	r.printing.Lock()
	defer r.printing.Unlock()
	fmt.Fprintf(r.out, "%8.1fs  %-5s %s\n", time.Since(r.Start).Seconds(), who, fmt.Sprintf(format, args...))
}

func (r *rack) listenControl() (*control, error) {
	path := socketPath(r.Dir)
	// We hold the rack's lock, so a socket that is still there belongs to a dead rack.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return serveControl(l, r), nil
}
