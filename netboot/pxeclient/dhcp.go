package pxeclient

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var (
	broadcast67 = netip.MustParseAddrPort("255.255.255.255:67")
	// errSilence is no answer in time.
	errSilence = errors.New("no answer")
)

// DHCP goes through DISCOVER, OFFER, REQUEST and ACK and, when a proxyDHCP
// offers the boot file, through its port 4011. The address is configured.
func (c *Client) DHCP(ctx context.Context) (Lease, error) {
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		return Lease{}, err
	}
	discover := c.packet(dhcpv4.MessageTypeDiscover, xid)
	if c.Hint.IsValid() {
		discover.Options[50] = c.Hint.AsSlice()
	}
	var offer, proxy *dhcpv4.DHCPv4
	began := c.now()
	for try := 0; offer == nil; try++ {
		if try > or(c.Retries, 3) {
			err := fmt.Errorf("DISCOVER: %w", errSilence)
			c.tell(StepOffer, c.now().Sub(began), try-1, err)
			return Lease{}, err
		}
		discover.NumSeconds = uint16(min(c.now().Sub(began)/time.Second, 0xffff))
		if err := c.Net.SendDHCP(ctx, discover.ToBytes(), broadcast67); err != nil {
			return Lease{}, fmt.Errorf("DISCOVER: %w", err)
		}
		if try == 0 {
			began = c.sent()
		}
		offer, proxy = c.offers(ctx, xid, began, try)
		if ctx.Err() != nil {
			return Lease{}, ctx.Err()
		}
	}
	request := c.packet(dhcpv4.MessageTypeRequest, xid)
	request.Options[50] = offer.YourIPAddr.To4()
	request.Options[54] = offer.Options[54]
	wanted := []dhcpv4.MessageType{dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak}
	if c.Shape == IPXE || c.Shape == IPXEUEFI {
		// iPXE knows NAK since 2021. What Debian 12 has, and a node serves, goes on asking.
		wanted = wanted[:1]
	}
	ack, err := c.exchange(ctx, request, broadcast67, wanted...)
	if err != nil {
		return Lease{}, fmt.Errorf("REQUEST: %w", err)
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return Lease{}, fmt.Errorf("REQUEST of %s was refused: %s", offer.YourIPAddr, ack.Message())
	}
	lease, err := leaseOf(ack)
	if err != nil {
		return Lease{}, err
	}
	if err := c.Net.Configure(ctx, lease.Addr); err != nil {
		return Lease{}, fmt.Errorf("configure %s: %w", lease.Addr, err)
	}
	if lease.File != "" || proxy == nil {
		return lease, nil
	}
	return c.proxied(ctx, lease, proxy, xid)
}

// offers collects answers to a DISCOVER: the first that gives an address, and,
// when that has no boot file, a proxy's that comes soon after or came before.
func (c *Client) offers(ctx context.Context, xid dhcpv4.TransactionID, began time.Time, try int) (offer, proxy *dhcpv4.DHCPv4) {
	deadline := time.Now().Add(c.wait(try))
	for {
		wait, cancel := context.WithDeadline(ctx, deadline)
		p, err := c.receive(wait, xid, dhcpv4.MessageTypeOffer)
		cancel()
		if err != nil {
			return offer, proxy
		}
		if p.YourIPAddr.IsUnspecified() {
			proxy = p
		} else if offer == nil {
			offer = p
			c.tell(StepOffer, c.waited(began), try, nil)
			switch {
			case c.Collect != nil && c.Collect(c.Shape) > 0:
				deadline = time.Now().Add(c.Collect(c.Shape))
			case c.Shape == System || c.Shape == Agent || fileOf(p) != "":
				return offer, nil
			default:
				deadline = time.Now().Add(or(c.ProxyWait, time.Second))
			}
		}
		if offer != nil && proxy != nil {
			return offer, proxy
		}
	}
}

// proxied completes a lease with a proxy's boot file: taken from its offer when
// that says so (43{6:8}) or when the client is iPXE, else asked for on port
// 4011.
func (c *Client) proxied(ctx context.Context, lease Lease, proxy *dhcpv4.DHCPv4, xid dhcpv4.TransactionID) (Lease, error) {
	server, ok := netip.AddrFromSlice(proxy.Options[54])
	if !ok {
		return lease, errors.New("proxyDHCP offer without server identifier")
	}
	lease.Proxy = server
	direct := bytes.Contains(proxy.Options[43], []byte{6, 1, 8}) || c.Shape == IPXE || c.Shape == IPXEUEFI || c.Shape == UEFIHTTP
	if !direct || fileOf(proxy) == "" {
		request := c.packet(dhcpv4.MessageTypeRequest, xid)
		request.ClientIPAddr = lease.Addr.Addr().AsSlice()
		request.Options[54] = proxy.Options[54]
		ack, err := c.exchange(ctx, request, netip.AddrPortFrom(server, 4011), dhcpv4.MessageTypeAck)
		if err != nil {
			return lease, fmt.Errorf("REQUEST to port 4011 of %s: %w", server, err)
		}
		proxy = ack
	}
	lease.File = fileOf(proxy)
	lease.Next, _ = netip.AddrFromSlice(proxy.ServerIPAddr.To4())
	return lease, nil
}

// Renew asks the lease's own server to prolong it, as a system does at half
// time.
func (c *Client) Renew(ctx context.Context, lease Lease) (Lease, error) {
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		return Lease{}, err
	}
	request := c.packet(dhcpv4.MessageTypeRequest, xid)
	request.ClientIPAddr = lease.Addr.Addr().AsSlice()
	request.Flags = 0
	ack, err := c.exchange(ctx, request, netip.AddrPortFrom(lease.Server, 67), dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)
	if err != nil {
		return Lease{}, fmt.Errorf("renew %s: %w", lease.Addr, err)
	}
	if ack.MessageType() == dhcpv4.MessageTypeNak {
		return Lease{}, fmt.Errorf("renewal of %s was refused: %s", lease.Addr, ack.Message())
	}
	return leaseOf(ack)
}

// Release gives the address back.
func (c *Client) Release(ctx context.Context, lease Lease) error {
	xid, err := dhcpv4.GenerateTransactionID()
	if err != nil {
		return err
	}
	p := c.packet(dhcpv4.MessageTypeRelease, xid)
	p.ClientIPAddr = lease.Addr.Addr().AsSlice()
	p.Options[54] = lease.Server.AsSlice()
	return c.Net.SendDHCP(ctx, p.ToBytes(), netip.AddrPortFrom(lease.Server, 67))
}

// exchange sends a packet until one of the wanted answers comes.
func (c *Client) exchange(ctx context.Context, p *dhcpv4.DHCPv4, to netip.AddrPort, want ...dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	began, tries := c.now(), or(c.Retries, 3)
	for try := range tries + 1 {
		if err := c.Net.SendDHCP(ctx, p.ToBytes(), to); err != nil {
			return nil, err
		}
		if try == 0 {
			began = c.sent()
		}
		wait, cancel := context.WithTimeout(ctx, c.wait(try))
		answer, err := c.receive(wait, p.TransactionID, want...)
		cancel()
		if err == nil {
			c.tell(StepAck, c.waited(began), try, nil)
		}
		if err == nil || ctx.Err() != nil {
			return answer, err
		}
	}
	c.tell(StepAck, c.now().Sub(began), tries, errSilence)
	return nil, errSilence
}

// receive waits for an answer to xid of one of the kinds; all else is somebody
// else's.
func (c *Client) receive(ctx context.Context, xid dhcpv4.TransactionID, want ...dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	for {
		b, err := c.Net.ReceiveDHCP(ctx)
		if err != nil {
			return nil, err
		}
		p, err := dhcpv4.FromBytes(b)
		if err != nil || p.OpCode != dhcpv4.OpcodeBootReply || p.TransactionID != xid || !bytes.Equal(p.ClientHWAddr, c.MAC) {
			continue
		}
		for _, kind := range want {
			if p.MessageType() == kind {
				return p, nil
			}
		}
	}
}

// packet is a request in the words of the shape.
func (c *Client) packet(kind dhcpv4.MessageType, xid dhcpv4.TransactionID) *dhcpv4.DHCPv4 {
	zero := net.IPv4zero.To4()
	p := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, TransactionID: xid,
		Flags:        0x8000, // no address yet: answer to everybody
		ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero, GatewayIPAddr: zero,
		ClientHWAddr: c.MAC,
		Options:      dhcpv4.Options{53: {byte(kind)}, 55: {1, 3, 6, 43, 60, 66, 67, 97, 175}, 57: {0x05, 0xc0}},
	}
	if c.Unicast && (c.Shape == BIOS || c.Shape == IPXE || c.Shape == IPXEUEFI) {
		p.Flags = 0
	}
	arch := uint16(0)
	switch c.Shape {
	case UEFI, IPXEUEFI:
		arch = 7
	case UEFIHTTP:
		arch = 16
	}
	switch c.Shape {
	case System:
	case Agent:
		p.Options[60] = []byte("LPMOS-agent")
		p.Options[61] = append([]byte{1}, c.MAC...)
	default:
		class := "PXEClient"
		if c.Shape == UEFIHTTP {
			class = "HTTPClient"
		}
		p.Options[60] = fmt.Appendf(nil, "%s:Arch:%05d:UNDI:003016", class, arch)
		p.Options[93] = binary.BigEndian.AppendUint16(nil, arch)
		p.Options[94] = []byte{1, 3, 16}
		if c.UUID != [16]byte{} {
			p.Options[97] = append([]byte{0}, c.UUID[:]...)
		}
	}
	if c.Shape == IPXE || c.Shape == IPXEUEFI {
		p.Options[77] = []byte("iPXE")
		p.Options[175] = []byte{19, 1, 1} // speaks HTTP
	}
	return p
}

func leaseOf(ack *dhcpv4.DHCPv4) (Lease, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	mask := net.IPMask(ack.Options[1])
	ones, bits := mask.Size()
	if !ok || bits != 32 {
		return Lease{}, fmt.Errorf("acknowledgement without address or mask: %s mask %s", ack.YourIPAddr, mask)
	}
	l := Lease{Addr: netip.PrefixFrom(addr, ones), File: fileOf(ack), Duration: ack.IPAddressLeaseTime(0)}
	l.Server, _ = netip.AddrFromSlice(ack.Options[54])
	l.Router, _ = netip.AddrFromSlice(ack.Options[3])
	l.Next, _ = netip.AddrFromSlice(ack.ServerIPAddr.To4())
	return l, nil
}

// fileOf is the boot file: option 67 before the header's field, as UEFI reads
// it.
func fileOf(p *dhcpv4.DHCPv4) string {
	if b := bytes.TrimRight(p.Options[67], "\x00"); len(b) > 0 {
		return string(b)
	}
	return p.BootFileName
}
