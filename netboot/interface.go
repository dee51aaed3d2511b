package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Mode is what netboot does on an interface.
type Mode string

// The modes.
const (
	ModeDHCP    Mode = "dhcp"    // be the network's DHCP server
	ModeProxy   Mode = "proxy"   // leave addresses to another DHCP server and add only what to boot
	ModeObserve Mode = "observe" // answer nothing, show everything
	ModeOff     Mode = "off"
)

// Interface is one network to serve. Nothing is ever answered anywhere else.
type Interface struct {
	Name   string       // of the link, "br0"
	Mode   Mode         // empty means off
	Range  Range        // where strangers draw their addresses from; DHCP mode only
	Router netip.Addr   // option 3; invalid means none is told
	DNS    []netip.Addr // option 6

	// BesideOtherServer lets mode dhcp answer although another server does.
	BesideOtherServer bool
	// NoProbe lets mode dhcp offer addresses that nobody ever had without asking the
	// network first whether somebody uses them.
	NoProbe bool

	Options  Options   // what else machines are told
	Networks []Network // others that the interface leads to
}

// Range is a span of IPv4 addresses, both ends in it.
type Range struct {
	First, Last netip.Addr
}

// ParseRange reads "10.77.0.100-10.77.0.199".
func ParseRange(s string) (Range, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return Range{}, fmt.Errorf("range %.60q: want FIRST-LAST, as in 10.77.0.100-10.77.0.199", s)
	}
	var r Range
	var err error
	if r.First, err = netip.ParseAddr(strings.TrimSpace(first)); err != nil {
		return Range{}, fmt.Errorf("range %.60q: %w", s, err)
	}
	if r.Last, err = netip.ParseAddr(strings.TrimSpace(last)); err != nil {
		return Range{}, fmt.Errorf("range %.60q: %w", s, err)
	}
	if !r.First.Is4() || !r.Last.Is4() {
		return Range{}, fmt.Errorf("range %.60q: only IPv4 addresses can be leased", s)
	}
	if r.Last.Less(r.First) {
		return Range{}, fmt.Errorf("range %.60q: ends before it begins", s)
	}
	return r, nil
}

// Contains says whether a lies in the range.
func (r Range) Contains(a netip.Addr) bool {
	return r.First.IsValid() && !a.Less(r.First) && !r.Last.Less(a)
}

// String is the form ParseRange reads.
func (r Range) String() string {
	if !r.First.IsValid() {
		return ""
	}
	return r.First.String() + "-" + r.Last.String()
}

// link is an Interface as the kernel has it now.
type link struct {
	Interface
	index  int
	mac    net.HardwareAddr
	addr   netip.Addr   // ours: the source and option 54 of every reply
	subnet netip.Prefix // masked

	behind bool         // its machines are behind relays: nothing of it is on this wire
	relays []netip.Addr // whom to answer; none: any of the subnet
	more   []link       // the interface's other networks
}

// usable says whether an address may be given to a machine on this link at
// all: in the subnet, and nobody's by construction.
func (l link) usable(a netip.Addr) bool {
	if !l.subnet.Contains(a) || a == l.addr || a == l.Router || a == l.subnet.Addr() || a == lastAddr(l.subnet) {
		return false
	}
	return !slices.Contains(l.DNS, a) && !slices.Contains(l.relays, a)
}

// lastAddr is the broadcast address of an IPv4 subnet.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// InterfaceAddress is the IPv4 address of an interface: the one machines on it
// reach this node by. The error says what is missing.
func InterfaceAddress(name string) (netip.Addr, error) {
	l, err := findLink(Interface{Name: name})
	return l.addr, err
}

// InterfaceNetwork is that address with the length of its network.
func InterfaceNetwork(name string) (netip.Prefix, error) {
	l, err := findLink(Interface{Name: name})
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(l.addr, l.subnet.Bits()), nil
}

// ServedNetwork is a network an interface leads to, with this node's address there.
type ServedNetwork struct {
	Interface              // with the range of that network
	Addr      netip.Addr   // machines of the network reach this node by it
	Prefix    netip.Prefix // masked
	OnWire    bool         // and not behind relays
}

// ServedNetworks are all networks of an interface, its own first.
func ServedNetworks(in Interface) ([]ServedNetwork, error) {
	l, err := findLink(in)
	if err != nil {
		return nil, err
	}
	var out []ServedNetwork
	for _, n := range l.all() {
		out = append(out, ServedNetwork{Interface: n.Interface, Addr: n.addr, Prefix: n.subnet, OnWire: !n.behind})
	}
	return out, nil
}

// findLink asks the kernel about an interface.
func findLink(in Interface) (link, error) {
	ifi, err := net.InterfaceByName(in.Name)
	if err != nil {
		return link{}, fmt.Errorf("interface %q does not exist; there are: %s", in.Name, linkNames())
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return link{}, fmt.Errorf("interface %s: read its addresses: %w", in.Name, err)
	}
	var own []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			own = append(own, p)
		}
	}
	if len(own) > 0 {
		l, err := newLink(in, ifi.Index, ifi.HardwareAddr, own[0])
		if err != nil {
			return link{}, err
		}
		err = l.further(own)
		return l, err
	}
	if in.Mode == ModeObserve {
		return link{Interface: in, index: ifi.Index, mac: ifi.HardwareAddr}, nil // who answers nobody needs none
	}
	return link{}, fmt.Errorf("interface %s has no IPv4 address: give it one (ip address add 10.77.0.1/24 dev %s)", in.Name, in.Name)
}

// newLink checks the configuration against the address the interface has.
func newLink(in Interface, index int, mac net.HardwareAddr, own netip.Prefix) (link, error) {
	l := link{Interface: in, index: index, mac: mac, addr: own.Addr(), subnet: own.Masked()}
	return l, l.check()
}

// check finds what cannot be so.
func (l link) check() error {
	in := l.Interface
	if in.Mode != ModeDHCP {
		return nil
	}
	if !in.Range.First.IsValid() {
		return fmt.Errorf("interface %s: mode dhcp needs a range of addresses to lease", in.Name)
	}
	if !l.subnet.Contains(in.Range.First) || !l.subnet.Contains(in.Range.Last) {
		return fmt.Errorf("interface %s: range %s does not lie in its network %s", in.Name, in.Range, l.subnet)
	}
	if in.Router.IsValid() && !l.subnet.Contains(in.Router) {
		return fmt.Errorf("interface %s: router %s does not lie in its network %s", in.Name, in.Router, l.subnet)
	}
	return nil
}

// linkNames lists the interfaces there are, for an error message.
func linkNames() string {
	ifs, err := net.Interfaces()
	if err != nil || len(ifs) == 0 {
		return "none"
	}
	names := make([]string, len(ifs))
	for i, ifi := range ifs {
		names[i] = ifi.Name
	}
	return strings.Join(names, ", ")
}
