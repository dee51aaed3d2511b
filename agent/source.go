package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/lpmos/lpmos/agent/http1"
	"github.com/lpmos/lpmos/agent/wire"
)

// Manifest fetches the manifest of an image.
func (c *client) Manifest(ctx context.Context, digest string) (m wire.Manifest, err error) {
	err = c.image(ctx, query{method: "GET", path: "/manifest/" + url.PathEscape(digest), into: &m, limit: requestTime})
	return m, wrap("fetch manifest", err)
}

// Next asks what to fetch next and from where.
func (c *client) Next(ctx context.Context, req wire.NextRequest) (resp wire.NextResponse, err error) {
	err = c.image(ctx, query{method: "POST", path: "/api/v1/agent/next", body: req, into: &resp, limit: requestTime})
	return resp, wrap("ask for the next chunks", err)
}

// image is known for what an image is made of: what one node lacks, or has found
// broken, another may have.
func (c *client) image(ctx context.Context, q query) error {
	for asked := 1; ; asked++ {
		node := c.base()
		err := c.known(ctx, q)
		failed := imageFailure(err)
		if failed == err || asked >= c.nodes.count() {
			return failed
		}
		c.cfg.Console.Printf("%v; asking another node", err)
		c.nodes.turn(node)
	}
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
// path without a host is one of the node's own. Chunks are named by what is in them
// and come without TLS, which would be all that a slow machine does.
func (c *client) Fetch(ctx context.Context, where string) (io.ReadCloser, error) {
	if strings.HasPrefix(where, "/") {
		where = wire.PlainURL(c.base()) + where
	}
	if c.nodes.away(where) {
		// The next request is answered by another node, which names itself.
		return nil, fmt.Errorf("fetch %s: the node has fallen silent", where)
	}
	resp, err := c.http.Do(ctx, http1.Request{Method: "GET", URL: where})
	if err != nil {
		c.noted(ctx, c.nodes.of(where), err)
		return nil, err
	}
	if resp.Status != 200 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("fetch %s: the node answered %d", where, resp.Status)
	}
	return &chunkBody{ReadCloser: resp.Body, failed: func(err error) { c.noted(ctx, c.nodes.of(where), err) }}, nil
}

// chunkBody notices that the node falls silent in the middle of a chunk.
type chunkBody struct {
	io.ReadCloser
	failed func(error)
}

// Read reads the chunk.
func (b *chunkBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed(err)
	}
	return n, err
}
