package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"time"
)

// maxRequest bounds what a control request may carry, in bytes.
const maxRequest = 1 << 20

// State is a running rack as Client.State shows it.
type State struct {
	Dir     string    `json:"dir"`
	PID     int       `json:"pid"`   // of the inner process, for nsenter -t PID -n
	Accel   string    `json:"accel"` // "tcg" or "kvm"
	Started time.Time `json:"started"`
	// Simulated says that the rack is one for Client.Simulate.
	Simulated bool           `json:"simulated,omitempty"`
	Nodes     []NodeState    `json:"nodes"`
	Machines  []MachineState `json:"machines"`
}

// What a node does.
const (
	NodeRunning = "running"
	NodePaused  = "paused"
	NodeDead    = "dead"
)

// NodeState is a node and what was done to it.
type NodeState struct {
	Node
	Log     string   `json:"log"`
	State   string   `json:"state"`              // NodeRunning, NodePaused or NodeDead
	PID     int      `json:"pid,omitempty"`      // 0 while it is dead
	Cut     bool     `json:"cut,omitempty"`      // off the wire
	CutFrom []string `json:"cut_from,omitempty"` // names of nodes it does not reach
}

// Well says that nothing was done to the node.
func (n NodeState) Well() bool { return n.State == NodeRunning && !n.Cut && len(n.CutFrom) == 0 }

// MachineState is a machine and its power.
type MachineState struct {
	Machine
	SerialLog string    `json:"serial_log"`
	Lines     int       `json:"lines"` // on the console so far
	Power     bool      `json:"power"`
	PID       int       `json:"pid,omitempty"`  // of its QEMU
	Since     time.Time `json:"since,omitzero"` // last change of power; zero when it never had any
}

type controlError struct {
	Error string `json:"error"`
}

type qmpRequest struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments,omitempty"`
}

type killRequest struct {
	Restart bool `json:"restart"`
}

type startRequest struct {
	Join []string `json:"join,omitempty"` // token and address, for one that has not joined yet
}

// control serves lab.sock: HTTP and JSON, for Client.
type control struct {
	rack   *rack
	server *http.Server
}

func serveControl(l net.Listener, r *rack) *control {
	c := &control{rack: r}
	c.server = &http.Server{Handler: c.routes(), ReadHeaderTimeout: 10 * time.Second}
	go c.server.Serve(l)
	return c
}

// answerTime is how long those may take who are answered just now: one of them
// may have asked for the end.
const answerTime = 500 * time.Millisecond

// close drops who is connected and removes the socket.
func (c *control) close() {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if c.server.Shutdown(ctx) != nil {
		c.server.Close()
	}
}

func (c *control) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, req *http.Request) {
			req.Body = http.MaxBytesReader(w, req.Body, maxRequest)
			answer, err := f(req)
			reply(w, answer, err)
		})
	}
	ofMachine := func(pattern string, f func(*guest, *http.Request) (any, error)) {
		handle(pattern, func(req *http.Request) (any, error) {
			g := c.rack.guest(req.PathValue("name"))
			if g == nil {
				return nil, fmt.Errorf("machine %q: %w", req.PathValue("name"), os.ErrNotExist)
			}
			return f(g, req)
		})
	}
	ofNode := func(pattern string, f func(*node, *http.Request) (any, error)) {
		handle(pattern, func(req *http.Request) (any, error) {
			n, err := c.rack.node(req.PathValue("name"))
			if err != nil {
				return nil, err
			}
			return f(n, req)
		})
	}
	handle("GET /rack", func(*http.Request) (any, error) { return c.rack.state(), nil })
	handle("POST /stop", func(*http.Request) (any, error) { c.rack.stop(); return nil, nil })
	mux.HandleFunc("POST /simulate", c.rack.simulate)
	ofNode("POST /nodes/{name}/start", startNode)
	ofNode("POST /nodes/{name}/stop", func(n *node, _ *http.Request) (any, error) { n.stop(); return nil, nil })
	ofNode("POST /nodes/{name}/kill", killNode)
	ofNode("POST /nodes/{name}/pause", func(n *node, _ *http.Request) (any, error) { return nil, n.pause() })
	ofNode("POST /nodes/{name}/cut", func(n *node, _ *http.Request) (any, error) { return nil, n.pull() })
	ofNode("POST /nodes/{name}/cut/{other}", c.cutPair)
	ofNode("POST /nodes/{name}/heal", func(n *node, _ *http.Request) (any, error) { return nil, c.rack.heal(n) })
	ofMachine("POST /machines/{name}/on", func(g *guest, _ *http.Request) (any, error) { return nil, g.on() })
	ofMachine("POST /machines/{name}/off", func(g *guest, _ *http.Request) (any, error) { g.off(); return nil, nil })
	ofMachine("POST /machines/{name}/reset", func(g *guest, _ *http.Request) (any, error) { return nil, g.reset() })
	ofMachine("POST /machines/{name}/type", func(g *guest, req *http.Request) (any, error) { return nil, g.typeText(req.Body) })
	ofMachine("PUT /machines/{name}/disks", setDisks)
	ofMachine("POST /machines/{name}/qmp", runQMP)
	ofMachine("GET /machines/{name}/console", waitConsole)
	return mux
}

func startNode(n *node, req *http.Request) (any, error) {
	var s startRequest
	if err := json.NewDecoder(req.Body).Decode(&s); err != nil {
		return nil, badRequest{err}
	}
	if len(s.Join) > 0 {
		return nil, n.startWith(s.Join)
	}
	return nil, n.start()
}

func killNode(n *node, req *http.Request) (any, error) {
	var k killRequest
	if err := json.NewDecoder(req.Body).Decode(&k); err != nil {
		return nil, badRequest{err}
	}
	if err := n.kill(); err != nil {
		return nil, err
	}
	if k.Restart {
		return nil, n.start()
	}
	return nil, nil
}

func (c *control) cutPair(n *node, req *http.Request) (any, error) {
	other, err := c.rack.node(req.PathValue("other"))
	if err != nil {
		return nil, err
	}
	if n == other {
		return nil, badRequest{fmt.Errorf("%s cannot be cut off from itself", n.Name)}
	}
	return nil, errors.Join(n.lose(other.Node), other.lose(n.Node))
}

func setDisks(g *guest, req *http.Request) (any, error) {
	var disks []Disk
	if err := json.NewDecoder(req.Body).Decode(&disks); err != nil {
		return nil, badRequest{err}
	}
	return nil, g.setDisks(disks)
}

func runQMP(g *guest, req *http.Request) (any, error) {
	var q qmpRequest
	if err := json.NewDecoder(req.Body).Decode(&q); err != nil {
		return nil, badRequest{err}
	}
	return g.command(q.Execute, q.Arguments)
}

// waitConsole answers when a line has come that fits, or never: the client
// decides how long it waits.
func waitConsole(g *guest, req *http.Request) (any, error) {
	pattern, err := regexp.Compile(req.FormValue("pattern"))
	if err != nil {
		return nil, badRequest{err}
	}
	from, err := strconv.Atoi(req.FormValue("from"))
	if err != nil {
		return nil, badRequest{err}
	}
	return g.console.wait(req.Context(), pattern, from)
}

// badRequest is a request that could not be read.
type badRequest struct{ error }

func reply(w http.ResponseWriter, answer any, err error) {
	status := http.StatusOK
	var bad badRequest
	switch {
	case err == nil:
	case errors.As(err, &bad):
		status = http.StatusBadRequest
	case errors.Is(err, os.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, errState), errors.Is(err, errFleet), errors.Is(err, errQMPClosed):
		status = http.StatusConflict
	default:
		status = http.StatusInternalServerError
	}
	if err != nil {
		answer = controlError{Error: err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// An error here means that the client has gone.
	_ = json.NewEncoder(w).Encode(answer)
}

func (r *rack) state() State {
	s := State{Dir: r.Dir, PID: os.Getpid(), Accel: r.Accel, Started: r.Start, Simulated: r.Simulated}
	for _, n := range r.nodes {
		s.Nodes = append(s.Nodes, n.state())
	}
	for _, g := range r.guests {
		m, run, since := g.state()
		ms := MachineState{Machine: m, SerialLog: m.SerialLog(), Lines: g.console.count(), Power: run != nil, Since: since}
		if run != nil {
			ms.PID = run.cmd.Process.Pid
		}
		s.Machines = append(s.Machines, ms)
	}
	return s
}
