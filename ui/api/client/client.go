// Package client speaks a node's REST API and socket: what the command line and
// other programs in Go use in place of a browser.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/lpmos/lpmos/ui/api"
)

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 256 << 20

// Client speaks to one node.
type Client struct {
	base  *url.URL
	http  *http.Client
	name  string // in errors
	local bool
	key   Key
}

// New makes a client of the node at an address such as http://127.0.0.1:8080.
// hc may be nil.
func New(address string, hc *http.Client) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("node address %q: write it as http://127.0.0.1:8080", address)
	}
	if hc == nil {
		hc = http.DefaultClient
	}
	return &Client{base: &url.URL{Scheme: u.Scheme, Host: u.Host}, http: hc, name: u.Host}, nil
}

// Name of the node in sentences: its host and port, or the file of its socket.
func (c *Client) Name() string { return c.name }

// Address of the node.
func (c *Client) Address() string { return c.base.String() }

// Error is a refusal of the node, in its words.
type Error struct{ api.Problem }

// Error is the detail and what goes with it.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = strconv.Itoa(e.Status) + " " + e.Title
	}
	if len(e.Changed) > 0 {
		text += ": " + strings.Join(e.Changed, "; ")
	}
	return text
}

// StatusOf is the HTTP status of a refusal, or 0 for any other error.
func StatusOf(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// request is one call: in is a JSON body, out where the answer goes; both may be nil.
func (c *Client) request(ctx context.Context, method, path string, query url.Values, in, out any) error {
	var body io.Reader
	kind := ""
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body, kind = bytes.NewReader(b), "application/json"
	}
	return c.send(ctx, method, path, query, kind, body, out)
}

func (c *Client) send(ctx context.Context, method, path string, query url.Values, kind string, body io.Reader, out any) error {
	res, err := c.open(ctx, method, path, query, kind, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := c.readAll(res.Body)
	if err != nil || out == nil {
		return err
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("read the answer of node %s to %s %s: %w", c.name, method, path, err)
	}
	return nil
}

// open makes a call and gives its answer, to be read and closed, or the node's
// refusal as an *Error.
func (c *Client) open(ctx context.Context, method, path string, query url.Values, kind string, body io.Reader) (*http.Response, error) {
	u := c.base.JoinPath("/api/v1", path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	c.show(req.Header)
	// A file says how long it is, so that the node can refuse early what it has no
	// space for.
	if f, ok := body.(interface{ Stat() (fs.FileInfo, error) }); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			req.ContentLength = fi.Size()
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("reach node %s: %w", c.name, err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	answer, err := c.readAll(res.Body)
	if err != nil {
		return nil, err
	}
	e := &Error{Problem: *api.NewProblem(res.StatusCode, "")}
	if err := json.Unmarshal(answer, &e.Problem); err != nil {
		e.Detail = fmt.Sprintf("node %s answered %s", c.name, res.Status)
	}
	return nil, e
}

func (c *Client) readAll(body io.Reader) ([]byte, error) {
	answer, err := io.ReadAll(io.LimitReader(body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of node %s: %w", c.name, err)
	}
	return answer, nil
}

// segment makes a path of words that may hold anything.
func segment(words ...string) string {
	for i, w := range words {
		words[i] = url.PathEscape(w)
	}
	return strings.Join(words, "/")
}
