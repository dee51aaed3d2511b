package netboot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Beside another server: whom a node in mode dhcp answers, and whom not.
func TestBesideAnotherServer(t *testing.T) {
	us := ip4("10.77.0.1")
	bound := packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}}
	for _, c := range []struct {
		name   string
		fixed  string
		before bool // it has been lent 10.77.0.120
		p      packet
		want   dhcpv4.MessageType
	}{
		{name: "a new machine", p: packet{kind: discover}, want: silence},
		{name: "a known one", fixed: "10.77.0.44", p: packet{kind: discover}, want: offer},
		{name: "a known one selecting us", fixed: "10.77.0.44", p: packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.44")}}, want: ack},
		{name: "one with a lease of ours", before: true, p: packet{kind: discover}, want: offer},
		{name: "one that renews a lease of ours", before: true, p: packet{kind: reqst, ciaddr: "10.77.0.120", unicast: true}, want: ack},
		{name: "one that was offered an address just before", p: bound, want: ack},
		{name: "a new machine behind a relay, whom the other does not hear", p: packet{kind: discover, giaddr: "10.79.0.1"}, want: offer},
		{name: "a new machine of this wire that says to be behind a relay", p: packet{kind: discover, giaddr: "10.77.0.3"}, want: silence},
		{name: "the other's client selecting it", p: packet{kind: reqst, opts: map[uint8][]byte{54: ip4("10.77.0.2"), 50: ip4("10.77.0.200")}}, want: silence},
		{name: "the other's client after its start", p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.77.0.200")}}, want: silence},
		{name: "the other's client of another network of its", p: packet{kind: reqst, opts: map[uint8][]byte{50: ip4("10.99.0.200")}}, want: silence},
		{name: "the other's client rebinding", p: packet{kind: reqst, ciaddr: "10.77.0.200"}, want: silence},
	} {
		s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
		if c.before {
			s.ask(t, bound)
		}
		if c.fixed != "" {
			s.fleet.keeps(macA, netip.MustParseAddr(c.fixed))
		}
		s.quiet = func() string { return "left to the DHCP server 10.77.0.2" }
		got := silence
		if d, _ := s.ask(t, c.p); d != nil {
			got = d.MessageType()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWhenANodeFallsSilent(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*Interface)
		heard func(*otherServers)
		quiet bool
	}{
		{"nobody else", func(*Interface) {}, func(*otherServers) {}, false},
		{"another gives addresses", func(*Interface) {}, func(o *otherServers) { o.hear(frame("10.77.0.66", ""), rogueCard) }, true},
		{"and this node was told to lend beside it", func(in *Interface) { in.BesideOtherServer = true }, func(o *otherServers) { o.hear(frame("10.77.0.66", ""), rogueCard) }, false},
		{"a proxy has nothing to be silent about", func(in *Interface) { in.Mode = ModeProxy }, func(o *otherServers) { o.hear(frame("10.77.0.66", ""), rogueCard) }, false},
		{"another node", func(*Interface) {}, func(o *otherServers) { o.hear(frame("10.77.0.2", ""), rogueCard) }, false},
		{"another says only what to boot", func(*Interface) {}, func(o *otherServers) { o.hear(proxyFrame("10.77.0.66"), rogueCard) }, false},
	} {
		in := testInterface(ModeDHCP)
		c.set(&in)
		s := newSetupAt(t, in, "10.77.0.1/24", &beside{self: "n1", urls: []string{"https://10.77.0.2:80"}})
		o := s.watch(s.link)
		c.heard(o)
		if got := o.quiet(); (got != "") != c.quiet {
			t.Errorf("%s: quiet %q", c.name, got)
		}
		if n := strings.Count(strings.Join(s.Alarms(), ""), "gives no address to new machines"); (n == 1) != c.quiet {
			t.Errorf("%s: alarms %q", c.name, s.Alarms())
		}
		s.pass(rivalGone)
		if got := o.quiet(); got != "" {
			t.Errorf("%s: %q although it has not been heard for long", c.name, got)
		}
	}
	s := newSetup(t, ModeDHCP)
	o := s.watch(s.link)
	o.look(30 * time.Millisecond)
	if o.quiet() != "looking for other servers" {
		t.Errorf("quiet %q before anybody was looked for", o.quiet())
	}
	if err := eventually(t.Context(), func() error {
		if why := o.quiet(); why != "" {
			return errors.New(why)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// proxyFrame is an answer without an address.
func proxyFrame(server string) []byte {
	d, err := dhcpv4.FromBytes(rogueOffer([4]byte{1}, rogueCard, server, "x.efi"))
	if err != nil {
		panic(err)
	}
	d.YourIPAddr = netip.IPv4Unspecified().AsSlice()
	return udpPacket(netip.AddrPortFrom(netip.MustParseAddr(server), 67), netip.MustParseAddrPort("255.255.255.255:68"), d.ToBytes())
}

// lease runs udhcpc and returns the address it got.
func (w *wire) lease(t *testing.T, more ...string) string {
	t.Helper()
	return w.leaseOn(t, "v1", more...)
}

// leaseOn does so on a card.
func (w *wire) leaseOn(t *testing.T, card string, more ...string) string {
	t.Helper()
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ -z \"$ip\" ] || echo \"$ip\" > "+script+".out\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, _ := w.command(append([]string{"udhcpc", "-i", card, "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", script}, more...)...).CombinedOutput()
	b, err := os.ReadFile(script + ".out")
	if err != nil {
		t.Logf("udhcpc: %s", out)
		return ""
	}
	return strings.TrimSpace(string(b))
}

// A real server is there when this node starts: new machines are its, the alarm is
// red, and when it is gone this node serves them.
func TestBesideDnsmasq(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("dnsmasq is not installed")
	}
	w := newWire(t)
	stop := startDnsmasq(t, w, dnsmasq)
	s := newSetup(t, ModeDHCP)
	s.cfg.look = lookFirst
	w.start(s)
	theirs, ours := span("10.77.0.200", "10.77.0.220"), s.link.Range
	if got := w.lease(t); got == "" || !theirs.Contains(netip.MustParseAddr(got)) {
		t.Errorf("a new machine got %q, want it of dnsmasq", got)
	}
	if n := s.Stats()["dhcp.offer"]; n != 0 {
		t.Errorf("%d offers beside another server", n)
	}
	alarms := s.Alarms()
	if len(alarms) != 1 || !strings.Contains(alarms[0], "another DHCP server answers: 10.77.0.2 (card ") || !strings.Contains(alarms[0], "this node gives no address to new machines there") {
		t.Errorf("alarms: %q", alarms)
	}
	stop()
	s.pass(rivalGone) // as if three probes had found nobody
	got := w.lease(t)
	if got == "" || !ours.Contains(netip.MustParseAddr(got)) {
		t.Errorf("with the other gone a new machine got %q, want it of %s; %v", got, ours, s.Stats())
	}
	if st := s.Stats(); st["dhcp.nak"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// Told to, a node lends beside another server, and refuses no client of its.
func TestBesideDnsmasqWhenToldTo(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("dnsmasq is not installed")
	}
	w := newWire(t)
	startDnsmasq(t, w, dnsmasq)
	in := testInterface(ModeDHCP)
	in.BesideOtherServer = true
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	s.cfg.look = lookFirst
	w.start(s)
	for range 3 {
		if got := w.lease(t); got == "" {
			t.Error("a machine got nothing from either of two servers")
		}
	}
	// The address is asked for by ARP first, so dnsmasq is quicker.
	if err := eventually(t.Context(), func() error {
		if s.Stats()["dhcp.offer"] == 0 {
			return errors.New("no offer")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	if st := s.Stats(); st["dhcp.nak"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// Mode observe answers nothing, takes no port, and tells who was answered by whom.
func TestObserve(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("dnsmasq is not installed")
	}
	w := newWire(t)
	startDnsmasq(t, w, dnsmasq)
	s := newSetup(t, ModeObserve)
	w.start(s)
	for _, port := range []int{67, 69, 4011} {
		c, err := listenUDP(t.Context(), "br0", port, false)
		if err != nil {
			t.Fatalf("an observer holds a port: %v", err)
		}
		c.Close()
	}
	got := w.lease(t, "-B", "-V", "PXEClient:Arch:00007:UNDI:003016")
	if got == "" {
		t.Fatal("dnsmasq gave nothing")
	}
	var said []string
	if err := eventually(t.Context(), func() error {
		said = nil
		for _, one := range s.Sightings().Recent(99) {
			said = append(said, one.Text)
		}
		all := strings.Join(said, "\n")
		for _, want := range []string{
			"asked for an address as UEFI",
			"was offered " + got + " by the DHCP server 10.77.0.2 (card ",
			"asked for " + got + " as UEFI",
			"which 10.77.0.2 had offered",
			"was lent " + got + " by the DHCP server 10.77.0.2",
		} {
			if !strings.Contains(all, want) {
				return fmt.Errorf("it is not said that the machine %s", want)
			}
		}
		return nil
	}); err != nil {
		t.Errorf("%v; said\n%s", err, strings.Join(said, "\n"))
	}
	for name := range s.Stats() {
		if !strings.HasPrefix(name, "observe.") {
			t.Errorf("an observer did something else: %v", s.Stats())
		}
	}
	if a := s.Alarms(); len(a) != 0 {
		t.Errorf("what is observed is no alarm: %q", a)
	}
}

// FuzzObserve: whatever comes by, an observer goes on.
func FuzzObserve(f *testing.F) {
	ask := packet{kind: discover, opts: map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016")}}.bytes()
	f.Add(udpPacket(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), ask))
	f.Add(frame("10.77.0.66", "x.efi\x1b[31m"))
	f.Add(proxyFrame("10.77.0.66"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := NewSightings(4, 4, nil)
		o := &observer{sightings: s, stats: &counters{}, now: time.Now}
		o.asked(b)
		if reply, src, ok := parseServerReply(b); ok {
			o.answered(reply, src, macA)
		}
		for _, one := range s.Recent(9) {
			if strings.ContainsAny(one.Text, "\x1b\n\r\x00") || len(one.Text) > 400 {
				t.Fatalf("said %q", one.Text)
			}
		}
	})
}
