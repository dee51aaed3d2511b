package netboot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// host makes a namespace on the bridge with a card and an address, and returns its
// process: another computer of the network.
func (w *wire) host(name, address string) (pid string) {
	w.t.Helper()
	sleep := exec.Command("sleep", "infinity")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		w.t.Fatal(err)
	}
	pid = strconv.Itoa(sleep.Process.Pid)
	w.run("ip", "link", "add", name+"p", "type", "veth", "peer", "name", name)
	w.t.Cleanup(func() {
		w.run("ip", "link", "del", name+"p")
		sleep.Process.Kill()
		sleep.Wait()
	})
	w.run("ip", "link", "set", name+"p", "master", "br0", "up")
	w.run("ip", "link", "set", name, "netns", pid)
	w.run("nsenter", "-t", pid, "-n", "ip", "address", "add", address, "dev", name)
	w.run("nsenter", "-t", pid, "-n", "ip", "link", "set", name, "up")
	return pid
}

// Somebody has the first address of the range without having been lent it: real
// clients get the next, and the one in the way is named.
func TestNobodyIsOfferedWhatSomebodyUses(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	var told heardOf
	s.sightings.notify = told.add
	w.host("q0", "10.77.0.100/24")
	w.start(s)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\na=$new_ip_address$ip; [ -z \"$a\" ] || echo \"got $a\" >> "+script+".out\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, client := range [][]string{
		{"udhcpc", "-i", "v1", "-n", "-q", "-f", "-t", "5", "-T", "2", "-s", script},
		{"dhclient", "-4", "-1", "-v", "-sf", script, "-lf", script + ".lease", "-pf", script + ".pid", "v1"},
	} {
		if _, err := exec.LookPath(client[0]); err != nil {
			t.Logf("%s is not installed", client[0])
			continue
		}
		w.inside(client...)
		got, err := os.ReadFile(script + ".out")
		if err != nil {
			t.Fatal(err)
		}
		if n++; strings.Count(string(got), "got 10.77.0.101\n") != n {
			t.Errorf("%s: clients got\n%s", client[0], got)
		}
		if client[0] == "dhclient" {
			w.inside("dhclient", "-4", "-x", "-sf", "/bin/true", "-lf", script+".lease", "-pf", script+".pid", "v1")
		}
	}
	st := s.Stats()
	if st["arp.in use"] != 1 || st["arp.asked"] != 2 {
		t.Errorf("asked for %d addresses, of which %d were in use; want 2 and 1: %v", st["arp.asked"], st["arp.in use"], st)
	}
	if said := told.of(KindDHCP); n > 0 && !strings.Contains(said[0].Text, "is not offered 10.77.0.100: the card ") {
		t.Errorf("told %+v", said)
	}
	table := s.LeaseTable()
	if len(table) != 2 || table[0].State != LeaseResting || table[0].Addr.String() != "10.77.0.100" || !strings.HasPrefix(table[0].Why, "in use by card ") {
		t.Errorf("the table is %+v", table)
	}
}

// askable is a prober without a wire; who answers says which card uses an address.
func askable(answers func(netip.Addr) string) (*prober, *atomic.Int64) {
	var sent atomic.Int64
	var p *prober
	clock := &fakeClock{t: time.Unix(1700000000, 0)}
	p = newARPProber(link{Interface: testInterface(ModeDHCP), mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}, func(b []byte, _ net.HardwareAddr) error {
		sent.Add(1)
		addr := netip.AddrFrom4([4]byte(b[24:28]))
		if card := answers(addr); card != "" {
			hw, _ := net.ParseMAC(card)
			reply := arpProbe(hw, netip.IPv4Unspecified())
			reply[7] = arpReply
			copy(reply[14:18], addr.AsSlice())
			go p.hear(reply)
		}
		return nil
	}, &counters{}, slog.New(slog.DiscardHandler), clock.now)
	p.wait, p.again = 20*time.Millisecond, 5*time.Millisecond
	return p, &sent
}

func TestAnAddressIsAskedForOnce(t *testing.T) {
	p, sent := askable(func(netip.Addr) string { return "" })
	addr := netip.MustParseAddr("10.77.0.100")
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if card := p.ask(t.Context(), addr); card != "" {
				t.Errorf("%s has it", card)
			}
		})
	}
	wg.Wait()
	if card := p.ask(t.Context(), addr); card != "" || sent.Load() != 2 {
		t.Errorf("%d packets for one address, want 2", sent.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.ask(ctx, addr.Next()) // must return
}

// A flood of strangers is no flood of ARP: so many at once, so many a second. The
// clock stands still.
func TestAFloodIsNoneOfARP(t *testing.T) {
	p, _ := askable(func(netip.Addr) string { return "" })
	p.wait = time.Second // so that none ends before all have begun
	var begun, wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 2000 {
		begun.Add(1)
		wg.Go(func() {
			defer func() { begun.Done() }()
			short, stop := context.WithTimeout(ctx, 10*time.Millisecond)
			defer stop()
			p.ask(short, netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}))
		})
	}
	begun.Wait()
	cancel()
	wg.Wait()
	if n := p.stats.snapshot()["arp.asked"]; n > arpAtOnce {
		t.Errorf("%d addresses asked for at once, want at most %d", n, arpAtOnce)
	}

	p, sent := askable(func(netip.Addr) string { return "" })
	p.wait, p.again = time.Millisecond, time.Microsecond
	for i := range 1000 {
		p.ask(t.Context(), netip.AddrFrom4([4]byte{10, 79, byte(i >> 8), byte(i)}))
	}
	if st := p.stats.snapshot(); st["arp.asked"] != arpASecond || st["arp.not asked"] != 1000-arpASecond || sent.Load() > 2*arpASecond {
		t.Errorf("within a second: %v, %d packets; want %d", st, sent.Load(), arpASecond)
	}
}

// Who is asked for: strangers' new addresses, and those alone.
func TestKnownMachinesDoNotWait(t *testing.T) {
	us := ip4("10.77.0.1")
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *setup)
		p       packet
		asked   int
		offered string
	}{
		{"a stranger", nil, packet{kind: discover}, 1, "10.77.0.100"},
		{"a known machine", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, netip.MustParseAddr("10.77.0.44")) }, packet{kind: discover}, 0, "10.77.0.44"},
		{"one that has its address", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}})
		}, packet{kind: discover}, 0, "10.77.0.120"},
		{"one that had it", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: reqst, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.120")}})
			s.pass(48 * time.Hour)
		}, packet{kind: discover}, 0, "10.77.0.120"},
		{"one that gets what another had", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: reqst, mac: macB, opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.100")}})
			s.pass(48 * time.Hour)
		}, packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.100")}}, 1, "10.77.0.100"},
		{"one behind a relay", nil, packet{kind: discover, giaddr: "10.79.0.1"}, 1000, "10.79.0.100"},
		{"one that has an address behind a relay", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: reqst, giaddr: "10.79.0.1", opts: map[uint8][]byte{54: us, 50: ip4("10.79.0.120")}})
		}, packet{kind: discover, giaddr: "10.79.0.1"}, 0, "10.79.0.120"},
		{"one behind a relay that asks for what answers to ping", nil, packet{kind: discover, giaddr: "10.79.0.1", opts: map[uint8][]byte{50: ip4("10.79.0.150")}}, 2000, "10.79.0.100"},
		{"one of this wire that says to be behind a relay", nil, packet{kind: discover, giaddr: "10.77.0.3"}, 1, "10.77.0.100"},
		{"one that uses the address itself", nil, packet{kind: discover, opts: map[uint8][]byte{50: ip4("10.77.0.150")}}, 1, "10.77.0.150"},
	} {
		s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
		if c.prepare != nil {
			c.prepare(t, s)
		}
		asked := 0
		s.probing = func(_ context.Context, addr netip.Addr) string {
			asked++
			if addr == netip.MustParseAddr("10.77.0.150") {
				return macA
			}
			return ""
		}
		s.echoing = func(_ context.Context, addr netip.Addr) string {
			asked += 1000
			if addr == netip.MustParseAddr("10.79.0.150") {
				return echoed
			}
			return ""
		}
		d, _ := s.ask(t, c.p)
		if d == nil || d.YourIPAddr.String() != c.offered || asked != c.asked {
			t.Errorf("%s: asked %d times, want %d; offered %v, want %s", c.name, asked, c.asked, d, c.offered)
		}
	}
}

// Made-up machines hold no more than a few places while the wire is asked, and one
// machine holds one, also when it has a lease that it declined.
func TestDISCOVERsThatWaitForARPAreFew(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	in := packet{kind: discover, mac: macB}
	s.lendTo(t, macB, pathAt)
	s.ask(t, packet{kind: decline, mac: macB, opts: map[uint8][]byte{54: ip4("10.77.0.1"), 50: pathAt.AsSlice()}})
	r := s.responder(s.link)
	asked, heard := make(chan struct{}, 2*arpWaiters), make(chan struct{})
	r.probe = func(ctx context.Context, _ netip.Addr) string {
		asked <- struct{}{}
		select {
		case <-heard:
		case <-ctx.Done(): // it should not have been asked for
		}
		return ""
	}
	answer := func(p packet) bool {
		req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
		if drop != "" {
			t.Error(drop)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, ok := r.answer(ctx, req)
		return ok
	}
	var wg sync.WaitGroup
	wait := func(p packet) {
		wg.Go(func() {
			if !answer(p) {
				t.Errorf("%s is not answered in the end", p.mac)
			}
		})
		<-asked
	}
	wait(in)
	for n := 2; n <= strangersAtOnce; n++ { // the clock stands still
		if answer(in) {
			t.Fatal("a machine that waits is answered twice")
		}
	}
	if st := s.Stats(); st["dhcp.drop.asks again while it waits"] != strangersAtOnce-1 || st["dhcp.drop.too many strangers"] != 0 {
		t.Errorf("one machine asks %d times: %v", strangersAtOnce, st)
	}
	if answer(in); s.Stats()["dhcp.drop.too many strangers"] != 1 {
		t.Errorf("one that declined its lease asks without end: %v", s.Stats())
	}
	s.pass(time.Minute)
	in.mac = "02:00:00:00:01:00"
	s.lendTo(t, macA, pathAt.Next())
	if !answer(packet{kind: discover, mac: macA}) {
		t.Error("a machine that has its lease waits for others")
	}
	r.link.Range = span("10.77.0.100", "10.77.0.254")
	for n := range arpWaiters - 1 {
		wait(packet{kind: discover, mac: net.HardwareAddr{2, 0, 0, 0, 2, byte(n)}.String()})
	}
	if !answer(in) || s.Stats()["arp.not asked"] != 1 {
		t.Errorf("one more is not offered what nobody asked for: %v", s.Stats())
	}
	close(heard)
	wg.Wait()
	if r.waiting.n != 0 || len(r.waiting.by) != 0 {
		t.Errorf("%d still wait", len(r.waiting.by))
	}
}

// A router that answers for every address keeps none from being lent but a few.
func TestAProxyOfARPStopsNothing(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	s.probing = func(context.Context, netip.Addr) string { return "52:54:00:66:66:66" }
	if d, _ := s.ask(t, packet{kind: discover}); d != nil {
		t.Errorf("offered %v after %d addresses were found in use", d, arpTries)
	}
	s.ask(t, packet{kind: discover})
	if d, _ := s.ask(t, packet{kind: discover}); d == nil || d.YourIPAddr.String() != "10.77.0.116" {
		t.Errorf("offered %v", d)
	}
	if n := len(s.LeaseTable()); n != arpClaimMost {
		t.Errorf("%d addresses rest", n)
	}
}

func TestARPIsRead(t *testing.T) {
	hw, _ := net.ParseMAC(macA)
	good := arpProbe(hw, netip.MustParseAddr("10.77.0.5"))
	if _, _, ok := parseARP(good); ok {
		t.Error("a probe claims nothing")
	}
	copy(good[14:], ip4("10.77.0.9"))
	if card, addr, ok := parseARP(append(good, make([]byte, 18)...)); !ok || card != macA || addr.String() != "10.77.0.9" {
		t.Errorf("%s %s %t", card, addr, ok)
	}
	for n := range good {
		if _, _, ok := parseARP(good[:n]); ok {
			t.Errorf("%d bytes were taken", n)
		}
	}
}

// FuzzARP: what is taken names a card and an address.
func FuzzARP(f *testing.F) {
	hw, err := net.ParseMAC(macA)
	if err != nil {
		f.Fatal(err)
	}
	good := arpProbe(hw, netip.MustParseAddr("10.77.0.5"))
	f.Add(good)
	copy(good[14:], ip4("10.77.0.9"))
	f.Add(good)
	f.Add([]byte(strings.Repeat("\x00\x01", 14)))
	f.Fuzz(func(t *testing.T, b []byte) {
		card, addr, ok := parseARP(b)
		if _, isCard := ParseMAC(card); ok && (!isCard || !addr.Is4() || addr.IsUnspecified()) {
			t.Fatal(errors.New("taken"), b)
		}
	})
}
