// Package http1 is a small HTTP/1.1 client (RFC 9112) for the agent.
//
// The agent's binary travels over the network to every machine that boots, and
// net/http with the HTTP/2 code it always links is a good part of what may be spent
// on it. The agent talks to nodes of ours only, so a client without redirects,
// cookies, proxies and compression is all it takes: requests with a body known in
// advance, replies of stated length, chunked, or ended by closing, and connections
// kept for the next request. https takes a configuration that says whom to believe,
// and a request may be signed for the one connection it is sent on.
package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits on what a peer may make the client hold.
const (
	maxHeaderBytes = 64 << 10 // of all replies to a request: the final one and the 1xx before it
	maxIdle        = 8        // connections kept, over all peers
	idleFor        = 20 * time.Second
	dialTime       = 2500 * time.Millisecond
)

// DefaultStall is how long a peer may be silent.
const DefaultStall = 60 * time.Second

// Client sends requests. The zero value is ready; it may be used by several
// goroutines at once.
type Client struct {
	// Dial opens a connection; nil means a net.Dialer with a limit of 2.5 s: a
	// node is no further away than the next region, and one that is gone must not
	// keep its machines waiting.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Stall ends a request whose peer has sent nothing for so long, be it the
	// beginning of its reply, an interim reply (RFC 9110, section 15.2) or the next
	// piece of a body; 0 means DefaultStall.
	Stall time.Duration
	// TLS is for https URLs; nil means that there are none.
	TLS *tls.Config

	mu   sync.Mutex
	idle []*conn
}

// Request is one request.
type Request struct {
	Method string
	URL    string
	Header []Field
	Body   []byte
	// Sign gives further fields for a request over TLS, made for the connection that
	// it is sent on; uri is what the request line will say. nil: none.
	Sign func(on tls.ConnectionState, uri string) ([]Field, error)
}

// Field is a header field.
type Field struct{ Name, Value string }

// Response is the head of a reply and its body, which the caller closes. A body
// read to its end gives the connection back for the next request.
type Response struct {
	Status int
	Header []Field
	Body   io.ReadCloser
}

// Get returns the value of the first field of that name, or "".
func (r *Response) Get(name string) string {
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// conn is a connection with its reader, which may hold bytes already.
type conn struct {
	net.Conn
	r     *bufio.Reader
	addr  string
	tls   *tls.Conn // nil without
	stall time.Duration
	used  bool // a request was answered on it
	at    time.Time
}

// Read waits for the next bytes for as long as the peer may be silent.
func (c *conn) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(c.stall))
	return c.Conn.Read(p)
}

// Do sends req and reads the head of the reply. A request that fails on a kept
// connection before any byte of the reply is sent once more on another: the peer
// may have closed it meanwhile (RFC 9112, section 9.3.1), and every request of
// the agent may be repeated. A peer that was silent would be silent again.
func (c *Client) Do(ctx context.Context, req Request) (*Response, error) {
	u, err := url.Parse(req.URL)
	if err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	secure := u.Scheme == "https" && c.TLS != nil
	if !secure && u.Scheme != "http" || u.Hostname() == "" {
		return nil, fmt.Errorf("request: %.200q is not a URL that can be asked for", req.URL)
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), map[bool]string{true: "443", false: "80"}[secure])
	}
	for {
		cn, err := c.conn(ctx, addr, secure)
		if err != nil {
			return nil, err
		}
		head, err := cn.requestHead(u, req)
		if err != nil {
			_ = cn.Close()
			return nil, err
		}
		kept := cn.used
		resp, started, err := c.exchange(ctx, cn, req.Method, head, req.Body)
		if err == nil {
			return resp, nil
		}
		_ = cn.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var silent net.Error
		if !kept || started || errors.As(err, &silent) && silent.Timeout() {
			return nil, fmt.Errorf("%s %s: %w", req.Method, u.Redacted(), err)
		}
	}
}

// requestHead writes the request line and the fields.
func (c *conn) requestHead(u *url.URL, req Request) ([]byte, error) {
	fields := req.Header
	if c.tls != nil && req.Sign != nil {
		signed, err := req.Sign(c.tls.ConnectionState(), u.RequestURI())
		if err != nil {
			return nil, fmt.Errorf("sign the request: %w", err)
		}
		fields = slices.Concat(fields, signed)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", req.Method, u.RequestURI(), u.Host)
	for _, f := range fields {
		if strings.ContainsAny(f.Name, "\r\n: ") || strings.ContainsAny(f.Value, "\r\n") {
			return nil, fmt.Errorf("request: header field %.80q holds a line break", f.Name)
		}
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	if req.Body != nil || req.Method == "POST" || req.Method == "PUT" {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(req.Body))
	}
	b.WriteString("\r\n")
	return []byte(b.String()), nil
}

// conn takes a kept connection or opens one.
func (c *Client) conn(ctx context.Context, addr string, secure bool) (*conn, error) {
	c.mu.Lock()
	for i := len(c.idle) - 1; i >= 0; i-- {
		cn := c.idle[i]
		if time.Since(cn.at) > idleFor {
			_ = cn.Close()
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			continue
		}
		if cn.addr == addr && (cn.tls != nil) == secure {
			c.idle = append(c.idle[:i], c.idle[i+1:]...)
			c.mu.Unlock()
			return cn, nil
		}
	}
	c.mu.Unlock()
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTime}).DialContext
	}
	nc, err := dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	cn := &conn{Conn: nc, addr: addr, stall: c.Stall}
	if cn.stall == 0 {
		cn.stall = DefaultStall
	}
	if secure {
		if err := cn.handshake(ctx, c.TLS); err != nil {
			_ = nc.Close()
			return nil, err
		}
	}
	cn.r = bufio.NewReaderSize(cn, 16<<10)
	return cn, nil
}

// HandshakeError is a connection that was opened and is of no use: what is at the
// other end does not prove who it is, or does not speak TLS as it should.
type HandshakeError struct{ Err error }

// Error says what went wrong.
func (e *HandshakeError) Error() string { return "TLS: " + e.Err.Error() }

// Unwrap gives the reason.
func (e *HandshakeError) Unwrap() error { return e.Err }

// handshake makes the connection one that only the peer that was meant can read.
func (c *conn) handshake(ctx context.Context, cfg *tls.Config) error {
	ctx, cancel := context.WithTimeout(ctx, c.stall)
	defer cancel()
	c.tls = tls.Client(c.Conn, cfg)
	c.Conn = c.tls
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return &HandshakeError{err}
	}
	return nil
}

// keep puts a connection aside for the next request.
func (c *Client) keep(cn *conn) {
	cn.used, cn.at = true, time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.idle) == maxIdle {
		_ = c.idle[0].Close()
		c.idle = c.idle[1:]
	}
	c.idle = append(c.idle, cn)
}

// Close closes the connections that are kept.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cn := range c.idle {
		_ = cn.Close()
	}
	c.idle = nil
}

// exchange sends a request on cn and reads the head of the reply. started says
// that the peer had begun to answer.
func (c *Client) exchange(ctx context.Context, cn *conn, method string, head, body []byte) (resp *Response, started bool, err error) {
	// A context that ends makes every blocked call on the connection fail.
	stop := context.AfterFunc(ctx, func() { _ = cn.Close() })
	defer func() {
		if err != nil {
			stop()
		}
	}()
	_ = cn.SetWriteDeadline(time.Now().Add(cn.stall))
	if _, err := (&net.Buffers{head, body}).WriteTo(cn.Conn); err != nil {
		return nil, false, err
	}
	if _, err := cn.r.Peek(1); err != nil {
		return nil, false, noEOF(err)
	}
	h, err := readHead(cn.r, method)
	if err != nil {
		return nil, true, err
	}
	b := &body1{c: c, conn: cn, stop: stop, keep: h.keep, length: h.length, ctx: ctx}
	if h.chunked {
		b.src = newChunked(cn.r)
	} else if h.length >= 0 {
		b.src = io.LimitReader(cn.r, h.length)
	} else {
		b.src = cn.r
	}
	return &Response{Status: h.status, Header: h.fields, Body: b}, true, nil
}

// head is the parsed beginning of a reply.
type head struct {
	status  int
	fields  []Field
	length  int64 // of the body; -1 means chunked or until the peer closes
	chunked bool
	keep    bool // the connection may be used again
}

// readHead reads status line and fields of the final reply and says how its body
// is delimited (RFC 9112, section 6.3).
func readHead(r *bufio.Reader, method string) (head, error) {
	budget := maxHeaderBytes
	for {
		h, err := readOneHead(r, &budget)
		if err != nil {
			return head{}, err
		}
		// Each interim reply says that the peer is still at work.
		if h.status >= 200 {
			return h, h.delimit(method)
		}
	}
}

// readOneHead reads a status line and its fields.
func readOneHead(r *bufio.Reader, budget *int) (head, error) {
	line, err := readLine(r, budget)
	if err != nil {
		return head{}, err
	}
	version, rest, _ := strings.Cut(line, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.Atoi(code)
	if (version != "HTTP/1.1" && version != "HTTP/1.0") || len(code) != 3 || err != nil || status < 100 {
		return head{}, fmt.Errorf("reply: %.80q is not a status line of HTTP/1.1", line)
	}
	h := head{status: status, length: -1, keep: version == "HTTP/1.1"}
	for {
		line, err := readLine(r, budget)
		if err != nil {
			return head{}, err
		}
		if line == "" {
			return h, nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return head{}, fmt.Errorf("reply: %.80q is not a header field", line)
		}
		h.fields = append(h.fields, Field{name, strings.Trim(value, " \t")})
	}
}

// delimit works out where the body ends.
func (h *head) delimit(method string) error {
	for _, f := range h.fields {
		switch strings.ToLower(f.Name) {
		case "content-length":
			n, err := strconv.ParseInt(f.Value, 10, 64)
			if err != nil || n < 0 || f.Value[0] == '+' || (h.length >= 0 && h.length != n) {
				return fmt.Errorf("reply: bad content length %.40q", f.Value)
			}
			h.length = n
		case "transfer-encoding":
			if !strings.EqualFold(f.Value, "chunked") {
				return fmt.Errorf("reply: transfer encoding %.40q is not known", f.Value)
			}
			h.chunked = true
		case "connection":
			if strings.EqualFold(f.Value, "close") {
				h.keep = false
			}
		}
	}
	switch {
	case method == "HEAD" || h.status == 204 || h.status == 304:
		h.length, h.chunked = 0, false
	case h.chunked:
		h.length = -1
	case h.length < 0:
		h.keep = false
	}
	return nil
}

// readLine reads one line without its end and takes it off the budget.
func readLine(r *bufio.Reader, budget *int) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		*budget -= len(part)
		if *budget < 0 {
			return "", errors.New("reply: header too long")
		}
		line = append(line, part...)
		if err == nil {
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", noEOF(err)
		}
	}
	return strings.TrimSuffix(string(line[:len(line)-1]), "\r"), nil
}

// noEOF turns a clean end in the middle of a reply into an error that no reader
// takes for success.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
