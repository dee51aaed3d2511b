package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/http1"
	"github.com/lpmos/lpmos/agent/wire"
)

// Times and limits of the conversation with a node.
const (
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
	requestTime  = 20 * time.Second
	pollTime     = 40 * time.Second // a node holds a poll for 25 s at most
	silence      = 5 * time.Second  // more than twice what a node lets pass before it says that it is at work
	maxReply     = 64 << 20         // a manifest of the largest image
	maxProblem   = 64 << 10
)

// client talks to one of the nodes at a time, and to the next when that one does
// not answer. It may be used by several goroutines.
type client struct {
	cfg   Config
	http  *http1.Client
	nodes *nodes

	mu       sync.Mutex
	reported int                // reports that were taken
	hello    wire.ReportRequest // repeated when a node has forgotten the session
	renew    sync.Mutex         // one report at a time
	believed bool               // a node has proved that it is of the cluster
}

func newClient(cfg Config) *client {
	stall := cfg.Silence
	if stall == 0 {
		stall = silence
	}
	return &client{cfg: cfg, http: &http1.Client{Dial: cfg.Dial, Stall: stall, TLS: cfg.Trust.Config()}, nodes: newNodes(wire.Nodes(cfg.Nodes))}
}

// isRevoked reports whether the node says that the task is not this agent's any
// more: it is another machine's (403), deleted (404, 410), or no longer
// installing in this generation (409).
func isRevoked(err error) bool {
	var r *refusal
	if !errors.As(err, &r) {
		return false
	}
	switch r.status {
	case 403, 404, 409, 410:
		return true
	}
	return false
}

// base is the URL of the node in use.
func (c *client) base() string { return c.nodes.now() }

func (c *client) setReport(r wire.ReportRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hello = r
}

// report posts the report, by which the agent's key becomes its machine's session.
func (c *client) report(ctx context.Context) (wire.ReportResponse, error) {
	c.mu.Lock()
	hello := c.hello
	c.mu.Unlock()
	var resp wire.ReportResponse
	if err := c.retry(ctx, query{method: "POST", path: "/api/v1/agent/report", body: hello, into: &resp, limit: requestTime}); err != nil {
		return resp, fmt.Errorf("report: %w", err)
	}
	c.nodes.learn(resp.Nodes)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reported++
	return resp, nil
}

// approval is one long poll.
func (c *client) approval(ctx context.Context) (resp wire.ApprovalResponse, err error) {
	err = c.known(ctx, query{method: "GET", path: "/api/v1/agent/approval/" + url.PathEscape(c.cfg.MAC), into: &resp, limit: pollTime})
	c.nodes.learn(resp.Nodes)
	return resp, wrap("ask for approval", err)
}

// status moves a task. Nil means that it is committed or, for an end, that a
// node keeps it.
func (c *client) status(ctx context.Context, req wire.StatusRequest) error {
	q := query{method: "POST", path: "/api/v1/agent/status", body: req, limit: requestTime}
	if req.Status == wire.StatusInstalling {
		return c.known(ctx, q)
	}
	// A node that is cut off from the others keeps the end of an install until it
	// hears of them again. Until then the others would send this machine back into
	// the agent, so each is asked to write it down before one is asked to keep it.
	q.rounds = 1
	err := c.known(ctx, q)
	if !isPassing(err) || ctx.Err() != nil {
		return err
	}
	req.Keep = true
	return c.known(ctx, query{method: q.method, path: q.path, body: req, limit: q.limit})
}

// progress posts how far an install has come.
func (c *client) progress(ctx context.Context, req wire.ProgressRequest) error {
	return c.known(ctx, query{method: "POST", path: "/api/v1/agent/progress", body: req, limit: requestTime})
}

// log posts lines of the console, once.
func (c *client) log(ctx context.Context, req wire.LogRequest) error {
	node := c.base()
	err := c.once(ctx, node, query{method: "POST", path: "/api/v1/agent/log", body: req, limit: requestTime})
	c.noted(ctx, node, err)
	return err
}

// sign proves whose request it is: this agent's, on this connection.
func (c *client) sign(on tls.ConnectionState, method, uri string, body []byte) ([]http1.Field, error) {
	exported, err := on.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterBytes)
	if err != nil {
		return nil, err
	}
	public, signature := wire.SignRequest(c.cfg.Key, exported, method, uri, body)
	return []http1.Field{{Name: wire.HeaderKey, Value: public}, {Name: wire.HeaderSignature, Value: signature}}, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// NewKey makes the key of one boot's session.
func NewKey() ed25519.PrivateKey {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return ed25519.NewKeyFromSeed(seed)
}

// NewBootID makes the name of one boot: 128 random bits in hex.
func NewBootID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
