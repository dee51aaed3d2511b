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
	"time"

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

// answerFunc decides on a request, at once (reply.later); false means that it is not
// answered.
type answerFunc func(context.Context, request) (reply, bool)

// Packets that come faster than one in readEvery are read together, so many at once: to
// be woken for one takes longer than to answer it. One that comes alone is answered at
// once.
const (
	readEvery  = time.Millisecond
	readAtOnce = 64
)

// dhcpPort is one UDP port of one link.
type dhcpPort struct {
	udp    *net.UDPConn
	conn   *ipv4.PacketConn // the same
	raw    *rawSocket       // for clients without an address
	r      *responder
	answer answerFunc
	leaves map[netip.Addr][]byte // by the address a packet is to leave from, what tells the kernel so
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
	d := &dhcpPort{udp: c, conn: conn, raw: raw, r: r, answer: answer, leaves: map[netip.Addr][]byte{}}
	for _, n := range r.networks {
		cm := ipv4.ControlMessage{IfIndex: r.link.index, Src: n.addr.AsSlice()}
		d.leaves[n.addr] = cm.Marshal()
	}
	return d, nil
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
	in := make([]ipv4.Message, readAtOnce)
	for i := range in {
		in[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 2048)}, OOB: ipv4.NewControlMessage(ipv4.FlagDst | ipv4.FlagInterface)}
	}
	var last time.Time
	for {
		n, err := d.conn.ReadBatch(in, 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DHCP on %s: %w", d.r.link.Name, err)
		}
		for _, m := range in[:n] {
			d.read(ctx, m, places, &wg)
		}
		now := time.Now()
		if wait := readEvery - now.Sub(last); wait > 0 {
			time.Sleep(wait)
			now = now.Add(wait)
		}
		last = now
	}
}

// read answers one packet, or sees to it that it is answered.
func (d *dhcpPort) read(ctx context.Context, m ipv4.Message, places places, wg *sync.WaitGroup) {
	req, ok := d.take(m)
	if !ok {
		return
	}
	leave, ok := places.take(req.kind)
	if !ok {
		d.r.stats.add("dhcp.drop.busy")
		return
	}
	wg.Add(1)
	done := func() { leave(); wg.Done() }
	if req.kind == dhcpv4.MessageTypeRelease { // the book waits for the disk
		go d.handle(ctx, req, done)
		return
	}
	d.handle(ctx, req, done)
}

// take decodes a packet; a panic in the codec costs that packet only.
func (d *dhcpPort) take(m ipv4.Message) (req request, ok bool) {
	defer d.recover("decode")
	var cm ipv4.ControlMessage
	if err := cm.Parse(m.OOB[:m.NN]); err == nil && cm.IfIndex != 0 && cm.IfIndex != d.r.link.index {
		d.r.stats.add("dhcp.drop.other interface")
		return req, false
	}
	var from netip.AddrPort
	if addr, ok := m.Addr.(*net.UDPAddr); ok {
		from = netip.AddrPortFrom(addr.AddrPort().Addr().Unmap(), addr.AddrPort().Port())
	}
	req, drop := parseRequest(slices.Clone(m.Buffers[0][:m.N]), from)
	if drop != "" {
		d.r.stats.add("dhcp.drop." + drop)
		return req, false
	}
	dst, _ := netip.AddrFromSlice(cm.Dst.To4())
	req.unicast = slices.ContainsFunc(d.r.networks, func(n link) bool { return n.addr == dst })
	return req, true
}

// handle answers a request. done is called when that is over.
func (d *dhcpPort) handle(ctx context.Context, req request, done func()) {
	waits := false
	defer func() {
		if !waits {
			done()
		}
	}()
	defer d.recover("answer")
	out, ok := d.answer(ctx, req)
	if ok && out.later != nil {
		waits = true
		out.later(func(f finish) {
			defer done()
			defer d.recover("answer")
			out, ok := f()
			d.reply(req, out, ok)
		})
		return
	}
	d.reply(req, out, ok)
}

// reply sends the reply to a request, if there is one.
func (d *dhcpPort) reply(req request, out reply, ok bool) {
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
	_, _, err := d.udp.WriteMsgUDPAddrPort(out.packet, d.leaves[out.from], out.to.addr)
	return err
}

func (d *dhcpPort) recover(doing string) {
	if p := recover(); p != nil {
		d.r.stats.add("dhcp.drop.panic")
		d.r.log.Error("a DHCP packet caused a panic; it was dropped", "interface", d.r.link.Name, "doing", doing, "panic", p, "stack", string(debug.Stack()))
	}
}
