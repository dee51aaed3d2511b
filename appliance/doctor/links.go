package doctor

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lpmos/lpmos/netboot"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Candidate is an interface of this host, looked at as a network to serve.
type Candidate struct {
	Name    string
	Card    string
	Address netip.Prefix // invalid: none
	Default bool         // the way out of this host leads over it
	Router  netip.Addr   // that way, if it does
	Why     string       // why it is none; empty: it is one
}

// Candidates are the interfaces of this host but loopback, those that can be served
// first. Nothing is sent to find that out.
func Candidates() ([]Candidate, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list this host's interfaces: %w", err)
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list this host's routes: %w", err)
	}
	var out []Candidate
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 {
			continue
		}
		c := Candidate{Name: a.Name, Card: a.HardwareAddr.String()}
		if own, err := netboot.InterfaceNetwork(a.Name); err == nil {
			c.Address = own
		}
		for _, r := range routes {
			if r.LinkIndex == a.Index && (r.Dst == nil || r.Dst.IP.IsUnspecified()) {
				c.Default = true
				c.Router, _ = netip.AddrFromSlice(r.Gw.To4())
			}
		}
		c.Why = unfit(l, links, c.Address)
		out = append(out, c)
	}
	slices.SortStableFunc(out, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(min(len(a.Why), 1), min(len(b.Why), 1)), cmp.Compare(a.Name, b.Name))
	})
	return out, nil
}

// made are names that programs give to the bridges and cables of their containers
// and virtual machines.
var made = regexp.MustCompile(`^(docker\d+|br-[0-9a-f]{12}|virbr\d+.*|lxcbr\d+|lxdbr\d+|incusbr\d+|cni\d+|cni-podman\d+|podman\d+|kube-bridge|cbr\d+|cilium_.*|flannel.*|cali[0-9a-f]{8,}|veth[0-9a-z]{4,}|vnet\d+|tap.*|lxc[0-9a-f]{8,})$`)

// unfit says why an interface is no network to serve.
func unfit(l netlink.Link, all []netlink.Link, own netip.Prefix) string {
	a := l.Attrs()
	tunnels := []string{"tuntap", "wireguard", "gre", "gretap", "ip6gre", "ipip", "ip6tnl", "sit", "vti", "vti6", "vxlan", "geneve", "erspan", "xfrm", "ppp", "can", "vcan"}
	switch {
	case slices.Contains(tunnels, l.Type()) || a.EncapType == "ppp" || a.EncapType == "none":
		return "a tunnel"
	case wireless(a):
		return "wireless: firmware boots over a cable"
	case made.MatchString(a.Name):
		return "made by containers or virtual machines"
	case l.Type() == "dummy" || l.Type() == "ifb":
		return "no card: it leads nowhere"
	case a.MasterIndex != 0:
		for _, m := range all {
			if m.Attrs().Index == a.MasterIndex {
				return "a part of " + m.Attrs().Name
			}
		}
		return "a part of another"
	case a.Flags&net.FlagUp == 0:
		return "switched off (sudo ip link set " + a.Name + " up)"
	case a.RawFlags&unix.IFF_LOWER_UP == 0:
		return "no cable, or nobody at its other end"
	case !own.IsValid():
		return "no IPv4 address (sudo ip address add 10.0.0.1/24 dev " + a.Name + ")"
	case own.Addr().IsLinkLocalUnicast():
		return "its address is one that was made up because no DHCP server answered"
	case own.Bits() > 29:
		return fmt.Sprintf("a network of two (/%d): no machine has room in it", own.Bits())
	}
	return ""
}

// wireless asks /sys, where it tells of this interface, and else goes by the name
// that udev gives.
func wireless(a *netlink.LinkAttrs) bool {
	dir := filepath.Join("/sys/class/net", a.Name)
	if readText(dir, "ifindex") == strconv.Itoa(a.Index) {
		for _, name := range []string{"wireless", "phy80211"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return true
			}
		}
	}
	return strings.HasPrefix(a.Name, "wl")
}

// ProposeFree is the part of a proposed range that lies between addresses which
// somebody has already: the longest.
func ProposeFree(r netboot.Range, taken []netip.Addr) netboot.Range {
	var best netboot.Range
	length := 0
	from, n := r.First, 0
	for a := r.First; ; a = a.Next() {
		if r.Contains(a) && !slices.Contains(taken, a) {
			if n == 0 {
				from = a
			}
			n++
			if n > length {
				best, length = netboot.Range{First: from, Last: a}, n
			}
			continue
		}
		if n = 0; !r.Contains(a) {
			return best
		}
	}
}

// ProposeRange is a range of addresses to lend on a network: a hundred of its part
// with the host's own address in it, or its second half if it is a small one. A
// server leaves its own address and the router's out by itself.
func ProposeRange(own netip.Prefix) (netboot.Range, bool) {
	if !own.IsValid() || !own.Addr().Is4() || own.Bits() > 29 {
		return netboot.Range{}, false
	}
	at := func(base netip.Addr, n int) netip.Addr {
		b := base.As4()
		b[3] += byte(n)
		return netip.AddrFrom4(b)
	}
	if own.Bits() <= 24 {
		base := netip.PrefixFrom(own.Addr(), 24).Masked().Addr()
		return netboot.Range{First: at(base, 100), Last: at(base, 199)}, true
	}
	base, size := own.Masked().Addr(), 1<<(32-own.Bits())
	return netboot.Range{First: at(base, size/2), Last: at(base, size-2)}, true
}
