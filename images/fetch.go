package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// maxRedirects is how many redirections a fetch follows.
const maxRedirects = 5

// Fetch asks for an image at a URL. The body is to be given to Import and
// closed; size is its length in bytes, 0 when the server does not say. Only
// http and https are spoken, a redirection may not leave the host it came from,
// and more than maxBytes bytes (0: no limit) are an error. client gives the
// transport and its time limits; nil means http.DefaultClient.
func Fetch(ctx context.Context, client *http.Client, rawURL string, maxBytes uint64) (body io.ReadCloser, size uint64, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", err)
	}
	if err := checkURL(u); err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", err)
	}
	if client == nil {
		client = http.DefaultClient
	}
	// A copy, so that the rule for redirections stays with this request.
	c := *client
	c.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirections", maxRedirects)
		}
		if next.URL.Host != via[0].URL.Host {
			return fmt.Errorf("redirected from %s to another host, %s; give that address if you trust it", via[0].URL.Host, next.URL.Host)
		}
		if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
			return errors.New("redirected from https to http")
		}
		return checkURL(next.URL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", err)
	}
	// The file is wanted as it lies there: its sum may have been stated.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("fetch image: %s answered %s", u.Host, resp.Status)
	}
	if resp.ContentLength > 0 {
		size = uint64(resp.ContentLength)
	}
	if maxBytes > 0 && size > maxBytes {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("fetch image: %d MiB are over the limit of %d MiB", size>>20, maxBytes>>20)
	}
	if maxBytes == 0 {
		return resp.Body, size, nil
	}
	return &limitedBody{ReadCloser: resp.Body, left: maxBytes, limit: maxBytes}, size, nil
}

// checkURL allows what Fetch may speak to.
func checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q is neither http nor https", u.Scheme)
	case u.Host == "":
		return errors.New("the address names no host")
	}
	return nil
}

// limitedBody fails, rather than ends, when a server sends too much.
type limitedBody struct {
	io.ReadCloser
	left, limit uint64
}

// Read reads up to the limit.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		var one [1]byte
		n, err := b.ReadCloser.Read(one[:])
		if n > 0 {
			return 0, fmt.Errorf("the server sent more than the limit of %d MiB", b.limit>>20)
		}
		return 0, err
	}
	if uint64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= uint64(n)
	return n, err
}
