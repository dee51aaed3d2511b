package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// SocketIn is the file of a node's own socket, in its data directory. Who may open
// it is an administrator.
func SocketIn(dataDir string) string { return filepath.Join(dataDir, "lpmos.sock") }

// maxSocketPath is what sun_path holds (unix(7)).
const maxSocketPath = 107

// ShortPath is a name of a socket's file that fits into its address, good until
// done is called.
func ShortPath(path string) (short string, done func(), err error) {
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}

// AtTheNode makes a client that comes by the socket of the node with this data
// directory.
func AtTheNode(dataDir string) *Client {
	path := SocketIn(dataDir)
	return &Client{base: &url.URL{Scheme: "http", Host: "localhost"}, name: path, local: true,
		http: &http.Client{Transport: &http.Transport{DialContext: DialAtTheNode(dataDir), MaxIdleConnsPerHost: 2}}}
}

// DialAtTheNode reaches the socket of the node with this data directory, whatever
// address is asked for.
func DialAtTheNode(dataDir string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		short, done, err := ShortPath(SocketIn(dataDir))
		if err != nil {
			return nil, err
		}
		defer done()
		var d net.Dialer
		return d.DialContext(ctx, "unix", short)
	}
}

// Local reports whether the client comes by a node's own socket.
func (c *Client) Local() bool { return c.local }

// LoginLink is the address that signs a browser in with a code. The code is in the
// part that browsers keep to themselves.
func LoginLink(dashboard, code string) string {
	return strings.TrimSuffix(dashboard, "/") + "/#login=" + code
}

// Key is what a client shows to be let in: an API token, or the cookie of a session.
type Key struct {
	Token  string       // lpat_…
	Cookie *http.Cookie // its name and value count
}

// With is the same client showing a key.
func (c *Client) With(k Key) *Client {
	other := *c
	other.key = k
	return &other
}

// At is a client of another node of the same cluster, which takes the same key.
func (c *Client) At(address string) (*Client, error) {
	if c.local {
		return nil, errors.New("a node's own socket leads to no other node")
	}
	other, err := New(address, c.http)
	if err != nil {
		return nil, err
	}
	if other.base.Scheme == "http" && c.base.Scheme == "https" {
		return nil, fmt.Errorf("node address %q is not one for a key that was given over https", address)
	}
	return other.With(c.key), nil
}

// show puts the key into a request.
func (c *Client) show(h http.Header) {
	switch {
	case c.key.Token != "":
		h.Set("Authorization", "Bearer "+c.key.Token)
	case c.key.Cookie != nil:
		h.Set("Cookie", c.key.Cookie.Name+"="+c.key.Cookie.Value)
	}
}
