package netboot

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func addrs(s ...string) (out []netip.Addr) {
	for _, one := range s {
		out = append(out, netip.MustParseAddr(one))
	}
	return out
}

// newSetupOf makes a server of an interface that leads to more networks; own are the
// addresses it has.
func newSetupOf(t testing.TB, mode Mode, own []string, more ...Network) *setup {
	t.Helper()
	in := testInterface(mode)
	in.Networks = more
	s := newSetupAt(t, in, own[0], nil)
	var all []netip.Prefix
	for _, o := range own {
		all = append(all, netip.MustParsePrefix(o))
	}
	if err := s.link.further(all); err != nil {
		t.Fatal(err)
	}
	return s
}

// The networks of the tests: one more on the wire, one behind any relay of it, one
// behind two that are named.
var (
	second = Network{Prefix: netip.MustParsePrefix("10.78.0.0/24"), Range: span("10.78.0.100", "10.78.0.101"), Router: netip.MustParseAddr("10.78.0.254")}
	behind = Network{Prefix: netip.MustParsePrefix("10.79.0.0/24"), Range: span("10.79.0.100", "10.79.0.199"), Router: netip.MustParseAddr("10.79.0.1"),
		DNS: addrs("10.79.0.53")}
	named = Network{Prefix: netip.MustParsePrefix("10.80.0.0/16"), Range: span("10.80.0.100", "10.80.0.199"), Relays: addrs("10.80.0.1", "192.168.9.1")}
)

func TestEachNetworkHasItsOwn(t *testing.T) {
	us, them := ip4("10.77.0.1"), ip4("10.78.0.1")
	select5 := func(a string) map[uint8][]byte {
		return map[uint8][]byte{82: slices.Concat([]byte{1, 2, 'e', '0', 5, 4}, ip4(a))}
	}
	for _, c := range []struct {
		name   string
		before []packet
		fixed  string
		p      packet
		want   dhcpv4.MessageType
		addr   string
		to     string
		server []byte
		router string
	}{
		{name: "a stranger on the wire", p: packet{kind: discover}, want: offer, addr: "10.77.0.100", server: us, router: "10.77.0.1"},
		{name: "one that asks for an address of the second", p: packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.78.0.101")}}, want: offer, addr: "10.78.0.101", server: them, router: "10.78.0.254"},
		{name: "one whose address is of the second", fixed: "10.78.0.7", p: packet{kind: discover}, want: offer, addr: "10.78.0.7", server: them, router: "10.78.0.254"},
		{name: "selecting the second", p: packet{kind: reqst, opts: map[uint8][]byte{54: them, 50: ip4("10.78.0.100")}}, want: ack, addr: "10.78.0.100", server: them},
		{name: "selecting an address of the second by the first's server", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.78.0.100")}}, want: nak, server: us},
		{name: "one that has been lent an address of the second", before: []packet{{kind: reqst, opts: map[uint8][]byte{54: them, 50: ip4("10.78.0.100")}}},
			p: packet{kind: discover}, want: offer, addr: "10.78.0.100", server: them},
		{name: "renewing it", before: []packet{{kind: reqst, opts: map[uint8][]byte{54: them, 50: ip4("10.78.0.100")}}},
			p: packet{kind: reqst, ciaddr: "10.78.0.100", unicast: true}, want: ack, addr: "10.78.0.100", server: them, to: "10.78.0.100:68"},
		{name: "one that comes from a network behind a relay", p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.79.0.100")}}, want: nak, server: us},

		{name: "behind a relay", p: packet{kind: discover, giaddr: "10.79.0.1"}, want: offer, addr: "10.79.0.100", server: us, router: "10.79.0.1", to: "10.79.0.1:67"},
		{name: "behind a relay of the wire's own network", p: packet{kind: discover, giaddr: "10.77.0.3"}, want: offer, addr: "10.77.0.100", server: us, to: "10.77.0.3:67"},
		{name: "a relay that is everybody", p: packet{kind: discover, giaddr: "10.77.0.255"}, want: silence},
		{name: "a relay that is everybody of a network behind one", p: packet{kind: discover, giaddr: "10.79.0.255"}, want: silence},
		{name: "a relay that is a network", p: packet{kind: discover, giaddr: "10.79.0.0"}, want: silence},
		{name: "a relay that is this node", p: packet{kind: discover, giaddr: "10.77.0.1"}, want: silence},
		{name: "a relay that is this node elsewhere", p: packet{kind: reqst, giaddr: "10.78.0.1", opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.150")}}, want: silence},
		{name: "behind a relay nobody has named", p: packet{kind: discover, giaddr: "10.90.0.1"}, want: silence},
		{name: "behind another than the relays that are named", p: packet{kind: discover, giaddr: "10.80.0.2"}, want: silence},
		{name: "behind one of them", p: packet{kind: discover, giaddr: "10.80.0.1"}, want: offer, addr: "10.80.0.100", server: us, to: "10.80.0.1:67"},
		{name: "behind the one with a foreign address", p: packet{kind: discover, giaddr: "192.168.9.1"}, want: offer, addr: "10.80.0.100", server: us, to: "192.168.9.1:67"},
		{name: "a relay that says which network", p: packet{kind: discover, giaddr: "192.168.9.1", opts: select5("10.79.0.0")}, want: offer, addr: "10.79.0.100", server: us, to: "192.168.9.1:67"},
		{name: "one that says a network nobody has named", p: packet{kind: discover, giaddr: "192.168.9.1", opts: select5("10.99.0.0")}, want: silence},
		{name: "a stranger as relay that says a network we have", p: packet{kind: discover, giaddr: "10.90.0.1", opts: select5("10.79.0.0")}, want: silence},
		{name: "a machine that says so itself", p: packet{kind: discover, opts: select5("10.79.0.0")}, want: offer, addr: "10.77.0.100", server: us},
		{name: "a relay that stands in for us", p: packet{kind: discover, giaddr: "10.79.0.1", opts: map[uint8][]byte{82: slices.Concat([]byte{11, 4}, ip4("10.79.0.1"))}},
			want: offer, addr: "10.79.0.100", server: ip4("10.79.0.1"), to: "10.79.0.1:67"},
		{name: "what it is asked in our name", p: packet{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{54: ip4("10.79.0.1"), 50: ip4("10.79.0.150"), 82: slices.Concat([]byte{11, 4}, ip4("10.79.0.1"))}},
			want: ack, addr: "10.79.0.150", server: ip4("10.79.0.1"), to: "10.79.0.1:67"},
		{name: "another server's client behind a relay", p: packet{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{54: ip4("10.79.0.2"), 50: ip4("10.79.0.150")}}, want: silence},
		{name: "a wrong address behind a relay", p: packet{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{50: ip4("10.77.0.150")}}, want: nak, server: us, to: "10.79.0.1:67"},
		{name: "renewing from behind a relay, directly", before: []packet{{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{54: us, 50: ip4("10.79.0.150")}}},
			p: packet{kind: reqst, ciaddr: "10.79.0.150", unicast: true}, want: ack, addr: "10.79.0.150", server: us, to: "10.79.0.150:68"},
		{name: "inform from nowhere", p: packet{kind: inform, ciaddr: "10.90.0.9"}, want: silence},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24", "10.78.0.1/24"}, second, behind, named)
			for _, p := range c.before {
				if d, _ := s.ask(t, p); d == nil || d.MessageType() != ack {
					t.Fatalf("before: %v", d)
				}
			}
			if c.fixed != "" {
				s.fleet.keeps(macA, netip.MustParseAddr(c.fixed))
			}
			d, to := s.ask(t, c.p)
			if d == nil || c.want == silence {
				if d != nil || c.want != silence {
					t.Fatalf("got %v, want %s", d, c.want)
				}
				return
			}
			if d.MessageType() != c.want || d.YourIPAddr.String() != orDefault(c.addr, "0.0.0.0") || !bytes.Equal(d.Options[54], c.server) {
				t.Fatalf("%s of %s by %v, want %s of %s by %v", d.MessageType(), d.YourIPAddr, d.Options[54], c.want, c.addr, c.server)
			}
			if c.to != "" && to.addr.String() != c.to {
				t.Errorf("sent to %s, want %s", to.addr, c.to)
			}
			if got := net.IP(d.Options[3]).String(); c.router != "" && got != c.router {
				t.Errorf("router %s, want %s", got, c.router)
			}
			if info := c.p.opts[82]; c.p.giaddr != "" && !bytes.Equal(d.Options[82], info) {
				t.Errorf("option 82 went back as %v, came as %v", d.Options[82], info)
			}
		})
	}
}

// When one network of a wire is full, another takes the strangers.
func TestStrangersGoWhereThereIsRoom(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Range = span("10.77.0.100", "10.77.0.100")
	in.Networks = []Network{second}
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	if err := s.link.further([]netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("10.78.0.1/24")}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for n := range 4 {
		addr := "nothing"
		if d, _ := s.ask(t, packet{kind: discover, mac: card(n)}); d != nil {
			addr = d.YourIPAddr.String()
		}
		got = append(got, addr)
	}
	if strings.Join(got, " ") != "10.77.0.100 10.78.0.100 10.78.0.101 nothing" {
		t.Errorf("offered %q", got)
	}
	if a := s.Alarms(); len(a) != 1 {
		t.Errorf("alarms: %q", a)
	}
}

func TestOption82ComesLast(t *testing.T) {
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
	info := slices.Concat([]byte{1, 200}, bytes.Repeat([]byte{7}, 200), []byte{2, 90}, bytes.Repeat([]byte{8}, 90)) // longer than one option
	req, drop := parseRequest(packet{kind: discover, giaddr: "10.79.0.1", opts: map[uint8][]byte{82: info, 175: {1, 1, 1}, 57: {5, 220}}}.bytes(), netip.AddrPort{})
	if drop != "" {
		t.Fatal(drop)
	}
	out, ok := s.responder(s.link).answer(t.Context(), req)
	if !ok {
		t.Fatal("silence")
	}
	first := map[byte]int{}
	var info82 []byte
	at, last := 240, byte(0)
	for at < len(out.packet) && out.packet[at] != 255 {
		code, n := out.packet[at], int(out.packet[at+1])
		if _, seen := first[code]; !seen {
			first[code] = at
		}
		if code == 82 {
			info82 = append(info82, out.packet[at+2:at+2+n]...)
		}
		at, last = at+2+n, code
	}
	if last != 82 || !bytes.Equal(info82, info) {
		t.Errorf("the last option is %d; 82 is %d bytes long, came with %d", last, len(info82), len(info))
	}
}

func TestARelayMayNameThePort(t *testing.T) {
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
	_, to := s.ask(t, packet{kind: discover, giaddr: "10.79.0.1", opts: map[uint8][]byte{82: {19, 0}}})
	if to.addr != netip.MustParseAddrPort("10.79.0.1:68") { // where ask says it came from
		t.Errorf("sent to %s", to.addr)
	}
}

// Options in the fields for names are options (RFC 2132 section 9.3).
func TestOverloadedOptionsAreRead(t *testing.T) {
	b := packet{kind: discover, opts: map[uint8][]byte{52: {3}, 77: []byte("iP")}}.bytes()
	copy(b[108:], append([]byte{0, 77, 1, 'X', 52, 1, 3}, 255))
	copy(b[44:], append([]byte{77, 1, 'E', 50, 4}, append(ip4("10.77.0.150"), 255)...))
	req, drop := parseRequest(b, netip.AddrPort{})
	if drop != "" || req.machine.Firmware.Stage != StageIPXE || req.requested.String() != "10.77.0.150" {
		t.Errorf("%q, %+v", drop, req)
	}
	for _, which := range []byte{1, 2, 0, 9} {
		b := packet{kind: discover, opts: map[uint8][]byte{52: {which}}}.bytes()
		copy(b[108:], []byte{50, 4, 10, 77, 0, 150, 255})
		copy(b[44:], []byte{50, 200, 10, 77}) // longer than the field
		if req, _ := parseRequest(b, netip.AddrPort{}); req.requested.IsValid() != (which&1 != 0) {
			t.Errorf("option 52 is %d: %s", which, req.requested)
		}
	}
}

func TestNetworksThatCannotBe(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24")}
	for name, c := range map[string]struct {
		n    Network
		want string
	}{
		"overlaps":    {Network{Prefix: netip.MustParsePrefix("10.77.0.128/25"), Range: span("10.77.0.130", "10.77.0.140")}, "overlap"},
		"range":       {Network{Prefix: netip.MustParsePrefix("10.79.0.0/24"), Range: span("10.77.0.130", "10.77.0.140")}, "does not lie in its network 10.79.0.0/24"},
		"no range":    {Network{Prefix: netip.MustParsePrefix("10.79.0.0/24")}, "needs a range"},
		"its router":  {Network{Prefix: netip.MustParsePrefix("10.79.0.0/24"), Range: behind.Range, Router: netip.MustParseAddr("10.77.0.1")}, "router 10.77.0.1 does not lie in its network"},
		"none of all": {behind, ""},
	} {
		in := testInterface(ModeDHCP)
		in.Networks = []Network{c.n}
		l, err := newLink(in, 1, nil, own[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := l.further(own); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// FuzzRelayInfo: what is found in option 82 lies in it.
func FuzzRelayInfo(f *testing.F) {
	f.Add([]byte{1, 2, 'e', '0', 5, 4, 10, 0, 0, 0}, byte(5))
	f.Add([]byte{5, 255, 1}, byte(5))
	f.Add([]byte{0, 0, 0}, byte(0))
	f.Fuzz(func(t *testing.T, info []byte, code byte) {
		if b, ok := relayOption(info, code); ok && !bytes.Contains(info, b) {
			t.Fatalf("%x in %x", b, info)
		}
	})
}

// FuzzOverload: options in the names' fields are read to an end, and never add more
// than there is.
func FuzzOverload(f *testing.F) {
	b := packet{kind: discover, opts: map[uint8][]byte{52: {3}, 77: []byte("iP")}}.bytes()
	copy(b[108:], append([]byte{0, 77, 1, 'X', 52, 1, 3}, 255))
	f.Add(b)
	f.Add(packet{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{52: {1}, 82: {5, 4, 10, 79, 0, 0}}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		req, drop := parseRequest(b, netip.AddrPort{})
		if drop != "" {
			return
		}
		n := 0
		for _, v := range req.pkt.Options {
			n += len(v)
		}
		if n > len(b) {
			t.Fatalf("%d bytes of options in a packet of %d", n, len(b))
		}
	})
}

// router is a host between the bridge, where it has the address, and 10.79.0.0/24.
func (w *wire) router(address string) (pid string) {
	w.t.Helper()
	pid = w.host("u0", address)
	w.run("nsenter", "-t", pid, "-n", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
	own, _, _ := strings.Cut(address, "/")
	w.run("ip", "route", "add", "10.79.0.0/24", "via", own, "dev", "br0")
	return pid
}

// behindRouter puts the machine's card m1 into 10.79.0.0/24, behind a router.
func (w *wire) behindRouter() (router string) {
	w.t.Helper()
	router = w.router("10.77.0.3/24")
	in := func(args ...string) { w.t.Helper(); w.run(append([]string{"nsenter", "-t", router, "-n"}, args...)...) }
	in("ip", "link", "add", "m0", "type", "veth", "peer", "name", "m1")
	in("ip", "address", "add", "10.79.0.1/24", "dev", "m0")
	in("ip", "link", "set", "m0", "up")
	in("ip", "link", "set", "m1", "netns", strconv.Itoa(w.pid))
	w.inside("ip", "link", "set", "m1", "up")
	return router
}

// relay runs a real relay at a router, for the machines on one of its links.
func (w *wire) relay(router, link string) (said *bytes.Buffer) {
	w.t.Helper()
	cmd := exec.Command("nsenter", "-t", router, "-n", "dhcrelay", "-4", "-d", "-a", "-id", link, "-iu", "u0", "10.77.0.1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said = &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return said
}

// A real relay between a network of machines and this node: dhcrelay adds option 82
// and takes the answers back; the machine renews directly through the router.
func TestBehindARealRelay(t *testing.T) {
	if _, err := exec.LookPath("dhcrelay"); err != nil {
		t.Skip("dhcrelay is not installed")
	}
	w := newWire(t)
	r := w.behindRouter()
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
	w.start(s)
	said := w.relay(r, "m0")

	script := filepath.Join(t.TempDir(), "script")
	body := "#!/bin/sh\necho \"$1 $ip $subnet $router $dns\" >> " + script + ".out\n[ -z \"$ip\" ] || { ip address replace $ip/24 dev m1; ip route replace default via $router; }\n"
	if err := os.WriteFile(script, []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	w.inside("udhcpc", "-i", "m1", "-n", "-q", "-f", "-t", "8", "-T", "1", "-s", script)
	got, err := os.ReadFile(script + ".out")
	if err != nil || !strings.Contains(string(got), "bound 10.79.0.100 255.255.255.0 10.79.0.1 10.79.0.53\n") {
		t.Errorf("udhcpc was told\n%s%v\nthe relay said\n%s", got, err, said)
	}
	// The machine fetches over the router, from outside of the interface's own network.
	if got := w.inside("busybox", "tftp", "-g", "-b", "1468", "-r", LoaderUEFIAll, "-l", "/dev/stdout", "10.77.0.1"); got != string(testFiles[LoaderUEFIAll].Data) {
		t.Errorf("fetched %q over TFTP", got)
	}
	if a := s.Stats(); a["dhcp.ack"] == 0 || a["arp.asked"] != 0 || a["echo.asked"] != 1 || a["echo.in use"] != 0 {
		t.Errorf("stats: %v", a)
	}
}

// Somebody behind the relay has the first address without having been lent it: he is
// asked through the router, and the machine gets the next.
func TestNobodyBehindARelayIsOfferedWhatSomebodyUses(t *testing.T) {
	if _, err := exec.LookPath("dhcrelay"); err != nil {
		t.Skip("dhcrelay is not installed")
	}
	w := newWire(t)
	r := w.behindRouter()
	w.run("nsenter", "-t", r, "-n", "ip", "address", "add", "10.79.0.100/24", "dev", "m0")
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
	var told heardOf
	s.sightings.notify = told.add
	w.start(s)
	said := w.relay(r, "m0")
	if got := w.leaseOn(t, "m1"); got != "10.79.0.101" {
		t.Errorf("the machine got %q; the relay said\n%s", got, said)
	}
	st := s.Stats()
	if st["echo.asked"] != 2 || st["echo.in use"] != 1 || st["arp.asked"] != 0 {
		t.Errorf("stats: %v", st)
	}
	if all := told.of(KindDHCP); len(all) == 0 || !strings.Contains(all[0].Text, "is not offered 10.79.0.100: somebody who answers to ping uses it") {
		t.Errorf("told %+v", all)
	}
	table := s.LeaseTable()
	if len(table) != 2 || table[0].State != LeaseResting || table[0].Addr.String() != "10.79.0.100" || table[0].MAC != "" || !strings.Contains(table[0].Why, "answers to ping") {
		t.Errorf("the table is %+v", table)
	}
}

// Two networks on one wire: a machine that asks for an address of the second gets it
// by this node's address there, and its loader too.
func TestTwoNetworksOnOneWire(t *testing.T) {
	w := newWire(t)
	w.run("ip", "address", "add", "10.78.0.1/24", "dev", "br0")
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24", "10.78.0.1/24"}, second)
	w.start(s)
	if got := w.lease(t, "-r", "10.78.0.101"); got != "10.78.0.101" {
		t.Errorf("asked for 10.78.0.101, got %q", got)
	}
	if got := w.lease(t); got != "10.78.0.101" {
		t.Errorf("its address was 10.78.0.101, now it got %q", got)
	}
	w.inside("ip", "address", "add", "10.78.0.101/24", "dev", "v1")
	if got := w.inside("busybox", "tftp", "-g", "-b", "1468", "-r", LoaderUEFIAll, "-l", "/dev/stdout", "10.78.0.1"); got != string(testFiles[LoaderUEFIAll].Data) {
		t.Errorf("fetched %q over TFTP", got)
	}
	if st := s.Stats(); st["dhcp.nak"] != 0 {
		t.Errorf("stats: %v", st)
	}
}
