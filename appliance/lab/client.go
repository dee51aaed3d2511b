package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

// Client steers a running rack through its control socket. Its methods are
// safe for use by several goroutines; every error names what was asked for.
type Client struct {
	dir  string
	http http.Client
}

// NewClient returns a client for the rack in dir. It connects when first used.
func NewClient(dir string) *Client {
	var d net.Dialer
	return &Client{dir: dir, http: http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socketPath(dir))
		},
	}}}
}

// State returns the rack and its machines as they are now.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	err := c.call(ctx, http.MethodGet, "/rack", nil, &s)
	return s, err
}

// Machine returns one machine as it is now.
func (c *Client) Machine(ctx context.Context, name string) (MachineState, error) {
	s, err := c.State(ctx)
	if err != nil {
		return MachineState{}, err
	}
	for _, m := range s.Machines {
		if m.Name == name {
			return m, nil
		}
	}
	return MachineState{}, fmt.Errorf("the rack has no machine %q", name)
}

// PowerOn gives a machine power; an error when it has power already.
func (c *Client) PowerOn(ctx context.Context, machine string) error {
	return c.machine(ctx, machine, "on")
}

// PowerOff takes a machine's power away without asking its system. It returns
// when the machine is off, also when it was off before.
func (c *Client) PowerOff(ctx context.Context, machine string) error {
	return c.machine(ctx, machine, "off")
}

// Reset presses a machine's reset button.
func (c *Client) Reset(ctx context.Context, machine string) error {
	return c.machine(ctx, machine, "reset")
}

// SetDisks changes what is in a machine's disk slots, first slot first. The
// machine must be off. A file that does not exist is made, empty, at power-on.
func (c *Client) SetDisks(ctx context.Context, machine string, disks []Disk) error {
	return c.call(ctx, http.MethodPut, "/machines/"+url.PathEscape(machine)+"/disks", disks, nil)
}

// ReplaceDisks switches a machine off, changes its disks and switches it on.
func (c *Client) ReplaceDisks(ctx context.Context, machine string, disks []Disk) error {
	if err := c.PowerOff(ctx, machine); err != nil {
		return err
	}
	if err := c.SetDisks(ctx, machine, disks); err != nil {
		return err
	}
	return c.PowerOn(ctx, machine)
}

// Type types text on a machine's serial console, as it is: end a line with \n.
func (c *Client) Type(ctx context.Context, machine, text string) error {
	return c.send(ctx, http.MethodPost, "/machines/"+url.PathEscape(machine)+"/type", bytes.NewReader([]byte(text)), nil)
}

// QMP runs one command of QEMU's machine protocol, such as set_link with
// {"name": "net0", "up": false}, and returns its answer. Arguments may be nil.
func (c *Client) QMP(ctx context.Context, machine, command string, arguments any) (json.RawMessage, error) {
	request := qmpRequest{Execute: command}
	if arguments != nil {
		var err error
		if request.Arguments, err = json.Marshal(arguments); err != nil {
			return nil, fmt.Errorf("qmp %s: %w", command, err)
		}
	}
	var answer json.RawMessage
	err := c.call(ctx, http.MethodPost, "/machines/"+url.PathEscape(machine)+"/qmp", request, &answer)
	return answer, err
}

// WaitSerial returns the first line of a machine's console, from line number
// `from` on, that fits the regular expression (RE2), as soon as there is one.
// Lines are counted over the life of the rack, so 0 looks at all of them and
// MachineState.Lines at those to come. It waits until ctx ends.
func (c *Client) WaitSerial(ctx context.Context, machine, pattern string, from int) (Match, error) {
	query := url.Values{"pattern": {pattern}, "from": {strconv.Itoa(from)}}
	var m Match
	err := c.call(ctx, http.MethodGet, "/machines/"+url.PathEscape(machine)+"/console?"+query.Encode(), nil, &m)
	if err != nil {
		return m, fmt.Errorf("wait for %q on %s: %w", pattern, machine, err)
	}
	return m, nil
}

// Node returns one node as it is now.
func (c *Client) Node(ctx context.Context, name string) (NodeState, error) {
	s, err := c.State(ctx)
	if err != nil {
		return NodeState{}, err
	}
	for _, n := range s.Nodes {
		if n.Name == name {
			return n, nil
		}
	}
	return NodeState{}, fmt.Errorf("the rack has no node %q", name)
}

// KillNode ends a node with kill -9; with restart it is started again at once,
// without it the node stays dead until HealNode or StartNode.
func (c *Client) KillNode(ctx context.Context, name string, restart bool) error {
	return c.node(ctx, name, "kill", killRequest{Restart: restart})
}

// PauseNode stops a node where it is, as SIGSTOP does: its host still takes
// connections, and nobody serves them.
func (c *Client) PauseNode(ctx context.Context, name string) error {
	return c.node(ctx, name, "pause", nil)
}

// CutNode takes a node off the rack's wire: neither nodes nor machines reach
// it. Its dashboard on the host stays in reach.
func (c *Client) CutNode(ctx context.Context, name string) error {
	return c.node(ctx, name, "cut", nil)
}

// CutPair lets nothing through between two nodes, in silence; everybody else
// still reaches both. Healing either of them undoes it.
func (c *Client) CutPair(ctx context.Context, a, b string) error {
	return c.node(ctx, a, "cut/"+url.PathEscape(b), nil)
}

// HealNode takes back everything that was done to a node: it is on the wire,
// runs and goes on.
func (c *Client) HealNode(ctx context.Context, name string) error {
	return c.node(ctx, name, "heal", nil)
}

// StartNode starts a node unless it runs.
func (c *Client) StartNode(ctx context.Context, name string) error {
	return c.node(ctx, name, "start", startRequest{})
}

// StopNode ends a node the orderly way and leaves it stopped.
func (c *Client) StopNode(ctx context.Context, name string) error {
	return c.node(ctx, name, "stop", nil)
}

// joinNode starts a node that has not joined the rack's cluster yet.
func (c *Client) joinNode(ctx context.Context, name, token, address string) error {
	return c.node(ctx, name, "start", startRequest{Join: []string{token, address}})
}

func (c *Client) node(ctx context.Context, name, action string, in any) error {
	return c.call(ctx, http.MethodPost, "/nodes/"+url.PathEscape(name)+"/"+action, in, nil)
}

// Stop takes the whole rack down. It returns when the rack has understood;
// Rack.Wait tells when it is gone.
func (c *Client) Stop(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/stop", nil, nil)
}

func (c *Client) machine(ctx context.Context, name, action string) error {
	return c.call(ctx, http.MethodPost, "/machines/"+url.PathEscape(name)+"/"+action, nil, nil)
}

// call sends a document, when there is one, and reads one.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("rack: %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	return c.send(ctx, method, path, body, out)
}

func (c *Client) send(ctx context.Context, method, path string, body io.Reader, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://rack"+path, body)
	if err != nil {
		return fmt.Errorf("rack: %w", err)
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("rack: answer to %s: %w", req.URL.Path, err)
	}
	return nil
}

// do sends a request; an answer that it gives is a good one.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("no rack runs in %s: start one there with lpmos lab up", c.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("rack: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e controlError
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil || e.Error == "" {
		e.Error = resp.Status
	}
	return nil, errors.New("rack: " + e.Error)
}
