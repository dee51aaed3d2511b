package pxeclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"
)

const (
	maxBootFile = 256 << 20
	// A node allows one address a few TFTP transfers at once, and all clients of
	// a wire share this host's.
	transfers = 4
)

// Wire is a real network interface of this host. Any number of clients can
// share one: answers come as broadcasts, and each knows its own by address and
// transaction.
type Wire struct {
	conn      net.PacketConn
	configure func(context.Context, netip.Prefix) error
	transfers chan struct{} // tokens of the TFTP transfers under way

	mu      sync.Mutex
	waiting map[chan []byte]bool
}

// OpenWire uses the named interface, which needs root or cap_net_raw. configure
// is called with each address that is given to a client, and may be nil when
// the host has an address in that network already.
func OpenWire(ctx context.Context, device string, configure func(context.Context, netip.Prefix) error) (*Wire, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		ctlErr := raw.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			)
		})
		return errors.Join(ctlErr, err)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return nil, fmt.Errorf("UDP port 68 on %s: %w", device, err)
	}
	w := &Wire{
		conn: conn, configure: configure,
		transfers: make(chan struct{}, transfers), waiting: make(map[chan []byte]bool),
	}
	go w.receive()
	return w, nil
}

// Close closes the port and ends every wait.
func (w *Wire) Close() error {
	return w.conn.Close()
}

// Client is the network of one client on the wire. Close it when done.
func (w *Wire) Client() *WireClient {
	c := &WireClient{wire: w, in: make(chan []byte, 64)}
	c.http.Transport = &http.Transport{DialContext: c.dial}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[c.in] = true
	return c
}

// receive hands every packet to every client.
func (w *Wire) receive() {
	buf := make([]byte, 2048)
	for {
		n, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		packet := bytes.Clone(buf[:n])
		w.mu.Lock()
		for c := range w.waiting {
			select {
			case c <- packet:
			default: // a client that does not listen loses packets, as on a wire
			}
		}
		w.mu.Unlock()
	}
}

// WireClient is a Network.
type WireClient struct {
	wire *Wire
	in   chan []byte
	http http.Client
	addr netip.Addr // that it was given and that this host has; zero: any
}

// dial connects from the client's own address: the host may have those of others.
func (c *WireClient) dial(ctx context.Context, network, to string) (net.Conn, error) {
	d := net.Dialer{}
	if c.addr.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: c.addr.AsSlice()}
	}
	return d.DialContext(ctx, network, to)
}

// Close stops listening.
func (c *WireClient) Close() {
	c.http.CloseIdleConnections()
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	delete(c.wire.waiting, c.in)
}

// SendDHCP implements Network.
func (c *WireClient) SendDHCP(_ context.Context, packet []byte, to netip.AddrPort) error {
	_, err := c.wire.conn.WriteTo(packet, net.UDPAddrFromAddrPort(to))
	return err
}

// ReceiveDHCP implements Network.
func (c *WireClient) ReceiveDHCP(ctx context.Context) ([]byte, error) {
	select {
	case b := <-c.in:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Configure implements Network.
func (c *WireClient) Configure(ctx context.Context, addr netip.Prefix) error {
	if c.wire.configure == nil {
		return nil
	}
	if err := c.wire.configure(ctx, addr); err != nil {
		return err
	}
	c.addr = addr.Addr()
	c.http.CloseIdleConnections() // they are from the address before
	return nil
}

// TFTP implements Network.
func (c *WireClient) TFTP(ctx context.Context, server netip.Addr, name string) ([]byte, error) {
	select {
	case c.wire.transfers <- struct{}{}:
		defer func() { <-c.wire.transfers }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	client, err := tftp.NewClient(netip.AddrPortFrom(server, 69).String())
	if err != nil {
		return nil, err
	}
	client.SetBlockSize(1468)
	client.RequestTSize(true)
	client.SetTimeout(2 * time.Second)
	from, err := client.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := from.WriteTo(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// HTTP implements Network.
func (c *WireClient) HTTP(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBootFile+1))
	if err == nil && len(b) > maxBootFile {
		err = fmt.Errorf("GET %s: more than %d bytes", url, maxBootFile)
	}
	return b, err
}
