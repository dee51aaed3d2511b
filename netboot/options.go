package netboot

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Options is what machines of a network are told beyond address, router and name
// servers. Nothing of it is told that was not configured.
type Options struct {
	Domain string           // option 15
	Search []string         // option 119
	NTP    []netip.Addr     // option 42
	Routes []Route          // option 121, and 249 to who asks for that
	MTU    int              // option 26; 0 says nothing
	Custom map[uint8][]byte // any other, as it goes over the wire
}

// Route is a way to a network.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// ParseRoute reads "10.8.0.0/16 via 10.77.0.254".
func ParseRoute(s string) (Route, error) {
	to, via, ok := strings.Cut(s, " via ")
	if !ok {
		return Route{}, fmt.Errorf("route %.60q: write NETWORK via ROUTER, as in 10.8.0.0/16 via 10.77.0.254", s)
	}
	var r Route
	var err error
	if r.To, err = netip.ParsePrefix(strings.TrimSpace(to)); err != nil || !r.To.Addr().Is4() || r.To != r.To.Masked() {
		return Route{}, fmt.Errorf("route %.60q: %.40q is no IPv4 network", s, to)
	}
	if r.Via, err = netip.ParseAddr(strings.TrimSpace(via)); err != nil || !r.Via.Is4() {
		return Route{}, fmt.Errorf("route %.60q: %.40q is no IPv4 address", s, via)
	}
	return r, nil
}

// String is the form ParseRoute reads.
func (r Route) String() string { return r.To.String() + " via " + r.Via.String() }

// ParseOption reads the value of an option that has no key of its own: "text:lab",
// "ip:10.0.0.1+10.0.0.2", "hex:0a00", "u8:5", "u16:1500", "u32:3600" or "flag:true".
func ParseOption(s string) ([]byte, error) {
	kind, value, _ := strings.Cut(s, ":")
	fault := func(err error) error {
		return fmt.Errorf("option value %.60q: %w", s, err)
	}
	var out []byte
	switch kind {
	case "text":
		out = []byte(value)
	case "hex":
		b, err := hex.DecodeString(strings.NewReplacer(" ", "", ":", "").Replace(value))
		if err != nil {
			return nil, fault(errors.New("it is no hexadecimal number of whole bytes"))
		}
		out = b
	case "ip":
		for one := range strings.SplitSeq(value, "+") {
			a, err := netip.ParseAddr(strings.TrimSpace(one))
			if err != nil || !a.Is4() {
				return nil, fault(fmt.Errorf("%.40q is no IPv4 address", one))
			}
			out = append(out, a.AsSlice()...)
		}
	case "u8", "u16", "u32":
		bits, _ := strconv.Atoi(kind[1:])
		n, err := strconv.ParseUint(value, 10, bits)
		if err != nil {
			return nil, fault(fmt.Errorf("it is no number of %d bits", bits))
		}
		out = binary.BigEndian.AppendUint32(nil, uint32(n))[4-bits/8:]
	case "flag":
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return nil, fault(errors.New("it is neither true nor false"))
		}
		out = []byte{0}
		if yes {
			out[0] = 1
		}
	default:
		return nil, fault(errors.New("text:, ip:, hex:, u8:, u16:, u32: or flag: has to stand in front"))
	}
	if len(out) == 0 || len(out) > maxCustom {
		return nil, fault(fmt.Errorf("it has %d bytes; 1 to %d fit", len(out), maxCustom))
	}
	return out, nil
}

// maxCustom is what fits a reply of the largest size beside the rest.
const maxCustom = 1024

// CheckOption says why an option cannot be configured by its number; nil if it can.
func CheckOption(code int) error {
	keys := map[int]string{1: "the network's size", 3: "router", 6: "dns", 15: "domain", 26: "mtu", 42: "ntp", 119: "search", 121: "routes", 249: "routes"}
	switch key, has := keys[code]; {
	case code < 1 || code > 254:
		return fmt.Errorf("there is no option %d", code)
	case has:
		return fmt.Errorf("option %d is set by %s", code, key)
	case code >= 50 && code <= 61, slices.Contains([]int{66, 67, 82, 93, 97, 175}, code):
		return fmt.Errorf("option %d is this server's own to set", code)
	}
	return nil
}

// search encodes a list of domains as names of the DNS, without compression, which
// not every client reads (RFC 3397, RFC 1035 section 3.1).
func searchList(domains []string) []byte {
	var out []byte
	for _, d := range domains {
		for label := range strings.SplitSeq(strings.TrimSuffix(d, "."), ".") {
			out = append(append(out, byte(len(label))), label...)
		}
		out = append(out, 0)
	}
	return out
}

// ValidateDomain says what is wrong with a domain's name.
func ValidateDomain(d string) error {
	if len(d) > 253 {
		return fmt.Errorf("domain %.60q… is longer than 253 characters", d)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(d, "."), ".") {
		ok := len(label) >= 1 && len(label) <= 63 && label[0] != '-'
		for _, c := range []byte(label) {
			ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
		}
		if !ok {
			return fmt.Errorf("domain %.60q: %.63q can be no part of a name", d, label)
		}
	}
	return nil
}

// classless encodes routes (RFC 3442). Who reads them does not read the router any
// more, so the way to everywhere else is among them.
func classless(routes []Route, router netip.Addr) []byte {
	var out []byte
	everywhere := false
	for _, r := range routes {
		bits := r.To.Bits()
		everywhere = everywhere || bits == 0
		to := r.To.Addr().As4()
		out = append(append(out, byte(bits)), to[:(bits+7)/8]...)
		out = append(out, r.Via.AsSlice()...)
	}
	if !everywhere && router.IsValid() {
		out = append(append(out, 0), router.AsSlice()...)
	}
	return out
}

// tell adds the options that the client asks for; one that asks for nothing in
// particular is told all.
func (o Options) tell(p *dhcpv4.DHCPv4, req request, router netip.Addr) {
	add := func(code uint8, value []byte) {
		if len(value) > 0 && (req.wants(code) || req.pkt.Options[optParameters] == nil) {
			p.Options[code] = value
		}
	}
	add(optDomain, []byte(o.Domain))
	add(optSearch, searchList(o.Search))
	var ntp []byte
	for _, a := range o.NTP {
		ntp = append(ntp, a.AsSlice()...)
	}
	add(optNTP, ntp)
	if o.MTU != 0 {
		add(optMTU, binary.BigEndian.AppendUint16(nil, uint16(o.MTU)))
	}
	if len(o.Routes) > 0 {
		add(optRoutes, classless(o.Routes, router))
		if req.wants(optRoutesMS) {
			p.Options[optRoutesMS] = classless(o.Routes, router)
		}
	}
	for code, value := range o.Custom {
		if code == optVendorInfo && req.machine.Firmware.Netboots() {
			continue // firmware reads it as instructions for PXE
		}
		add(code, value)
	}
}

// dispensable are the options a reply can do without, least needed first: what was
// configured by number, then what a system can find out or do without.
func dispensable(p *dhcpv4.DHCPv4) []uint8 {
	known := []uint8{optSearch, optNTP, optRoutesMS, optDomain, optMTU, optClientID, optRebinding, optRenewal, optTFTPServer, optDNS, optRoutes, optClientUUID, optMessageText}
	needed := []uint8{optMessageType, optServerID, optLeaseTime, optSubnetMask, optRouter, optBootFile, optRelayInfo, optVendorClass, optIPXE}
	if p.Options[optVendorClass] != nil {
		needed = append(needed, optVendorInfo) // a proxy's word to PXE; else it was configured
	}
	var out []uint8
	for _, code := range slices.Sorted(maps.Keys(p.Options)) {
		if !slices.Contains(known, code) && !slices.Contains(needed, code) {
			out = append(out, code)
		}
	}
	slices.Reverse(out)
	return append(out, known...)
}
