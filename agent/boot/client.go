package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// errNak is a server's refusal of an address that was fine a moment ago.
var errNak = errors.New("dhcp: the server took its offer back")

// dhcpClient holds one conversation over one socket. The socket and the servers'
// address are given, so that a test can stand in for the wire.
type dhcpClient struct {
	conn  net.PacketConn
	to    net.Addr // of all servers: broadcast, port 67
	iface string
	mac   net.HardwareAddr
	rand  func() uint32
	start time.Time
}

// discover asks for an address: DISCOVER, OFFER, REQUEST, ACK. Each wait is one
// transmission of DISCOVER.
func (c *dhcpClient) discover(ctx context.Context, waits []time.Duration) (Lease, error) {
	xid := c.rand()
	for i, wait := range waits {
		offer, err := c.ask(ctx, c.to, dhcpQuery{kind: dhcpDiscover, xid: xid}, dhcpOffer, wait)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && i < len(waits)-1 {
			continue
		}
		if err != nil {
			return Lease{}, err
		}
		return c.request(ctx, c.to, dhcpQuery{
			kind: dhcpRequest, xid: xid, address: offer.Address.Addr(), server: offer.Server,
		})
	}
	return Lease{}, errors.New("dhcp: no attempt was allowed")
}

// renew asks for more time for a lease: of its server, and past T2 of all.
func (c *dhcpClient) renew(ctx context.Context, l Lease, to net.Addr) (Lease, error) {
	return c.request(ctx, to, dhcpQuery{kind: dhcpRequest, xid: c.rand(), client: l.Address.Addr()})
}

// request sends REQUEST up to three times and waits for the ACK.
func (c *dhcpClient) request(ctx context.Context, to net.Addr, q dhcpQuery) (Lease, error) {
	var err error
	for range 3 {
		var l Lease
		if l, err = c.ask(ctx, to, q, dhcpAck, 2*time.Second); err == nil {
			return l, nil
		}
		if errors.Is(err, errNak) || ctx.Err() != nil {
			break
		}
	}
	return Lease{}, err
}

// ask sends one packet and waits for the first reply of the wanted kind to this
// client. Whatever else arrives is somebody else's.
func (c *dhcpClient) ask(ctx context.Context, to net.Addr, q dhcpQuery, want byte, wait time.Duration) (Lease, error) {
	q.mac = c.mac
	q.secs = uint16(min(time.Since(c.start)/time.Second, 0xffff))
	deadline := time.Now().Add(wait)
	_ = c.conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := c.conn.WriteTo(q.marshal(), to); err != nil {
		if ctx.Err() != nil {
			return Lease{}, ctx.Err()
		}
		return Lease{}, fmt.Errorf("dhcp: send on %s: %w", c.iface, err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := c.conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil {
				return Lease{}, ctx.Err()
			}
			if !time.Now().Before(deadline) {
				return Lease{}, context.DeadlineExceeded
			}
			return Lease{}, fmt.Errorf("dhcp: receive on %s: %w", c.iface, err)
		}
		r, err := parseDHCP(buf[:n])
		if err != nil || r.xid != q.xid || string(r.mac[:]) != string(c.mac) {
			continue
		}
		if want == dhcpAck && r.kind == dhcpNak {
			return Lease{}, errNak
		}
		if r.kind == want && (want != dhcpOffer || r.lease.Server.IsValid()) {
			r.lease.Interface, r.lease.MAC = c.iface, c.mac
			if !r.lease.Server.IsValid() {
				r.lease.Server = q.server
			}
			return r.lease, nil
		}
	}
}

// serverAddr is where a lease is renewed at.
func serverAddr(a netip.Addr) net.Addr {
	return &net.UDPAddr{IP: a.AsSlice(), Port: 67}
}
