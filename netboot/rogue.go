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
//
// Two servers that give out addresses of one network give one twice sooner or later.
// A node in mode dhcp therefore looks for another before it lends for the first time,
// and lends nothing to new machines while there is one, unless it was told to. Who
// is known or holds a lease of this node's is answered all the same: its address is
// nobody else's, and whoever can send one packet must not be able to stop an install.

const (
	probeEvery = time.Minute
	probeSoon  = 500 * time.Millisecond // between the first, of which one may be lost
	probeFirst = 3                      // how many those are
	probeAgain = 10 * time.Second       // while there is another: is it still?
	lookFirst  = 2 * time.Second        // before anything is lent to new machines
	rivalGone  = 35 * time.Second       // three probes without an answer
	alarmLasts = 10 * time.Minute       // without hearing of the server again
	maxOthers  = 16                     // servers remembered on a link
)

// otherServers watches one link for DHCP servers that are no nodes of the cluster.
type otherServers struct {
	link       link
	neighbours Neighbours // nil: this node is alone
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time
	also       func(reply *dhcpv4.DHCPv4, src netip.Addr, card string) // hears each answer, too; may be nil

	changed chan struct{} // another that gives addresses was heard

	mu      sync.Mutex
	known   []otherServer
	looking bool // this node has not lent yet
}

// otherServer is one of them.
type otherServer struct {
	mac    string
	addr   netip.Addr
	lends  bool // it gives addresses
	boots  bool // it says what to boot, too
	first  bool // a proxy's network needs one server that gives addresses: this is it
	heard  time.Time
	warned time.Time
}

// look is how long a node looks for others before it lends to new machines.
func (o *otherServers) look(d time.Duration) {
	if d <= 0 || o.link.Mode != ModeDHCP || o.link.BesideOtherServer {
		return
	}
	set := func(looking bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.looking = looking
	}
	set(true)
	time.AfterFunc(d, func() { set(false) })
}

// quiet says why nothing is to be lent to new machines now; empty if it may be.
func (o *otherServers) quiet() string {
	if o.link.Mode != ModeDHCP || o.link.BesideOtherServer {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.looking {
		return "looking for other servers"
	}
	if k, ok := o.rival(o.now()); ok {
		return "left to the DHCP server " + k.addr.String()
	}
	return ""
}

// rival is another server that gives addresses now. o.mu is held.
func (o *otherServers) rival(now time.Time) (otherServer, bool) {
	if len(o.known) == 0 { // as always; it is asked for every DISCOVER
		return otherServer{}, false
	}
	nodes := o.nodes()
	for _, k := range o.known {
		if k.lends && now.Sub(k.heard) < rivalGone && !slices.Contains(nodes, k.addr) {
			return k, true
		}
	}
	return otherServer{}, false
}

// pause is how long to wait after the nth probe.
func (o *otherServers) pause(n int) time.Duration {
	if n < probeFirst {
		return probeSoon
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, there := o.rival(o.now()); there {
		return probeAgain
	}
	return probeEvery
}

// serve probes, a few times at once and then once in a while, and listens, until
// ctx ends. Who only observes sends nothing.
func (o *otherServers) serve(ctx context.Context, s *rawSocket) error {
	var probing sync.WaitGroup
	defer probing.Wait()
	probing.Go(func() {
		if o.link.Mode == ModeObserve {
			return
		}
		for n := 1; ; n++ {
			if err := s.send(o.probe(), broadcastCard); err != nil && ctx.Err() == nil {
				o.stats.add("dhcp.probe failed")
				o.log.Debug("could not look for other DHCP servers", "interface", o.link.Name, "err", err)
			}
			wait := time.NewTimer(o.pause(n))
			select {
			case <-wait.C:
			case <-o.changed:
				wait.Stop() // another appeared: it is looked after more often
			case <-ctx.Done():
				wait.Stop()
				return
			}
		}
	})
	return s.listen(ctx, "other DHCP servers on "+o.link.Name, o.stats, o.log, o.hear)
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
	if o.also != nil {
		o.also(reply, src, mac)
	}
	s := otherServer{mac: mac, addr: addrOption(reply, optServerID), heard: o.now(),
		boots: reply.BootFileName != "" || reply.Options[optBootFile] != nil}
	if !s.addr.IsValid() {
		s.addr = src
	}
	if slices.Contains(o.nodes(), s.addr) {
		return
	}
	s.lends = addrField(reply.YourIPAddr.To4()).IsValid()
	if warn := o.note(s); warn != "" {
		o.stats.add("dhcp.other server")
		o.log.Warn("another DHCP server answers on a network this node serves", "interface", o.link.Name, "server", s.addr, "card", s.mac)
		o.sightings.Add(Sighting{At: s.heard, MAC: s.mac, Kind: KindAlarm, Addr: s.addr, Text: warn})
	}
}

// note remembers a server and returns what is to be said of it now: nothing if it
// has been said not long ago, or if there is nothing wrong with it.
func (o *otherServers) note(s otherServer) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.forget(s.heard)
	if _, was := o.rival(s.heard); !was && s.lends {
		select {
		case o.changed <- struct{}{}:
		default:
		}
	}
	i := slices.IndexFunc(o.known, func(k otherServer) bool { return k.mac == s.mac && k.addr == s.addr })
	if i < 0 {
		if len(o.known) == maxOthers && !(s.lends && o.makeRoom(s.heard)) {
			return "" // there is an alarm already, sixteen times
		}
		s.first = o.link.Mode != ModeDHCP && s.lends && !slices.ContainsFunc(o.known, func(k otherServer) bool { return k.first })
		i, o.known = len(o.known), append(o.known, s)
	}
	k := &o.known[i]
	k.heard, k.boots, k.lends = s.heard, k.boots || s.boots, k.lends || s.lends
	text := o.alarm(*k)
	if text == "" || !k.warned.IsZero() && s.heard.Sub(k.warned) < alarmLasts {
		return ""
	}
	k.warned = s.heard
	return text
}

// makeRoom forgets a server that gives no addresses now, for one that does: else made-up
// ones could hide it. It is the one that has not been heard of for longest. o.mu is held.
func (o *otherServers) makeRoom(now time.Time) bool {
	goes := -1
	for i, k := range o.known {
		if (!k.lends || now.Sub(k.heard) >= rivalGone) && !k.first && (goes < 0 || k.heard.Before(o.known[goes].heard)) {
			goes = i
		}
	}
	if goes < 0 {
		return false
	}
	o.known = slices.Delete(o.known, goes, goes+1)
	return true
}

// forget drops the servers that have not been heard of, and those that turned out
// to be nodes which had not been heard of yet. o.mu is held.
func (o *otherServers) forget(now time.Time) {
	nodes := o.nodes()
	o.known = slices.DeleteFunc(o.known, func(k otherServer) bool {
		return now.Sub(k.heard) >= alarmLasts || slices.Contains(nodes, k.addr)
	})
}

// nodes are the addresses of the other nodes.
func (o *otherServers) nodes() []netip.Addr { return nodeAddrs(o.neighbours) }

// alarm is what is wrong with a server, in a sentence; empty if nothing is.
func (o *otherServers) alarm(k otherServer) string {
	who := fmt.Sprintf("%s (card %s) on %s", k.addr, k.mac, o.link.Name)
	switch {
	case k.addr == o.link.addr:
		return fmt.Sprintf("somebody answers DHCP in this node's name: %s; find that card and unplug it", who)
	case o.link.Mode == ModeObserve && k.first:
		return "" // it is what is observed
	case k.first && k.boots:
		return fmt.Sprintf("the DHCP server %s tells machines what to boot, beside this node: take that out of its configuration", who)
	case k.first:
		return ""
	case k.boots:
		return fmt.Sprintf("another DHCP server tells machines what to boot: %s; find it and stop it%s", who, o.silence(k))
	}
	return fmt.Sprintf("another DHCP server answers: %s; find it and stop it%s", who, o.silence(k))
}

// silence says what follows from another server for this node. o.mu is held.
func (o *otherServers) silence(k otherServer) string {
	if o.link.Mode != ModeDHCP || o.link.BesideOtherServer || !k.lends || o.now().Sub(k.heard) >= rivalGone {
		return ""
	}
	return "; this node gives no address to new machines there as long as it answers (mode: proxy works beside it, beside_other_server: true lends all the same)"
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

// nodeAddrs are the addresses of the other nodes, of which there may be none.
func nodeAddrs(n Neighbours) []netip.Addr {
	if n == nil {
		return nil
	}
	return n.Addresses()
}

// parseServerReply reads an IPv4 packet and returns the DHCP server's answer in it.
// Every length is the sender's word.
func parseServerReply(b []byte) (reply *dhcpv4.DHCPv4, src netip.Addr, ok bool) {
	payload, from, ok := udpPayload(b, dhcpClientPort)
	if !ok {
		return nil, src, false
	}
	reply, err := dhcpv4.FromBytes(payload)
	if err != nil || reply.OpCode != dhcpv4.OpcodeBootReply {
		return nil, src, false
	}
	return reply, from.Addr(), true
}

// udpPayload takes what an IPv4 packet carries to a UDP port.
func udpPayload(b []byte, port uint16) (payload []byte, from netip.AddrPort, ok bool) {
	const udpLen = 8
	if len(b) < 20 || b[0]>>4 != 4 {
		return nil, from, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < 20 || total < header+udpLen || total > len(b) {
		return nil, from, false
	}
	if b[9] != unix.IPPROTO_UDP || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 { // a part of a packet
		return nil, from, false
	}
	udp := b[header:total]
	length := int(binary.BigEndian.Uint16(udp[4:]))
	if binary.BigEndian.Uint16(udp[2:]) != port || length < udpLen || length > len(udp) {
		return nil, from, false
	}
	from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:16])), binary.BigEndian.Uint16(udp))
	return slices.Clone(udp[udpLen:length]), from, true
}

// openOthers opens the socket that hears what DHCP servers answer.
func openOthers(l link) (*rawSocket, error) { return openUDPTo(l, dhcpClientPort) }

// openUDPTo opens a socket that hears what is sent to a UDP port, on this host or past it.
func openUDPTo(l link, port uint32) (*rawSocket, error) {
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
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipFalse: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
	if err := s.only(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", l.Name, err), s.Close())
	}
	return s, nil
}
