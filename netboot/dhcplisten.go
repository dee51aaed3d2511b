package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// inFlight bounds how many DISCOVERs of one port are worked on at once, and how many
// other packets: those of machines that have been offered an address do not wait behind
// new ones. Leases that wait for the disk together share a write, so it is many. What
// finds no place is dropped and will be sent again; whoever reads packets never waits.
const inFlight = 1024

// places are those of one port.
type places struct{ discovers, others chan struct{} }

func newPlaces() places {
	return places{discovers: make(chan struct{}, inFlight), others: make(chan struct{}, inFlight)}
}

// take takes a place if there is one; leave gives it back.
func (p places) take(kind dhcpv4.MessageType) (leave func(), ok bool) {
	in := p.others
	if kind == dhcpv4.MessageTypeDiscover {
		in = p.discovers
	}
	select {
	case in <- struct{}{}:
		return func() { <-in }, true
	default:
		return nil, false
	}
}

// answerFunc decides on a request; false means that it is not answered.
type answerFunc func(context.Context, request) (reply, bool)

// dhcpPort is one UDP port of one link.
type dhcpPort struct {
	conn   *ipv4.PacketConn
	raw    *rawSocket // for clients without an address
	r      *responder
	answer answerFunc
}

// openDHCPPort listens; answer handles what comes in.
func openDHCPPort(ctx context.Context, r *responder, port int, answer answerFunc) (*dhcpPort, error) {
	c, err := listenUDP(ctx, r.link.Name, port, r.link.Mode == ModeProxy)
	if err != nil {
		return nil, err
	}
	conn := ipv4.NewPacketConn(c)
	if err := conn.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true); err != nil {
		c.Close()
		return nil, fmt.Errorf("UDP port %d on %s: %w", port, r.link.Name, err)
	}
	raw, err := openRaw(r.link.index, unix.ETH_P_IP, false)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("interface %s: %w", r.link.Name, err)
	}
	return &dhcpPort{conn: conn, raw: raw, r: r, answer: answer}, nil
}

// Close closes the port.
func (d *dhcpPort) Close() error { return errors.Join(d.conn.Close(), d.raw.Close()) }

// serve answers until ctx ends, then closes the port.
func (d *dhcpPort) serve(ctx context.Context) error {
	defer d.raw.Close()
	stop := context.AfterFunc(ctx, func() { d.conn.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	places := newPlaces()
	buf := make([]byte, 2048)
	for {
		n, cm, src, err := d.conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DHCP on %s: %w", d.r.link.Name, err)
		}
		if cm != nil && cm.IfIndex != 0 && cm.IfIndex != d.r.link.index {
			d.r.stats.add("dhcp.drop.other interface")
			continue
		}
		req, ok := d.take(buf[:n], cm, src)
		if !ok {
			continue
		}
		leave, ok := places.take(req.kind)
		if !ok {
			d.r.stats.add("dhcp.drop.busy")
			continue
		}
		wg.Go(func() {
			defer leave()
			d.handle(ctx, req)
		})
	}
}

// take decodes a packet; a panic in the codec costs that packet only.
func (d *dhcpPort) take(b []byte, cm *ipv4.ControlMessage, src net.Addr) (req request, ok bool) {
	defer d.recover("decode")
	from, _ := netip.ParseAddrPort(src.String())
	req, drop := parseRequest(append([]byte(nil), b...), from)
	if drop != "" {
		d.r.stats.add("dhcp.drop." + drop)
		return req, false
	}
	if cm != nil {
		dst, _ := netip.AddrFromSlice(cm.Dst.To4())
		req.unicast = slices.ContainsFunc(d.r.networks, func(n link) bool { return n.addr == dst })
	}
	return req, true
}

func (d *dhcpPort) handle(ctx context.Context, req request) {
	defer d.recover("answer")
	out, ok := d.answer(ctx, req)
	if !ok {
		return
	}
	if err := d.send(out); err != nil {
		d.r.stats.add("dhcp.send failed")
		if !d.r.mayComplain() {
			return
		}
		d.r.log.Warn("DHCP reply not sent", "interface", d.r.link.Name, "mac", req.machine.MAC, "to", out.to.addr, "err", err)
	}
}

func (d *dhcpPort) send(out reply) error {
	if out.to.hw != nil {
		return d.raw.send(udpPacket(netip.AddrPortFrom(out.from, dhcpServerPort), out.to.addr, out.packet), out.to.hw)
	}
	cm := &ipv4.ControlMessage{IfIndex: d.r.link.index, Src: out.from.AsSlice()}
	_, err := d.conn.WriteTo(out.packet, cm, net.UDPAddrFromAddrPort(out.to.addr))
	return err
}

func (d *dhcpPort) recover(doing string) {
	if p := recover(); p != nil {
		d.r.stats.add("dhcp.drop.panic")
		d.r.log.Error("a DHCP packet caused a panic; it was dropped", "interface", d.r.link.Name, "doing", doing, "panic", p, "stack", string(debug.Stack()))
	}
}
