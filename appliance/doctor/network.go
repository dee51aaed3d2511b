package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/netboot"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// interfaces are the checks of each network that is to be served.
func (h *Host) interfaces() []Check {
	var out []Check
	switch {
	case h.ConfigErr != nil:
		return nil
	case len(h.Config.Interfaces) == 0:
		return []Check{h.unnamed()}
	}
	for _, i := range h.Config.Interfaces {
		n := &network{h: h, Interface: i, in: netbootInterface(i)}
		here := []Check{n.check("network", n.subnet)}
		for _, port := range netboot.Ports(n.in.Mode) {
			here = append(here, n.check("port-"+strconv.Itoa(port), n.udpPort(port)))
		}
		here = append(here,
			n.check("port-boot", n.bootPort),
			n.check("firewall", n.firewall),
			n.check("other-dhcp", n.otherServers))
		link := n.check("link", n.carrier)
		address := n.check("address", n.address)
		address.Under = here
		link.Under = []Check{n.check("mtu", n.mtu), n.check("spanning-tree", n.spanningTree), address}
		there := n.check("interface", n.exists)
		there.Under = []Check{link}
		out = append(out, there)
	}
	return out
}

// unnamed looks for a network that could be served, where none is named. It sends
// nothing there; that the ports are free it can see from here.
func (h *Host) unnamed() Check {
	var n network
	port := func(port int) Check {
		return Check{ID: "port-" + strconv.Itoa(port), Look: func(ctx context.Context) Finding { return n.udpPort(port)(ctx) }}
	}
	return Check{ID: "interfaces",
		Look: func(context.Context) Finding {
			all, err := Candidates()
			if err != nil {
				return skip("%v", err)
			}
			var fit, not []string
			for _, c := range all {
				if c.Why != "" {
					not = append(not, c.Name+" ("+c.Why+")")
					continue
				}
				fit = append(fit, fmt.Sprintf("%s (%s)", c.Name, c.Address))
				if n.Name == "" {
					n = network{h: h, own: c.Address, in: netboot.Interface{Name: c.Name, Mode: netboot.ModeProxy}}
					n.Name = c.Name
				}
			}
			if len(fit) == 0 {
				return Finding{Verdict: Skip, Reason: "none of this host's could be served: " + strings.Join(not, ", ")}
			}
			return ok("%s could be served", strings.Join(fit, " or "))
		},
		Under: []Check{port(67), port(69), {ID: "port-boot", Look: func(ctx context.Context) Finding { return n.bootPort(ctx) }}}}
}

// network is one interface that is to be served.
type network struct {
	config.Interface
	h  *Host
	in netboot.Interface

	link netlink.Link // once it was found
	own  netip.Prefix // once it was found
}

func (n *network) check(id string, look func(context.Context) Finding) Check {
	return Check{ID: id, Of: n.Name, Look: look}
}

// netbootInterface is what the node would serve. The configuration was checked.
func netbootInterface(c config.Interface) netboot.Interface {
	out := netboot.Interface{Name: c.Name, Mode: netboot.Mode(c.Mode)}
	if r, err := netboot.ParseRange(c.Range); err == nil {
		out.Range = r
	}
	if a, err := netip.ParseAddr(c.Router); err == nil {
		out.Router = a
	}
	return out
}

func (n *network) exists(context.Context) Finding {
	if n.Mode == string(netboot.ModeOff) {
		return skip("its mode is off: nothing is served on it")
	}
	link, err := netlink.LinkByName(n.Name)
	if err != nil {
		all, _ := net.Interfaces() // without them the sentence is shorter
		var names []string
		for _, i := range all {
			names = append(names, i.Name)
		}
		return fail("ip link shows them; name another one in interfaces", "there is no interface %q here; there are: %s", n.Name, strings.Join(names, ", "))
	}
	n.link = link
	return ok("%s (%s), mode %s", n.Name, link.Attrs().HardwareAddr, n.Mode)
}

func (n *network) carrier(context.Context) Finding {
	a := n.link.Attrs()
	switch {
	case a.Flags&net.FlagUp == 0:
		return fail("sudo ip link set "+n.Name+" up", "it is switched off")
	case a.RawFlags&unix.IFF_LOWER_UP == 0:
		return fail("look at the cable and at the switch's port; ip link show "+n.Name+" says LOWER_UP then", "no carrier: nothing is plugged in, or the other end is off")
	}
	return ok("it is up and has a carrier")
}

func (n *network) mtu(context.Context) Finding {
	switch mtu := n.link.Attrs().MTU; {
	case mtu < 1500:
		return warn("sudo ip link set "+n.Name+" mtu 1500", "its MTU is %d: a TFTP block of 1468 bytes comes in pieces, which firmware does not put together", mtu)
	case mtu > 1500:
		return warn("sudo ip link set "+n.Name+" mtu 1500, unless the whole network has it", "its MTU is %d: firmware and machines use 1500, and what is larger does not reach them", mtu)
	default:
		return ok("%d", mtu)
	}
}

// spanningTree looks at a bridge of this host: while a port listens and learns, a
// machine's first packets go nowhere, for longer than firmware waits.
func (n *network) spanningTree(context.Context) Finding {
	if n.link.Type() != "bridge" {
		return skip("it is no bridge of this host; a switch wants its ports set to edge (portfast)")
	}
	dir := filepath.Join("/sys/class/net", n.Name)
	// Where /sys is of another network than this process, it tells of another bridge.
	if readText(dir, "ifindex") != strconv.Itoa(n.link.Attrs().Index) || readText(dir, "address") != n.link.Attrs().HardwareAddr.String() {
		return skip("/sys does not tell of this bridge")
	}
	delay, err := strconv.Atoi(readText(dir, "bridge/forward_delay"))
	if err != nil {
		return skip("/sys does not tell of this bridge")
	}
	wait := 2 * time.Duration(delay) * 10 * time.Millisecond // in hundredths of a second, twice: listening and learning
	if readText(dir, "bridge/stp_state") != "0" && wait > time.Second {
		return warn(fmt.Sprintf("sudo ip link set %s type bridge stp_state 0", n.Name), "the bridge speaks the spanning tree protocol and keeps a port deaf for %.0f s after its machine got power: firmware gives up before", wait.Seconds())
	}
	return ok("the bridge lets a port speak at once")
}

func readText(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (n *network) address(context.Context) Finding {
	own, err := netboot.InterfaceNetwork(n.Name)
	if err != nil {
		example := "10.0.0.1/24"
		if first := n.in.Range.First; first.IsValid() {
			b := netip.PrefixFrom(first, 24).Masked().Addr().As4()
			b[3] = 1
			example = netip.PrefixFrom(netip.AddrFrom4(b), 24).String()
		}
		return fail("sudo ip address add "+example+" dev "+n.Name, "it has no IPv4 address")
	}
	n.own = own
	if left, lent := lentFor(n.link, own.Addr()); lent {
		return warn("give it a static address, in the network configuration of this host", "%s was lent to it by a DHCP server, for %s more: machines are told this address and find nobody there once it changes", own, left)
	}
	return ok("%s", own)
}

// lentFor says how long an address is still good for, if it ends.
func lentFor(link netlink.Link, addr netip.Addr) (left time.Duration, lent bool) {
	all, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return 0, false
	}
	const forEver = 1<<32 - 1
	for _, a := range all {
		got, ok := netip.AddrFromSlice(a.IP.To4())
		if ok && got == addr && a.ValidLft > 0 && uint32(a.ValidLft) != forEver {
			return time.Duration(a.ValidLft) * time.Second, true
		}
	}
	return 0, false
}

// subnet: the server's own judgement of range, router and address.
func (n *network) subnet(context.Context) Finding {
	if err := netboot.CheckInterface(n.in); err != nil {
		return fail(fmt.Sprintf("name a range in %s in interfaces, or give %s an address in the range's network", n.own.Masked(), n.Name), "%v", err)
	}
	if n.in.Mode == netboot.ModeDHCP {
		return ok("%s lies in its network %s", n.Range, n.own.Masked())
	}
	return ok("machines on %s are told what to boot", n.own.Masked())
}

func (n *network) udpPort(port int) func(context.Context) Finding {
	return func(ctx context.Context) Finding {
		if n.h.has("udp", port) {
			return n.h.port("udp", port, nil) // one that is shared would now and then get a machine's packet
		}
		f := n.h.port("udp", port, netboot.TryPort(ctx, n.in, port))
		if f.Verdict == Fail && port == 67 && n.in.Mode == netboot.ModeProxy {
			f.Fix = "let it share the port: bind-interfaces in dnsmasq's configuration, then sudo systemctl restart dnsmasq"
		}
		return f
	}
}

func (n *network) bootPort(ctx context.Context) Finding {
	return n.h.tcpPort(ctx, netip.AddrPortFrom(n.own.Addr(), uint16(n.h.Config.BootPort)).String(), "boot_port")
}

func (h *Host) portDashboard(ctx context.Context) Finding {
	if strings.HasPrefix(h.Config.Listen, "fd:") {
		return skip("it is opened by who starts the node (%s)", h.Config.Listen)
	}
	return h.tcpPort(ctx, h.Config.Listen, "listen")
}

func (h *Host) portCluster(ctx context.Context) Finding {
	return h.tcpPort(ctx, h.Config.ClusterListen, "cluster_listen")
}

// tcpPort opens an address and closes it.
func (h *Host) tcpPort(ctx context.Context, address, key string) Finding {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return fail("write it as 10.0.0.1:4747", "%s: %v", key, err)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port == 0 {
		return ok("%s: any port that is free", address)
	}
	if h.has("tcp", port) {
		return h.port("tcp", port, nil)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err == nil {
		err = l.Close()
	}
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fail("ip -br address shows those there are", "%s: this host has no address %s", key, address)
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("TCP port %d: %w", port, os.ErrPermission)
	case errors.Is(err, unix.EADDRINUSE):
		err = fmt.Errorf("TCP port %d at %s is taken%s", port, address, netboot.PortHolder("tcp", text))
	}
	return h.port("tcp", port, err)
}

// has says whether the node that runs here has a port open.
func (h *Host) has(network string, port int) bool {
	if h.Inside {
		return h.node.runs // it serves nothing before it has them all
	}
	return h.node.pid != 0 && slices.ContainsFunc(netboot.Holders(network, port), func(o netboot.Holder) bool { return o.PID == h.node.pid })
}

// port judges what came of opening one. A node that runs here has its own open.
func (h *Host) port(network string, port int, err error) Finding {
	holders := netboot.Holders(network, port)
	switch {
	case h.has(network, port):
		return ok("%s port %d is open, by the node that runs here (process %d)", strings.ToUpper(network), port, h.node.pid)
	case err == nil && h.node.runs && os.Geteuid() == 0:
		return warn("start the node anew with this configuration", "%s port %d is free, although a node runs here (process %d): it was started with another configuration", strings.ToUpper(network), port, h.node.pid)
	case err == nil:
		return ok("%s port %d is free", strings.ToUpper(network), port)
	case strings.Contains(err.Error(), "not permitted"), errors.Is(err, os.ErrPermission):
		return skip("only root may try %s port %d: sudo lpmos doctor", strings.ToUpper(network), port)
	case len(holders) == 0 && h.node.runs:
		return ok("%s port %d is open, by the node as far as can be seen", strings.ToUpper(network), port)
	}
	return fail(endCommand(network, port, holders), "%v", err)
}

// endCommand ends who has a port, as a service if it is one.
func endCommand(network string, port int, holders []netboot.Holder) string {
	if len(holders) == 0 {
		flag := map[string]string{"udp": "u", "tcp": "t"}[network]
		return fmt.Sprintf("sudo ss -ln%sp 'sport = :%d' says who has it; end that", flag, port)
	}
	if unit := unitOf(holders[0].PID); unit != "" {
		return "sudo systemctl disable --now " + unit
	}
	return fmt.Sprintf("sudo kill %d", holders[0].PID)
}

// unitOf is the service of systemd that a process belongs to, or "".
func unitOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return serviceIn(string(b))
}

// serviceIn reads the unit out of /proc/PID/cgroup: the last part of the path that
// is a system's service. A user's own services are not ended with systemctl alone.
func serviceIn(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		_, path, ok := strings.Cut(strings.TrimSpace(line), "::")
		if !ok || !strings.HasPrefix(path, "/system.slice/") {
			continue
		}
		for _, part := range slices.Backward(strings.Split(path, "/")) {
			if strings.HasSuffix(part, ".service") && !strings.ContainsAny(part, " \t;&|$'\"\\") {
				return part
			}
		}
	}
	return ""
}

// otherServers listens who else answers. A node that runs here does that all the
// time; what it has heard is as good.
func (n *network) otherServers(ctx context.Context) Finding {
	if n.h.node.runs {
		return n.heardByNode()
	}
	found, err := netboot.FindServers(ctx, n.Name, n.h.Listen)
	switch {
	case errors.Is(err, os.ErrPermission):
		return skip("only root may ask for other DHCP servers: sudo lpmos doctor")
	case err != nil:
		return skip("other DHCP servers could not be asked for: %v", err)
	}
	return n.judge(found)
}

func (n *network) heardByNode() Finding {
	if n.h.node.view != nil {
		for _, a := range n.h.node.view.Alarms {
			if slices.Contains(strings.FieldsFunc(a, func(r rune) bool { return strings.ContainsRune(" :;,", r) }), n.Name) {
				return fail(n.beside(), "%s", a)
			}
		}
	}
	return ok("the node that runs here has heard no DHCP server that should not be there")
}

// judge says what the servers that answered are to this node.
func (n *network) judge(found []netboot.DHCPServer) Finding {
	i := slices.IndexFunc(found, func(s netboot.DHCPServer) bool { return s.Lends })
	boots := slices.IndexFunc(found, func(s netboot.DHCPServer) bool { return s.Boots })
	switch {
	case n.in.Mode == netboot.ModeDHCP:
	case n.in.Mode != netboot.ModeProxy:
		return ok("%d DHCP servers answered there, and this node is not to", len(found))
	case boots >= 0:
		return warn("take boot file and next server out of its configuration", "%s tells machines what to boot, beside this node: whoever answers first wins", who(found[boots]))
	case i >= 0:
		return ok("%s gives the addresses, and this node adds what to boot", who(found[i]))
	default:
		if here := netboot.Holders("udp", 67); len(here) > 0 { // it does not hear this host's own packets
			return ok("%s (process %d) on this host has the DHCP port open, and this node adds what to boot", here[0].Name, here[0].PID)
		}
		return warn("start a DHCP server there, or let this node give the addresses: mode: dhcp with a range", "no DHCP server answered within %s, and in mode proxy somebody else has to give the addresses", n.h.Listen)
	}
	if len(found) == 0 {
		return ok("no other DHCP server answered within %s", n.h.Listen)
	}
	first := found[max(i, 0)]
	if first.Addr == n.own.Addr() {
		return fail("find that card at the switch and unplug it", "somebody answers DHCP in this host's name: %s", who(first))
	}
	return fail(n.beside(), "another DHCP server answers on %s: %s. Machines take what comes first, and it does not boot them off this node", n.Name, who(first))
}

func (n *network) beside() string {
	return fmt.Sprintf("stop that server, or work beside it: interface %s with mode: proxy and no range", n.Name)
}

func who(s netboot.DHCPServer) string { return fmt.Sprintf("%s (card %s)", s.Addr, s.Card) }
