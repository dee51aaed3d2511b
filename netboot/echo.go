package netboot

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// ARP does not pass a router. An address of a network behind relays is asked for with
// an ICMP echo request before it is offered for the first time, as RFC 2131 has it
// (section 3.1, step 2). Who drops those is not found, and an address that is not
// answered for is offered.

const (
	echoWait  = 400 * time.Millisecond // the router may have to ask by ARP first; iPXE asks again after 1 s
	echoAgain = 150 * time.Millisecond
	// echoMost is how many addresses behind relays rest at a time because they answered:
	// a router that answers for all of them is no conflict.
	echoMost = 64
	// echoed stands where ARP would have named a card.
	echoed = "somebody who answers to ping"
)

// echoes asks by ICMP. All of its requests have one token, which nobody off their way
// knows: else anybody could keep addresses from being lent by answers to nothing.
type echoes struct {
	conn  *ipv4.PacketConn
	token [10]byte // identifier, and the first of the data
}

// openEchoes opens the socket on the link alone.
func openEchoes(ctx context.Context, l link) (*echoes, error) {
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		return errors.Join(raw.Control(func(fd uintptr) {
			err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, l.Name)
		}), err)
	}}
	c, err := lc.ListenPacket(ctx, "ip4:icmp", "0.0.0.0")
	if err != nil {
		return nil, fmt.Errorf("interface %s: ICMP socket (needs root or cap_net_raw): %w", l.Name, err)
	}
	e := &echoes{conn: ipv4.NewPacketConn(c)}
	rand.Read(e.token[:]) //nolint:errcheck // never fails
	var only ipv4.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv4.ICMPTypeEchoReply)
	if err := e.conn.SetICMPFilter(&only); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: filter of ICMP: %w", l.Name, err), c.Close())
	}
	return e, nil
}

// Close closes the socket.
func (e *echoes) Close() error { return e.conn.Close() }

// prober asks through the socket.
func (e *echoes) prober(l link, stats *counters, log *slog.Logger, now func() time.Time) *prober {
	p := newProber("echo", l, stats, log, now)
	p.wait, p.again = echoWait, echoAgain
	p.send = func(addr netip.Addr) error {
		_, err := e.conn.WriteTo(echoRequest(e.token), &ipv4.ControlMessage{Src: l.addr.AsSlice()}, &net.IPAddr{IP: addr.AsSlice()})
		return err
	}
	return p
}

// serve listens until ctx ends, and closes the socket then.
func (e *echoes) serve(ctx context.Context, p *prober) error {
	stop := context.AfterFunc(ctx, func() { e.Close() })
	defer stop()
	buf := make([]byte, 256)
	for {
		n, _, from, err := e.conn.ReadFrom(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return fmt.Errorf("listen for ICMP on %s: %w", p.link.Name, err)
		}
		if at, ok := from.(*net.IPAddr); ok && isEchoReply(buf[:n], e.token) {
			if addr, ok := netip.AddrFromSlice(at.IP.To4()); ok {
				p.answer(addr, echoed)
			}
		}
	}
}

// The layout of an ICMP echo (RFC 792): type, code, checksum, identifier, sequence, data.
const (
	echoLen         = 16
	icmpEchoRequest = 8
	icmpEchoReply   = 0
)

func echoRequest(token [10]byte) []byte {
	b := make([]byte, echoLen)
	b[0] = icmpEchoRequest
	copy(b[4:6], token[:2])
	copy(b[8:], token[2:])
	binary.BigEndian.PutUint16(b[2:], ^sum16(0, b))
	return b
}

// isEchoReply says whether an ICMP packet answers one that was sent with the token.
func isEchoReply(b []byte, token [10]byte) bool {
	return len(b) == echoLen && b[0] == icmpEchoReply && b[1] == 0 && sum16(0, b) == 0xffff &&
		string(b[4:6]) == string(token[:2]) && string(b[8:]) == string(token[2:])
}
