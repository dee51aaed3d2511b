package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

const (
	// maxRedirects is how many redirections a fetch follows.
	maxRedirects = 5
	// fetchWait is how long a server may take for each step: to be reached, to shake
	// hands, to begin its answer, and to send the next bytes of it.
	fetchWait = time.Minute
)

// Fetcher gets images from other hosts. People choose the address and the node goes
// there, so it goes where they could go themselves and not where only the node can:
// not to itself, not to what hangs on its link without being asked for, which is where
// clouds keep the keys of their machines.
type Fetcher struct {
	allow  []netip.Prefix
	own    func() ([]net.Addr, error)
	client *http.Client
}

// NewFetcher makes one. The addresses of allow may be fetched from although they would
// be refused.
func NewFetcher(allow []netip.Prefix) *Fetcher {
	f := &Fetcher{allow: allow, own: net.InterfaceAddrs}
	f.client = f.clientWith(nil)
	return f
}

// clientWith makes the client; a resolver is given by tests.
func (f *Fetcher) clientWith(resolver *net.Resolver) *http.Client {
	// The address is checked when it is dialled. Asked for before, a name could have
	// another one by then.
	dialer := net.Dialer{Timeout: fetchWait, Resolver: resolver, ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
		return f.mayDial(address)
	}}
	return &http.Client{
		Transport: &http.Transport{ // and no proxy, which would go anywhere for us
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dialer.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &patientConn{c}, nil
			},
			TLSHandshakeTimeout: fetchWait, ResponseHeaderTimeout: fetchWait, MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives: true, ForceAttemptHTTP2: false,
		},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirections", maxRedirects)
			}
			if next.URL.Host != via[0].URL.Host {
				return fmt.Errorf("redirected from %s to another host, %.80s; give that address if you trust it", via[0].URL.Host, next.URL.Host)
			}
			if via[len(via)-1].URL.Scheme == "https" && next.URL.Scheme != "https" {
				return errors.New("redirected from https to http")
			}
			return checkURL(next.URL)
		},
	}
}

// mayDial says why an address is none to fetch from; nil if it is.
func (f *Fetcher) mayDial(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%.80q is no address to fetch from", address)
	}
	ip := at.Addr().WithZone("").Unmap()
	if slices.ContainsFunc(f.allow, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return nil
	}
	if inner, ok := embedded(ip); ok {
		return fmt.Errorf("%s leads to %s by way of a translation; give that address", ip, inner)
	}
	switch {
	case ip.IsLoopback(), ip.IsUnspecified(), zeroNet.Contains(ip):
		return fmt.Errorf("%s is the node itself, and images are not fetched from there", ip)
	case ip.IsLinkLocalUnicast(), slices.Contains(metadata, ip):
		return fmt.Errorf("%s is an address of the link or of a cloud's own services, and images are not fetched from there", ip)
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no address of one host", ip)
	}
	own, err := f.own()
	if err != nil {
		return fmt.Errorf("find out this node's own addresses: %w", err)
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == ip {
			return fmt.Errorf("%s is the node itself, and images are not fetched from there", ip)
		}
	}
	return nil
}

var (
	zeroNet = netip.MustParsePrefix("0.0.0.0/8")
	// Where clouds answer their machines, beside 169.254.0.0/16.
	metadata = []netip.Addr{netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192"), netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254")}
	// IPv6 addresses that hold an IPv4 address and, where somebody translates, lead there.
	translations = []netip.Prefix{netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("::ffff:0:0:0/96")}
)

// embedded is the IPv4 address in an IPv6 address that stands for one.
func embedded(ip netip.Addr) (netip.Addr, bool) {
	b := ip.As16()
	switch {
	case !ip.Is6() || ip.IsLoopback() || ip.IsUnspecified():
		return netip.Addr{}, false
	case slices.ContainsFunc(translations, func(p netip.Prefix) bool { return p.Contains(ip) }):
		return netip.AddrFrom4([4]byte(b[12:])), true
	case b[0] == 0x20 && b[1] == 0x02: // 6to4
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return netip.Addr{}, false
}

// patientConn waits for bytes as long as some come.
type patientConn struct{ net.Conn }

func (c *patientConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(fetchWait)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

// Fetch asks for an image at a URL. The body is to be given to Import and
// closed; size is its length in bytes, 0 when the server does not say. Only
// http and https are spoken, a redirection may not leave the host it came from,
// and more than maxBytes bytes (0: no limit) are an error.
func (f *Fetcher) Fetch(ctx context.Context, rawURL string, maxBytes uint64) (body io.ReadCloser, size uint64, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", errors.Unwrap(err))
	}
	if err := checkURL(u); err != nil {
		return nil, 0, fmt.Errorf("fetch image: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, 0, errors.New("fetch image: that is no address")
	}
	// The file is wanted as it lies there: its sum may have been stated.
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := f.client.Do(req)
	if err != nil {
		// The error is told to everybody who watches, and the whole URL, which it would
		// name, may hold a key.
		if asked := new(url.Error); errors.As(err, &asked) {
			err = asked.Err
		}
		return nil, 0, fmt.Errorf("fetch image from %s: %w", u.Host, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, 0, fmt.Errorf("fetch image: %s answered %d %s", u.Host, resp.StatusCode, http.StatusText(resp.StatusCode))
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
		return fmt.Errorf("%.20q is neither http nor https", u.Scheme)
	case u.Hostname() == "":
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
