package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
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
	maxReply     = 64 << 20         // a manifest of the largest image
	maxProblem   = 64 << 10
)

// client talks to one of the nodes at a time, and to the next when that one does
// not answer. It may be used by several goroutines.
type client struct {
	cfg  Config
	http *http1.Client

	mu      sync.Mutex
	at      int // index of the node in use
	session string
	hello   wire.ReportRequest // repeated when a node has forgotten the session
	renew   sync.Mutex         // one report at a time
}

func newClient(cfg Config) *client {
	return &client{cfg: cfg, http: &http1.Client{Dial: cfg.Dial}}
}

// refusal is an answer that repeating the request does not mend.
type refusal struct {
	status int
	detail string
}

// Error says what the node said.
func (r *refusal) Error() string {
	if r.detail != "" {
		return r.detail
	}
	return fmt.Sprintf("the node answered %d", r.status)
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

// errSession means the node does not know the session (any more).
var errSession = errors.New("the node does not know this session")

// base is the URL of the node in use.
func (c *client) base() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cfg.Nodes[c.at]
}

// turn goes to the next node, unless somebody else has already left this one.
func (c *client) turn(from string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cfg.Nodes[c.at] == from {
		c.at = (c.at + 1) % len(c.cfg.Nodes)
	}
}

func (c *client) setReport(r wire.ReportRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hello = r
}

// report posts the report and keeps the session.
func (c *client) report(ctx context.Context) (wire.ReportResponse, error) {
	c.mu.Lock()
	hello := c.hello
	c.mu.Unlock()
	var resp wire.ReportResponse
	if err := c.retry(ctx, "POST", "/api/v1/agent/report", hello, &resp, requestTime); err != nil {
		return resp, fmt.Errorf("report: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = resp.Session
	return resp, nil
}

// approval is one long poll.
func (c *client) approval(ctx context.Context) (resp wire.ApprovalResponse, err error) {
	err = c.known(ctx, "GET", "/api/v1/agent/approval/"+url.PathEscape(c.cfg.MAC), nil, &resp, pollTime)
	return resp, wrap("ask for approval", err)
}

// status moves a task. Nil means the node has committed it.
func (c *client) status(ctx context.Context, req wire.StatusRequest) error {
	return c.known(ctx, "POST", "/api/v1/agent/status", req, nil, requestTime)
}

// progress posts how far an install has come.
func (c *client) progress(ctx context.Context, req wire.ProgressRequest) error {
	return c.known(ctx, "POST", "/api/v1/agent/progress", req, nil, requestTime)
}

// log posts lines of the console, once.
func (c *client) log(ctx context.Context, req wire.LogRequest) error {
	return c.once(ctx, "POST", "/api/v1/agent/log", req, nil, requestTime)
}

// Manifest fetches the manifest of an image.
func (c *client) Manifest(ctx context.Context, digest string) (m wire.Manifest, err error) {
	err = c.known(ctx, "GET", "/manifest/"+url.PathEscape(digest), nil, &m, requestTime)
	return m, wrap("fetch manifest", imageFailure(err))
}

// Next asks what to fetch next and from where.
func (c *client) Next(ctx context.Context, req wire.NextRequest) (resp wire.NextResponse, err error) {
	err = c.known(ctx, "POST", "/api/v1/agent/next", req, &resp, requestTime)
	return resp, wrap("ask for the next chunks", imageFailure(err))
}

// imageFailure makes the node's word that an image or a chunk of it cannot be had
// the end of the install: asking again would be asking for ever.
func imageFailure(err error) error {
	var r *refusal
	if errors.As(err, &r) && (r.status == 400 || r.status == 404 || r.status == 412) {
		return &wire.TaskError{Code: wire.CodeImageError, Message: "the node cannot give the image: " + r.Error()}
	}
	return err
}

// Fetch opens one chunk, once: the installer asks Next again when it fails. A
// path without a host is one of the node's own.
func (c *client) Fetch(ctx context.Context, where string) (io.ReadCloser, error) {
	if strings.HasPrefix(where, "/") {
		where = c.base() + where
	}
	resp, err := c.http.Do(ctx, http1.Request{Method: "GET", URL: where})
	if err != nil {
		return nil, err
	}
	if resp.Status != 200 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("fetch %s: the node answered %d", where, resp.Status)
	}
	return resp.Body, nil
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// known is retry for a node that knows this boot: when the node has forgotten
// the session, as it may after a restart, the report is repeated with the same
// boot id and the request goes on.
func (c *client) known(ctx context.Context, method, path string, body, into any, limit time.Duration) error {
	for {
		c.mu.Lock()
		session := c.session
		c.mu.Unlock()
		err := c.retry(ctx, method, path, body, into, limit)
		if !errors.Is(err, errSession) {
			return err
		}
		if err := c.renewSession(ctx, session); err != nil {
			return err
		}
	}
}

// renewSession reports again, unless somebody else just has.
func (c *client) renewSession(ctx context.Context, old string) error {
	c.renew.Lock()
	defer c.renew.Unlock()
	c.mu.Lock()
	fresh := c.session != old
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
		return &refusal{status: 401, detail: "the node does not accept this machine's report"}
	}
	return err
}

// retry repeats a request until a node answers it: over all nodes, with pauses
// that double. A refusal is an answer.
func (c *client) retry(ctx context.Context, method, path string, body, into any, limit time.Duration) error {
	pause := firstPause
	for try := 1; ; try++ {
		node := c.base()
		err := c.once(ctx, method, path, body, into, limit)
		var refused *refusal
		if err == nil || errors.Is(err, errSession) || errors.As(err, &refused) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		c.turn(node)
		if try == 1 || try%10 == 0 {
			c.cfg.Console.Printf("the node at %s does not answer (%v); trying for as long as it takes", node, err)
		}
		// Machines that lost the same node must not come back all at once.
		spread := time.Duration(float64(pause) * (0.75 + 0.5*c.cfg.Rand()))
		if err := c.cfg.Sleep(ctx, spread); err != nil {
			return err
		}
		if try%len(c.cfg.Nodes) == 0 {
			pause = min(2*pause, longestPause)
		}
	}
}

// once makes one request. The error is a *refusal for a 4xx other than 401, 408
// and 429, errSession for 401, and anything else for what may pass.
func (c *client) once(ctx context.Context, method, path string, body, into any, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req := http1.Request{Method: method, URL: c.base() + path, Header: []http1.Field{{Name: "Accept", Value: "application/json"}}}
	c.mu.Lock()
	if c.session != "" {
		req.Header = append(req.Header, http1.Field{Name: "Authorization", Value: "Bearer " + c.session})
	}
	c.mu.Unlock()
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return &refusal{detail: "cannot be sent: " + err.Error()}
		}
		req.Body = b
		req.Header = append(req.Header, http1.Field{Name: "Content-Type", Value: "application/json"})
	}
	resp, err := c.http.Do(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.Status/100 != 2 {
		return failure(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read the reply: %w", err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(data, into); err != nil {
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
		return errSession
	case resp.Status/100 == 4 && resp.Status != 408 && resp.Status != 425 && resp.Status != 429:
		return &refusal{status: resp.Status, detail: detail}
	}
	return fmt.Errorf("the node answered %d %s", resp.Status, detail)
}

// NewBootID makes the name of one boot: 128 random bits in hex.
func NewBootID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
