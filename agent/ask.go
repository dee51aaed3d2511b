package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/lpmos/lpmos/agent/http1"
	"github.com/lpmos/lpmos/agent/pin"
)

// query is a request that any of the nodes may answer.
type query struct {
	method, path string
	body, into   any
	limit        time.Duration // for one node to answer in
	rounds       int           // how often all nodes are asked before giving up; 0: for ever
}

// refusal is an answer that repeating the request does not mend.
type refusal struct {
	status int
	detail string
}

// Error says what the node said.
func (r *refusal) Error() string { return said(r.status, r.detail) }

// unable is the answer of a node that is well but cannot help now: it is cut off
// from the others, starting or busy.
type unable struct {
	status int
	detail string
}

// Error says what the node said.
func (u *unable) Error() string { return said(u.status, u.detail) }

func said(status int, detail string) string {
	if detail != "" {
		return detail
	}
	return fmt.Sprintf("the node answered %d", status)
}

// errSession means the node does not know the session (any more), or does not let
// one begin.
var errSession = errors.New("the node does not know this session")

// stranger is what the node said to that.
type stranger struct{ detail string }

// Error says what the node said.
func (s *stranger) Error() string { return orElse(s.detail, errSession.Error()) }

// Is makes every one of them an errSession.
func (s *stranger) Is(target error) bool { return target == errSession }

// isUntrusted reports whether somebody answered who is not believed.
func isUntrusted(err error) bool {
	var handshake *http1.HandshakeError
	if !errors.As(err, &handshake) {
		return false
	}
	// A connection that broke says nothing about who is at its other end; an alert
	// and what is no TLS do.
	var broken *net.OpError
	return errors.Is(err, pin.ErrUntrusted) || errors.As(err, new(tls.RecordHeaderError)) ||
		errors.As(err, &broken) && (broken.Op == "remote error" || broken.Op == "local error")
}

// known is retry for a node that knows this boot. When none of the nodes knows
// the session, the report is repeated with the same boot id and the request goes
// on. One alone may not have heard yet what another was told.
func (c *client) known(ctx context.Context, q query) error {
	for strangers := 1; ; strangers++ {
		c.mu.Lock()
		reported := c.reported
		c.mu.Unlock()
		node := c.base()
		err := c.retry(ctx, q)
		if !errors.Is(err, errSession) {
			return err
		}
		if strangers < c.nodes.count() {
			c.nodes.turn(node)
			if err := c.cfg.Sleep(ctx, firstPause); err != nil {
				return err
			}
			continue
		}
		if err := c.renewSession(ctx, reported); err != nil {
			return err
		}
		strangers = 0
	}
}

// renewSession reports again, unless somebody else just has.
func (c *client) renewSession(ctx context.Context, before int) error {
	c.renew.Lock()
	defer c.renew.Unlock()
	c.mu.Lock()
	fresh := c.reported != before
	c.mu.Unlock()
	if fresh {
		return nil
	}
	// A node that forgets at once is given time.
	if err := c.cfg.Sleep(ctx, firstPause); err != nil {
		return err
	}
	_, err := c.report(ctx)
	if errors.Is(err, errSession) {
		return &refusal{status: 401, detail: "the node does not accept this machine's report: " + err.Error()}
	}
	return err
}

// isPassing reports whether an error may pass: no node has answered yet.
func isPassing(err error) bool {
	var refused *refusal
	return err != nil && !errors.Is(err, errSession) && !errors.As(err, &refused)
}

// noted draws the conclusions for a node of how a request to it ended.
func (c *client) noted(ctx context.Context, node string, err error) {
	var cannot *unable
	switch {
	case node == "" || ctx.Err() != nil: // nobody's fault
	case !isPassing(err):
		c.nodes.heard(node)
	case errors.As(err, &cannot):
		c.nodes.heard(node)
		c.nodes.turn(node)
	default:
		c.nodes.silent(node)
	}
}

// retry repeats a request until a node answers it: over all nodes, with pauses
// that double. A refusal is an answer.
func (c *client) retry(ctx context.Context, q query) error {
	pause, doubts := firstPause, 0
	for try := 1; ; try++ {
		node := c.base()
		err := c.once(ctx, node, q)
		c.noted(ctx, node, err)
		if !isPassing(err) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		all := c.nodes.count()
		if doubts++; !isUntrusted(err) || c.hasBelieved() {
			doubts = 0
		} else if doubts >= all {
			// Nobody of those that the machine was told of is believed, and nobody ever
			// was: it was told wrong, or somebody is in between.
			return &Untrusted{node, err}
		}
		if q.rounds > 0 && try >= q.rounds*all {
			return err
		}
		if try == 1 || try%10 == 0 {
			c.cfg.Console.Printf("the node at %s %v; trying for as long as it takes", node, trouble{err})
		}
		// Machines that lost the same node must not come back all at once.
		spread := time.Duration(float64(pause) * (0.75 + 0.5*c.cfg.Rand()))
		if err := c.cfg.Sleep(ctx, spread); err != nil {
			return err
		}
		if try%all == 0 {
			pause = min(2*pause, longestPause)
		}
	}
}

// trouble words for the console why a node was of no help.
type trouble struct{ err error }

// String continues a sentence that begins with the node.
func (t trouble) String() string {
	var cannot *unable
	if errors.As(t.err, &cannot) {
		return "cannot help now (" + t.err.Error() + ")"
	}
	return "does not answer (" + t.err.Error() + ")"
}

// once makes one request to one node. The error is a *refusal for a 4xx other
// than 401, 408 and 429, errSession for 401, *unable for what the node says will
// pass, and anything else for a node that is not there.
func (c *client) once(ctx context.Context, node string, q query) error {
	ctx, cancel := context.WithTimeout(ctx, q.limit)
	defer cancel()
	req := http1.Request{Method: q.method, URL: node + q.path, Header: []http1.Field{{Name: "Accept", Value: "application/json"}}}
	if q.body != nil {
		b, err := json.Marshal(q.body)
		if err != nil {
			return &refusal{detail: "cannot be sent: " + err.Error()}
		}
		req.Body = b
		req.Header = append(req.Header, http1.Field{Name: "Content-Type", Value: "application/json"})
	}
	req.Sign = func(on tls.ConnectionState, uri string) ([]http1.Field, error) {
		return c.sign(on, req.Method, uri, req.Body)
	}
	resp, err := c.http.Do(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	c.believe()
	if resp.Status/100 != 2 {
		return failure(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the reply: %w", err)
	}
	if q.into == nil {
		return nil
	}
	if err := json.Unmarshal(data, q.into); err != nil {
		return fmt.Errorf("the reply is not understood: %w", err)
	}
	return nil
}

// failure reads an error reply, a problem document (RFC 9457) if all is well.
func failure(resp *http1.Response) error {
	var problem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err == nil {
		_ = json.Unmarshal(data, &problem) // anything else has no words for us
	}
	detail := orElse(problem.Detail, problem.Title)
	switch {
	case resp.Status == 401:
		return &stranger{detail}
	case resp.Status/100 == 3: // wherever it sends us, nobody is believed there
		return &unable{status: resp.Status, detail: fmt.Sprintf("the node answered %d, and redirects are not followed", resp.Status)}
	case resp.Status/100 == 4 && resp.Status != 408 && resp.Status != 425 && resp.Status != 429:
		return &refusal{status: resp.Status, detail: detail}
	}
	return &unable{status: resp.Status, detail: detail}
}

// Untrusted ends an agent that was told of no node that it can believe.
type Untrusted struct {
	Node string
	Err  error
}

// Error says what is wrong and what to do about it.
func (u *Untrusted) Error() string {
	return "the node at " + u.Node + " is not believed: " + u.Err.Error()
}

// Unwrap gives the reason.
func (u *Untrusted) Unwrap() error { return u.Err }

// believe notes that a node has proved to be of the cluster.
func (c *client) believe() {
	c.mu.Lock()
	first := !c.believed
	c.believed = true
	c.mu.Unlock()
	if first && c.cfg.Believed != nil {
		c.cfg.Believed()
	}
}

func (c *client) hasBelieved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.believed
}
