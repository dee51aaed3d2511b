package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// scoutWait is how long nodes may take to begin answering.
const scoutWait = time.Minute

// scout returns when so many DHCP servers answer on the wire: machines that get power
// before would wait for what is not theirs. It says that it has waited for long, which
// has every node answer (netboot/split.go), and takes nothing of what it is offered.
func scout(ctx context.Context, w *ethernet, servers int, dice *rand.Rand) error {
	ctx, cancel := context.WithTimeoutCause(ctx, scoutWait, fmt.Errorf("fewer than %d node(s) answer DHCP after %s", servers, scoutWait))
	defer cancel()
	mac := net.HardwareAddr{0x52, 0x54, 0x02, 0x77, 0, 1}
	c := w.newCard(mac, 0, nil)
	heard := map[netip.Addr]bool{}
	for len(heard) < servers {
		var xid dhcpv4.TransactionID
		binary.BigEndian.PutUint32(xid[:], dice.Uint32())
		zero := net.IPv4zero.To4()
		p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: xid, NumSeconds: 60, Flags: 0x8000,
			ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero, ClientHWAddr: mac,
			Options: dhcpv4.Options{53: {byte(dhcpv4.MessageTypeDiscover)}, 55: {1, 3, 6}}}
		if err := c.SendDHCP(ctx, p.ToBytes(), netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67)); err != nil {
			return err
		}
		wait, done := context.WithTimeout(ctx, 300*time.Millisecond)
		for len(heard) < servers {
			b, err := c.ReceiveDHCP(wait)
			if err != nil {
				break
			}
			offer, err := dhcpv4.FromBytes(b)
			if err != nil || offer.TransactionID != xid {
				continue
			}
			if server, ok := netip.AddrFromSlice(offer.Options[54]); ok {
				heard[server] = true
			}
		}
		done()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
