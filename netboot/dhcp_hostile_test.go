package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// raw puts options behind a bare packet as bytes, also such as no codec would write.
func raw(options []byte, edit func(b []byte)) []byte {
	b := packet{kind: discover}.bytes()[:240]
	b = append(append(bytes.Clone(b), options...), 255)
	if edit != nil {
		edit(b)
	}
	return b
}

// S21: packets that have brought other servers down, in both modes and at both of a
// proxy's ports. What is answered at all is answered within the network.
func TestS21_DHCPMalformed(t *testing.T) {
	us := ip4("10.77.0.1")
	full := func(extra map[uint8][]byte) map[uint8][]byte {
		m := map[uint8][]byte{50: ip4("10.77.0.150"), 60: []byte("PXEClient:Arch:00007:UNDI:003016"), 61: {1, 2, 3}, 93: {0, 7}, 97: append([]byte{0}, testUUID[:]...)}
		for k, v := range extra {
			m[k] = v
		}
		return m
	}
	silent, any := false, true
	for _, c := range []struct {
		name     string
		b        []byte
		unicast  bool
		answered bool // that it may be
	}{
		{"unicast from a relay of another network", packet{kind: reqst, giaddr: "192.168.7.1", opts: full(nil)}.bytes(), true, silent},
		{"and it names this server", packet{kind: reqst, giaddr: "192.168.7.1", opts: full(map[uint8][]byte{54: us})}.bytes(), true, silent},
		{"a DISCOVER of another network", packet{kind: discover, giaddr: "8.8.8.8", opts: full(nil)}.bytes(), true, silent},
		{"an INFORM of somebody far away", packet{kind: inform, ciaddr: "8.8.8.8", opts: full(nil)}.bytes(), true, silent},
		{"a DISCOVER with a victim's address", packet{kind: discover, ciaddr: "8.8.8.8", opts: full(nil)}.bytes(), false, silent},
		{"a REQUEST with a victim's address", packet{kind: reqst, ciaddr: "8.8.8.8", opts: full(map[uint8][]byte{54: us})}.bytes(), true, silent},
		{"a renewal of another network", packet{kind: reqst, ciaddr: "192.168.7.9"}.bytes(), true, any},
		{"the name ..", raw([]byte{53, 1, 1, 12, 2, '.', '.'}, nil), false, any},
		{"a name of 255 bytes", raw(append([]byte{53, 1, 1, 12, 255}, bytes.Repeat([]byte("\x00\n${"), 64)[:255]...), nil), false, any},
		{"an empty client id", raw([]byte{53, 1, 1, 61, 0}, nil), false, any},
		{"a client id of a byte", raw([]byte{53, 1, 1, 61, 1, 7}, nil), false, any},
		{"client ids of 2000 bytes", raw(append([]byte{53, 1, 1}, bytes.Repeat(append([]byte{61, 250}, make([]byte, 250)...), 8)...), nil), false, any},
		{"a relay's word that is longer than itself", raw([]byte{53, 1, 1, 82, 4, 1, 255, 1, 1}, nil), false, any},
		{"nested relay's words", raw(append([]byte{53, 1, 1, 82, 60}, bytes.Repeat([]byte{9, 58}, 30)...), nil), false, any},
		{"an option past the end", raw([]byte{53, 1, 1, 82, 200, 1}, nil), false, silent},
		{"a vendor's option that loops", raw([]byte{53, 1, 1, 43, 4, 43, 4, 43, 4}, nil), false, any},
		{"overload of both fields", raw([]byte{52, 1, 3, 53, 1, 1}, func(b []byte) { copy(b[108:], []byte{52, 1, 3}); copy(b[44:], []byte{52, 1, 3}) }), false, any},
		{"no hardware address", raw([]byte{53, 1, 1}, func(b []byte) { b[2] = 0 }), false, silent},
		{"16 bytes of hardware address", raw([]byte{53, 1, 1}, func(b []byte) { b[2] = 16 }), false, silent},
		{"255 bytes of hardware address", raw([]byte{53, 1, 1}, func(b []byte) { b[2] = 255 }), false, silent},
		{"no message type", raw([]byte{12, 1, 'x'}, nil), false, silent},
		{"an empty message type", raw([]byte{53, 0}, nil), false, silent},
		{"two message types", raw([]byte{53, 2, 1, 3}, nil), false, silent},
		{"options of no length", raw([]byte{53, 1, 1, 50, 0, 54, 0, 57, 0, 60, 0, 77, 0, 93, 0, 97, 0, 175, 0}, nil), false, any},
		{"a maximum of 0", raw([]byte{53, 1, 1, 57, 2, 0, 0}, nil), false, any},
		{"a maximum of 65535", raw([]byte{53, 1, 1, 57, 2, 255, 255}, nil), false, any},
		{"a UUID of the wrong type", raw(append([]byte{53, 1, 1, 97, 17, 7}, make([]byte, 16)...), nil), false, any},
	} {
		for n := range hostile(t, c.b, c.unicast) {
			if !c.answered && !strings.HasPrefix(n, "4011") { // where the answer goes to who asked, and nowhere else
				t.Errorf("%s: answered with %s", c.name, n)
			}
		}
	}
	whole := packet{kind: reqst, giaddr: "10.77.0.3", opts: full(map[uint8][]byte{54: us, 77: []byte("\x04iPXE"), 82: {1, 2, 3, 4}, 175: {1, 1, 1}})}.bytes()
	for n := range whole {
		hostile(t, whole[:n], n%2 == 0)
	}
	rng := rand.New(rand.NewPCG(21, 21))
	for range 5000 {
		b := bytes.Clone(whole)
		for range 1 + rng.IntN(6) {
			b[rng.IntN(len(b))] = byte(rng.Uint32())
		}
		hostile(t, b, false)
	}
}

// hostile gives bytes to a server and to both ports of a proxy, and yields what they
// answer. Every answer can be read and stays in the network.
func hostile(t *testing.T, b []byte, unicast bool) map[string]bool {
	t.Helper()
	said := map[string]bool{}
	for _, mode := range []Mode{ModeDHCP, ModeProxy} {
		s := hostileSetups(t)[mode]
		r := s.responder(s.link)
		r.strangers = nil
		answers := map[string]answerFunc{"dhcp": r.answer}
		if mode == ModeProxy {
			answers = map[string]answerFunc{"proxy": r.proxyOffer, "4011": r.proxyBoot}
		}
		for name, answer := range answers {
			for _, from := range []string{"10.77.0.120:68", "8.8.8.8:68"} {
				req, drop := parseRequest(bytes.Clone(b), netip.MustParseAddrPort(from))
				if drop != "" {
					continue
				}
				req.unicast = unicast
				out, ok := answer(t.Context(), req)
				if !ok {
					continue
				}
				d, err := dhcpv4.FromBytes(out.packet)
				if err != nil {
					t.Fatalf("%x: our answer cannot be read: %v", b, err)
				}
				if to := out.to.addr.Addr(); to != everybody && !s.link.subnet.Contains(to) {
					t.Errorf("%x: %s answers %s, out of the network", b, name, to)
				}
				if len(out.packet) > maxReplySize {
					t.Errorf("%x: answered with %d bytes", b, len(out.packet))
				}
				said[name+" "+d.MessageType().String()] = true
			}
		}
	}
	return said
}

var hostileKept map[Mode]*setup

func hostileSetups(t *testing.T) map[Mode]*setup {
	if hostileKept == nil {
		hostileKept = map[Mode]*setup{ModeDHCP: newSetup(t, ModeDHCP), ModeProxy: newSetup(t, ModeProxy)}
		for _, s := range hostileKept {
			s.leases.put = func(_ Lease, _ string, done func(error)) { done(nil) } // the disk has nothing to say here
		}
		t.Cleanup(func() { hostileKept = nil })
	}
	return hostileKept
}

// S22: a hundred thousand machines that do not exist. The known machine gets its
// address all the while, nothing is written for the others, and nothing grows.
func TestS22_DHCPStarvation(t *testing.T) {
	log := &lines{}
	s := newSetup(t, ModeDHCP)
	s.cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
	known := netip.MustParseAddr("10.77.0.42")
	s.fleet.keeps(macA, known)
	rng := rand.New(rand.NewPCG(22, 22))
	stranger := func() string {
		return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.IntN(256), rng.IntN(256))
	}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	r := s.responder(s.link)
	say := func(p packet) *dhcpv4.DHCPv4 {
		req, drop := parseRequest(p.bytes(), netip.AddrPort{})
		if drop != "" {
			t.Fatal(drop)
		}
		out, ok := r.answer(t.Context(), req)
		if !ok {
			return nil
		}
		d, err := dhcpv4.FromBytes(out.packet)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	before := heap()
	for i := range 100_000 {
		p := packet{kind: discover, mac: stranger()}
		d := say(p)
		if d != nil && i%3 == 0 { // some go on, and refuse what they get
			addr := ip4(addrField(d.YourIPAddr.To4()).String())
			say(packet{kind: decline, mac: p.mac, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: addr}})
		}
		if i%1000 == 0 {
			offered := say(packet{kind: discover, mac: macA})
			acked := say(packet{kind: reqst, mac: macA, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: known.AsSlice()}})
			if offered == nil || acked == nil || acked.MessageType() != ack || addrField(acked.YourIPAddr.To4()) != known {
				t.Fatalf("after %d strangers the known machine is left without its address", i)
			}
		}
		if i%5000 == 0 { // 5,000 a second
			s.pass(time.Second)
		}
	}
	if grown := int64(heap()) - int64(before); grown > 50<<20 {
		t.Errorf("the node has grown by %d MiB", grown>>20)
	}
	if told := s.fleet.told(); len(told) != 0 {
		t.Errorf("the fleet was told of %d strangers", len(told))
	}
	if n := len(s.Leases()); n != 0 {
		t.Errorf("%d leases were written for machines that only asked", n)
	}
	if n := len(log.all()); n > 100 {
		t.Errorf("the log has %d lines of it", n)
	}
	if st := s.Stats(); st["dhcp.drop.too many strangers"] < 90_000 || st["dhcp.drop.panic"] != 0 {
		t.Errorf("stats: %v", st)
	}
	// When it is over, the next stranger is served.
	s.pass(declineRest + time.Second)
	if d := say(packet{kind: discover, mac: macB}); d == nil {
		t.Error("when the flood has ended a new machine gets no address")
	}
}

// A room full of racks whose power comes back is no flood: every machine is offered an
// address when it first asks, and one that has come to a lease is none of the strangers
// that are counted.
func TestARoomThatPowersOnIsNoFlood(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Range = span("10.77.16.0", "10.77.31.255")
	s := newSetupAt(t, in, "10.77.0.1/16", nil)
	r := s.responder(s.link)
	ask := func(n int) bool {
		mac := net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
		req, drop := parseRequest(packet{kind: discover, mac: mac.String()}.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
		if drop != "" {
			t.Fatal(drop)
		}
		out, ok := r.answer(t.Context(), req)
		if ok {
			d, err := dhcpv4.FromBytes(out.packet)
			if err != nil {
				t.Fatal(err)
			}
			lent, _ := netip.AddrFromSlice(d.YourIPAddr.To4())
			if n == 0 {
				if err := s.leases.Commit(mac.String(), lent, s.clock().Add(time.Minute), r.terms()); err != nil {
					t.Fatal(err)
				}
			}
		}
		return ok
	}
	for n := range strangersAtOnce {
		if !ask(n) {
			t.Fatalf("machine %d is not answered: %v", n, s.Stats())
		}
	}
	if ask(strangersAtOnce) {
		t.Error("one more is answered: there is no limit")
	}
	if !ask(0) {
		t.Error("a machine with a lease waits behind strangers")
	}
	s.pass(time.Minute)
	if !ask(0) || !ask(strangersAtOnce) {
		t.Error("nobody is answered a minute later")
	}
}

// The same on a wire: a machine boots while its Ethernet is flooded.
func TestS22_AMachineBootsInAFlood(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	const known = "52:54:00:77:00:01"
	s.fleet.keeps(known, netip.MustParseAddr("10.77.0.42"))
	w.start(s)
	ctx, cancel := context.WithCancel(t.Context())
	flood := w.command(os.Args[0], "-test.run=^TestFloodProcess$", "-test.count=1")
	flood.Env = append(os.Environ(), floodEnv+"=1")
	if err := flood.Start(); err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { flood.Process.Kill() })
	defer func() { cancel(); stop(); flood.Process.Kill(); flood.Wait() }()
	for end := time.Now().Add(30 * time.Second); s.Stats()["dhcp.drop.too many strangers"] == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is no flood: %v", s.Stats())
		}
	}
	res, err := w.boot(pxeclient.BIOS, known)
	if err != nil || res.Outcome != pxeclient.Kernel || res.Loader.Addr.Addr() != netip.MustParseAddr("10.77.0.42") {
		t.Errorf("the known machine: %+v, %v", res, err)
	}
	if told := s.fleet.told(); len(told) != 1 {
		t.Errorf("the fleet was told of %d boots", len(told))
	}
}

// Made-up machines that get no answer push out nothing of what is remembered of others.
func TestAFloodOfStrangersHidesNobodysTrail(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.fleet.keeps(macA, pathAt)
	s.lendTo(t, macA, pathAt)
	for i := range strangersAtOnce + rememberedMachines {
		s.ask(t, packet{kind: discover, mac: net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}.String(), opts: map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016"), 93: {0, 7}}})
	}
	if s.sightings.holder(pathAt) != macA || len(s.sightings.Of(macA)) == 0 {
		t.Errorf("%s is held by %q; its trail is %v", pathAt, s.sightings.holder(pathAt), s.sightings.Of(macA))
	}
	if n := s.Stats()["dhcp.drop.too many strangers"]; n != rememberedMachines {
		t.Errorf("%d were not answered", n)
	}
}

// Packets that find no place are dropped, and DISCOVERs take none of the others'.
func TestDISCOVERsTakeNoOthersPlaces(t *testing.T) {
	p := newPlaces()
	var last func()
	for range inFlight {
		leave, ok := p.take(discover)
		if !ok {
			t.Fatal("there are too few")
		}
		last = leave
	}
	if _, ok := p.take(discover); ok {
		t.Error("there is no limit")
	}
	for range inFlight {
		if _, ok := p.take(reqst); !ok {
			t.Fatal("a REQUEST waits behind DISCOVERs")
		}
	}
	if _, ok := p.take(inform); ok {
		t.Error("there is no limit for the others")
	}
	last()
	if _, ok := p.take(discover); !ok {
		t.Error("a place that was left is not there")
	}
}

const floodEnv = "LPMOS_TEST_FLOOD"

// TestFloodProcess asks for addresses without end, 5,000 a second at most.
func TestFloodProcess(t *testing.T) {
	if os.Getenv(floodEnv) == "" {
		t.Skip("started by other tests only")
	}
	ifi, err := net.InterfaceByName("v1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := openRaw(ifi.Index, 0x0800, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := uint32(0); ; {
		for range 50 {
			i++
			hw := binary.BigEndian.AppendUint32([]byte{2, 0}, i)
			p := packet{kind: discover, mac: net.HardwareAddr(hw).String()}.bytes()
			frame := udpPacket(netip.MustParseAddrPort("0.0.0.0:68"), netip.MustParseAddrPort("255.255.255.255:67"), p)
			if err := s.send(frame, broadcastCard); err != nil && !strings.Contains(err.Error(), "no buffer") {
				t.Fatal(err)
			}
		}
		<-tick.C
	}
}

// S23: another server in the network is told of, by card and address, within a probe.
func TestS23_RogueDHCPServer(t *testing.T) {
	w := newWire(t)
	w.inside("ip", "address", "add", "10.77.0.66/24", "dev", "v1")
	rogue := w.command(os.Args[0], "-test.run=^TestRogueProcess$", "-test.count=1")
	ready := t.TempDir() + "/ready"
	rogue.Env = append(os.Environ(), rogueEnv+"="+ready)
	if err := rogue.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { rogue.Process.Kill(); rogue.Wait() }()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the other server did not start")
		}
	}
	card := strings.Fields(w.inside("ip", "-br", "link", "show", "v1"))[2]
	s := newSetup(t, ModeDHCP)
	var seen heardOf
	s.sightings.notify = seen.add
	w.start(s)
	for end := time.Now().Add(30 * time.Second); len(s.Alarms()) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no alarm: %v", s.Stats())
		}
	}
	alarm := s.Alarms()[0]
	if !strings.Contains(alarm, "10.77.0.66") || !strings.Contains(alarm, card) || !strings.Contains(alarm, "br0") || !strings.Contains(alarm, "what to boot") {
		t.Errorf("the alarm does not say who it is: %s", alarm)
	}
	if told := seen.of(KindAlarm); len(told) != 1 || told[0].MAC != card || told[0].Text != alarm {
		t.Errorf("sightings: %+v", told)
	}
	// The node's own answers, which it hears too, are none.
	if _, err := w.boot(pxeclient.BIOS, "52:54:00:77:00:02"); err != nil {
		t.Logf("a boot beside a rogue: %v", err) // the machine may well have taken the other's word
	}
	if got := s.Alarms(); len(got) != 1 {
		t.Errorf("alarms: %q", got)
	}
}

const rogueEnv = "LPMOS_TEST_ROGUE"

// TestRogueProcess is a DHCP server that somebody plugged in.
func TestRogueProcess(t *testing.T) {
	ready := os.Getenv(rogueEnv)
	if ready == "" {
		t.Skip("started by other tests only")
	}
	c, err := net.ListenPacket("udp4", "0.0.0.0:67")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := exec.Command("ip", "route", "replace", "255.255.255.255/32", "dev", "v1").Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		req, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || req.MessageType() != discover {
			continue
		}
		answer := rogueOffer(req.TransactionID, req.ClientHWAddr, "10.77.0.66", "evil.kpxe")
		if _, err := c.WriteTo(answer, &net.UDPAddr{IP: net.IPv4bcast, Port: 68}); err != nil {
			t.Fatal(err)
		}
	}
}

func rogueOffer(xid [4]byte, hw net.HardwareAddr, server, file string) []byte {
	d := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootReply, HWType: 1, TransactionID: xid, ClientHWAddr: hw,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.ParseIP("10.77.0.222"), ServerIPAddr: net.ParseIP(server), GatewayIPAddr: net.IPv4zero,
		BootFileName: file, Options: dhcpv4.Options{optMessageType: {byte(offer)}, optServerID: ip4(server)}}
	return d.ToBytes()
}

// Whoever knows a machine's MAC may say it. The path of its script is told only where
// the machine is; what to load before that is told to anybody.
func TestS36_OnlyTheMachineIsToldItsPath(t *testing.T) {
	firmware := map[uint8][]byte{60: []byte("PXEClient:Arch:00007:UNDI:003016"), 93: {0, 7}}
	loader := map[uint8][]byte{60: firmware[60], 93: firmware[93], 77: []byte("iPXE")}
	const path = "http://10.77.0.1/boot/PATH/script"
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *setup)
		opts    map[uint8][]byte
		dhcp    string // what an INFORM gets
		proxy   string // and what port 4011 does
	}{
		{"a stranger", nil, loader, "", path},
		{"a known machine at its address", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, pathAt) }, loader, path, path},
		{"somebody else who says to be it", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, pathAt.Next()) }, loader, "", ""},
		{"one with a lease", func(t *testing.T, s *setup) { s.lendTo(t, macA, pathAt) }, loader, path, path},
		{"one whose lease has ended", func(t *testing.T, s *setup) { s.lendTo(t, macA, pathAt); s.pass(2 * time.Hour) }, loader, "", path},
		{"one with a lease of another address", func(t *testing.T, s *setup) { s.lendTo(t, macA, pathAt.Next()) }, loader, "", path},
		{"one that says another's MAC", func(t *testing.T, s *setup) { s.lendTo(t, macB, pathAt) }, loader, "", path},
		{"firmware of anybody", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, pathAt.Next()) }, firmware, LoaderUEFI, LoaderUEFI},
	} {
		s := newSetup(t, ModeDHCP)
		if c.prepare != nil {
			c.prepare(t, s)
		}
		told := func(answer answerFunc, p packet) string {
			req, drop := parseRequest(p.bytes(), netip.AddrPortFrom(pathAt, 68))
			if drop != "" {
				t.Fatal(drop)
			}
			out, ok := answer(t.Context(), req)
			if !ok {
				return ""
			}
			d, err := dhcpv4.FromBytes(out.packet)
			if err != nil {
				t.Fatal(err)
			}
			if at := strings.Split(d.BootFileName, "/"); len(at) == 6 && !s.paths().leads(at[4], macA, pathAt) {
				t.Errorf("%s: its path does not lead to its script", c.name)
			} else if len(at) == 6 && s.paths().leads(at[4], macA, pathAt.Next()) {
				t.Errorf("%s: its path leads there from elsewhere, too", c.name)
			}
			return anyPath.ReplaceAllString(d.BootFileName, "/PATH/script")
		}
		r := s.responder(s.link)
		if got := told(r.answer, packet{kind: inform, ciaddr: pathAt.String(), opts: c.opts}); got != c.dhcp {
			t.Errorf("%s: INFORM is told %q, want %q", c.name, got, c.dhcp)
		}
		for _, ciaddr := range []string{pathAt.String(), ""} {
			if got := told(r.proxyBoot, packet{kind: reqst, ciaddr: ciaddr, opts: c.opts}); got != c.proxy {
				t.Errorf("%s: port 4011 says %q, want %q", c.name, got, c.proxy)
			}
		}
	}
}

// lendTo lends the machine an address.
func (s *setup) lendTo(t *testing.T, mac string, addr netip.Addr) {
	t.Helper()
	if d, _ := s.ask(t, packet{kind: reqst, mac: mac, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: addr.AsSlice()}}); d == nil || d.MessageType() != ack {
		t.Fatalf("%s is not lent %s: %v", mac, addr, d)
	}
}
