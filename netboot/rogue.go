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
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Another DHCP server on the network can boot machines into whatever it likes. A
// server cannot prevent that, switches can; but it can see it and say so. Once a
// minute this one asks for an address as a machine that is not there, and it
// listens to what others are answered.

const (
	probeEvery = time.Minute
	alarmLasts = 10 * time.Minute // without hearing of the server again
	maxOthers  = 16               // servers remembered on a link
)

// otherServers watches one link for DHCP servers that are no nodes of the cluster.
type otherServers struct {
	link       link
	neighbours Neighbours // nil: this node is alone
	bootPort   int
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time

	mu    sync.Mutex
	known []otherServer
}

// otherServer is one of them.
type otherServer struct {
	mac    string
	addr   netip.Addr
	boots  bool // it says what to boot, too
	first  bool // a proxy's network needs one server that gives addresses: this is it
	heard  time.Time
	warned time.Time
}

// serve probes at once and at each tick, and listens, until ctx ends.
func (o *otherServers) serve(ctx context.Context, s *rawSocket, tick <-chan time.Time) error {
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	var probing sync.WaitGroup
	defer probing.Wait()
	probing.Go(func() {
		for {
			if err := s.send(o.probe(), broadcastCard); err != nil && ctx.Err() == nil {
				o.stats.add("dhcp.probe failed")
				o.log.Debug("could not look for other DHCP servers", "interface", o.link.Name, "err", err)
			}
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
	})
	buf := make([]byte, 2048)
	for {
		n, from, err := s.receive(buf)
		switch {
		case ctx.Err() != nil || errors.Is(err, os.ErrClosed):
			return nil
		case errors.Is(err, unix.ENETDOWN):
			continue // reported once when the link goes down
		case err != nil:
			return fmt.Errorf("listen for other DHCP servers on %s: %w", o.link.Name, err)
		}
		o.hear(buf[:n], from)
	}
}

var broadcastCard = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// probe is a DISCOVER of a BIOS machine with a made-up card. It comes from this
// node's own address, by which the other nodes know it for what it is.
func (o *otherServers) probe() []byte {
	var made [10]byte
	rand.Read(made[:]) //nolint:errcheck // never fails
	made[0] = made[0]&^1 | 2
	p := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: made[:6], TransactionID: [4]byte(made[6:]),
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{
			optMessageType: {byte(dhcpv4.MessageTypeDiscover)},
			optParameters:  {optSubnetMask, optRouter, optServerID, optVendorClass, optTFTPServer, optBootFile},
			optVendorClass: []byte("PXEClient:Arch:00000:UNDI:002001"),
			optClientArch:  {0, 0},
		},
	}
	p.SetBroadcast()
	o.stats.add("dhcp.probe")
	return udpPacket(netip.AddrPortFrom(o.link.addr, dhcpClientPort), netip.AddrPortFrom(everybody, dhcpServerPort), p.ToBytes())
}

// hear takes an IPv4 packet that came from a card.
func (o *otherServers) hear(packet []byte, card net.HardwareAddr) {
	reply, src, ok := parseServerReply(packet)
	mac, isCard := macOf(card)
	if !ok || !isCard || mac == o.link.mac.String() {
		return
	}
	s := otherServer{mac: mac, addr: addrOption(reply, optServerID), heard: o.now(),
		boots: reply.BootFileName != "" || reply.Options[optBootFile] != nil}
	if !s.addr.IsValid() {
		s.addr = src
	}
	if slices.Contains(o.nodes(), s.addr) {
		return
	}
	lends := addrField(reply.YourIPAddr.To4()).IsValid()
	if warn := o.note(s, lends); warn != "" {
		o.stats.add("dhcp.other server")
		o.log.Warn("another DHCP server answers on a network this node serves", "interface", o.link.Name, "server", s.addr, "card", s.mac)
		o.sightings.Add(Sighting{At: s.heard, MAC: s.mac, Kind: KindAlarm, Addr: s.addr, Text: warn})
	}
}

// note remembers a server and returns what is to be said of it now: nothing if it
// has been said not long ago, or if there is nothing wrong with it.
func (o *otherServers) note(s otherServer, lends bool) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(s.heard)
	i := slices.IndexFunc(o.known, func(k otherServer) bool { return k.mac == s.mac && k.addr == s.addr })
	if i < 0 {
		if len(o.known) == maxOthers {
			return "" // there is an alarm already, sixteen times
		}
		s.first = o.link.Mode == ModeProxy && lends && !slices.ContainsFunc(o.known, func(k otherServer) bool { return k.first })
		i, o.known = len(o.known), append(o.known, s)
	}
	k := &o.known[i]
	k.heard, k.boots = s.heard, k.boots || s.boots
	text := o.alarm(*k)
	if text == "" || !k.warned.IsZero() && s.heard.Sub(k.warned) < alarmLasts {
		return ""
	}
	k.warned = s.heard
	return text
}

// forget drops the servers that have not been heard of, and those that turned out
// to be nodes which had not been heard of yet. o.mu is held.
func (o *otherServers) forget(now time.Time) {
	nodes := o.nodes()
	o.known = slices.DeleteFunc(o.known, func(k otherServer) bool {
		return now.Sub(k.heard) >= alarmLasts || slices.Contains(nodes, k.addr)
	})
}

func (o *otherServers) nodes() []netip.Addr {
	return nodeAddrs(o.neighbours, netip.AddrPortFrom(o.link.addr, uint16(o.bootPort)))
}

// alarm is what is wrong with a server, in a sentence; empty if nothing is.
func (o *otherServers) alarm(k otherServer) string {
	who := fmt.Sprintf("%s (card %s) on %s", k.addr, k.mac, o.link.Name)
	switch {
	case k.addr == o.link.addr:
		return fmt.Sprintf("somebody answers DHCP in this node's name: %s; find that card and unplug it", who)
	case k.first && k.boots:
		return fmt.Sprintf("the DHCP server %s tells machines what to boot, beside this node: take that out of its configuration", who)
	case k.first:
		return ""
	case k.boots:
		return fmt.Sprintf("another DHCP server tells machines what to boot: %s; find it and stop it", who)
	}
	return fmt.Sprintf("another DHCP server answers: %s; find it and stop it", who)
}

// alarms are those of now.
func (o *otherServers) alarms() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(o.now())
	var out []string
	for _, k := range o.known {
		if text := o.alarm(k); text != "" {
			out = append(out, text)
		}
	}
	return out
}

// nodeAddrs are the addresses of the other nodes, as near to ours as they have.
func nodeAddrs(n Neighbours, own netip.AddrPort) []netip.Addr {
	if n == nil {
		return nil
	}
	var out []netip.Addr
	for _, base := range n.Nodes(own) {
		u, err := url.Parse(base)
		if err != nil {
			continue
		}
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			out = append(out, addr)
		}
	}
	return out
}

// parseServerReply reads an IPv4 packet and returns the DHCP server's answer in it.
// Every length is the sender's word.
func parseServerReply(b []byte) (reply *dhcpv4.DHCPv4, src netip.Addr, ok bool) {
	const udpLen = 8
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, src, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header+udpLen || total > len(b) {
		return nil, src, false
	}
	if b[9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // a part of a packet
		return nil, src, false
	}
	udp := b[header:total]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != dhcpClientPort || length < udpLen || length > len(udp) {
		return nil, src, false
	}
	reply, err := dhcpv4.FromBytes(slices.Clone(udp[udpLen:length]))
	if err != nil || reply.OpCode != dhcpv4.OpcodeBootReply {
		return nil, src, false
	}
	return reply, netip.AddrFrom4([4]byte(b[12:16])), true
}

// openOthers opens the socket that hears what DHCP servers answer.
func openOthers(l link) (*rawSocket, error) {
	s, err := openRaw(l.index, unix.ETH_P_IP, true)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.Name, err)
	}
	// The kernel drops everything else, so that downloads cost nothing here.
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 4},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: dhcpClientPort, SkipFalse: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
	if err := s.only(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", l.Name, err), s.Close())
	}
	return s, nil
}
