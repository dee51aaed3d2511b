package netboot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	bolt "go.etcd.io/bbolt"
)

// writes is how many times the book was written to.
func (l *Leases) writes(t *testing.T) (n int) {
	t.Helper()
	if err := l.db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func nth(n int) (mac string, addr netip.Addr) {
	return fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255), netip.AddrFrom4([4]byte{10, 77, 16 + byte(n>>8), byte(n)})
}

// What comes together shares a write, and is on the disk when it is said to be, all of
// it and in its order.
func TestLeasesThatComeTogetherShareAWrite(t *testing.T) {
	const n = 500
	path := filepath.Join(t.TempDir(), "leases.db")
	l, clock := openBook(t, path)
	before := l.writes(t)
	var wg sync.WaitGroup
	for i := range n {
		mac, addr := nth(i)
		for _, until := range []time.Time{clock.now().Add(time.Minute), clock.now().Add(time.Hour)} {
			wg.Add(1)
			l.put(Lease{MAC: mac, Addr: addr, Until: until}, "", func(err error) {
				if err != nil {
					t.Error(err)
				}
				wg.Done()
			})
		}
	}
	wg.Wait()
	if wrote := l.writes(t) - before; wrote < 1 || wrote > n/10 {
		t.Errorf("%d leases took %d writes", 2*n, wrote)
	}
	last, addr := nth(n)
	said := false
	l.put(Lease{MAC: last, Addr: addr, Until: clock.now()}, "", func(err error) { said = err == nil })
	if err := l.Close(); err != nil || !said {
		t.Errorf("a lease that came before the end is not written: %v", err)
	}
	if err := l.Commit(last, addr, clock.now(), Terms{From: []Range{{addr, addr}}, Usable: span("10.77.0.0", "10.77.255.255").Contains}); !errors.Is(err, errLeasesClosed) {
		t.Errorf("a lease that came after the end: %v", err)
	}
	l, clock = openBook(t, path)
	if len(l.byMAC) != n+1 {
		t.Errorf("%d leases are in the book, want %d", len(l.byMAC), n+1)
	}
	for i := range n {
		if mac, addr := nth(i); l.byMAC[mac].Addr != addr || !l.byMAC[mac].Until.Equal(clock.now().Add(time.Hour)) {
			t.Fatalf("the book has %v for %s", l.byMAC[mac], mac)
		}
	}
}

// A machine that takes two addresses at once, as one with two cards of one MAC does, has
// after a restart the one that it had before.
func TestTheDiskHasWhatMemoryDidLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	all := span("10.77.16.0", "10.77.23.255")
	terms := Terms{From: []Range{all}, Keeps: all.Contains, Usable: all.Contains}
	for range 20 {
		l, clock := openBook(t, path)
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				mac, _ := nth(i % 20)
				_, addr := nth(i)
				if err := l.Commit(mac, addr, clock.now().Add(time.Hour), terms); err != nil {
					t.Error(err)
				}
				if i%7 == 0 {
					if _, err := l.Release(mac, addr); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		before := l.byMAC
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		again, _ := openBook(t, path)
		for mac, lease := range before {
			if now := again.byMAC[mac]; now.Addr != lease.Addr || !now.Until.Equal(lease.Until) {
				t.Errorf("%s has %s until %s, and had %s until %s", mac, now.Addr, now.Until, lease.Addr, lease.Until)
			}
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// A write that fails leaves nothing on the disk that a later one cannot put right: whatever
// follows, no address is two machines' after a restart, and who was told that it has an
// address has it.
func TestAFailedWriteIsPutRight(t *testing.T) {
	old, other, third := "02:00:00:00:00:01", "02:00:00:00:00:00", "02:00:00:00:00:02"
	a, b := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("10.0.0.6")
	type step struct {
		mac   string
		addr  netip.Addr
		after time.Duration
		lasts time.Duration
		fails bool
	}
	for name, c := range map[string]struct {
		steps []step
		want  map[string]netip.Addr
	}{
		"the address of one that lost it": {
			[]step{{old, a, 0, time.Hour, false}, {other, a, 2 * time.Hour, time.Hour, true}, {other, a, time.Second, time.Hour, false}},
			map[string]netip.Addr{other: a},
		},
		"the address of one that went to another": {
			[]step{{old, a, 0, 2 * time.Hour, false}, {old, b, time.Second, time.Hour, true}, {other, a, time.Second, time.Hour, false}},
			map[string]netip.Addr{other: a},
		},
		"one that is to go on": {
			[]step{{old, a, 0, time.Hour, false}, {old, a, time.Second, time.Hour, true}, {other, b, time.Second, time.Hour, false}},
			map[string]netip.Addr{old: a, other: b},
		},
		"one that came back": {
			[]step{{old, a, 0, time.Hour, false}, {old, b, time.Second, time.Hour, true}, {old, a, time.Second, time.Hour, false}, {third, b, time.Second, time.Hour, false}},
			map[string]netip.Addr{old: a, third: b},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "leases.db")
			l, clock := openBook(t, path)
			r := Range{a, b}
			update := l.writer.update
			for _, s := range c.steps {
				clock.pass(s.after)
				full := errors.New("no space left")
				l.writer.update = update
				if s.fails {
					l.writer.update = func(func(*bolt.Tx) error) error { return full }
				}
				if err := l.Commit(s.mac, s.addr, clock.now().Add(s.lasts), all(l, r)); errors.Is(err, full) != s.fails || !s.fails && err != nil {
					t.Fatalf("%s takes %s: %v", s.mac, s.addr, err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			again, _ := openBook(t, path)
			got := map[string]netip.Addr{}
			for _, lease := range again.All() {
				got[lease.MAC] = lease.Addr
				if again.byAddr[lease.Addr] != lease.MAC {
					t.Errorf("%s is also %s's", lease.Addr, again.byAddr[lease.Addr])
				}
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("after a restart: %v, want %v", got, c.want)
			}
		})
	}
}

// A book that an older version left with two leases of one address has the one that
// runs longer.
func TestTwoLeasesOfOneAddress(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.5")
	clock := &fakeClock{t: time.Unix(1700000000, 0).UTC()}
	runs, over := Lease{macA, a, clock.now().Add(time.Hour)}, Lease{macB, a, clock.now().Add(-time.Hour)}
	for _, order := range [][]Lease{{runs, over}, {over, runs}} {
		l := newLeases(clock.now)
		for _, lease := range order {
			l.enter(lease)
		}
		if _, ok := l.Of(macB); ok || l.byAddr[a] != macA {
			t.Errorf("read as %v: %v", order, l.byMAC)
		}
	}
}

// Who gives back again and again what is over changes nothing.
func TestReleasedOnceIsReleased(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	a := netip.MustParseAddr("10.0.0.5")
	r := Range{a, a}
	if err := l.Commit(macA, a, clock.now().Add(time.Hour), all(l, r)); err != nil {
		t.Fatal(err)
	}
	if ok, err := l.Release(macA, a); !ok || err != nil {
		t.Fatalf("released: %v, %v", ok, err)
	}
	if got, ok := l.Offer(macB, all(l, r), netip.Addr{}); !ok || got != a {
		t.Fatalf("offered %v, %v", got, ok)
	}
	before := l.writes(t)
	for range 100 {
		if ok, err := l.Release(macA, a); ok || err != nil {
			t.Fatalf("released again: %v, %v", ok, err)
		}
	}
	if n := l.writes(t) - before; n != 0 || len(l.spares[r].of) != 0 {
		t.Errorf("%d writes, %d spares", n, len(l.spares[r].of))
	}
}

// No ACK leaves before its lease is on the disk, and none at all if that fails.
func TestNoACKBeforeTheDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		acks uint64
	}{{"it is written", nil, 1}, {"the disk is full", errors.New("no space left"), 0}} {
		t.Run(c.name, func(t *testing.T) {
			s := newSetup(t, ModeDHCP)
			var written func(error)
			s.leases.put = func(_ Lease, _ string, done func(error)) { written = done }
			p := takes(macA, "10.77.0.100")
			req, drop := parseRequest(p.bytes(), netip.MustParseAddrPort("0.0.0.0:68"))
			if drop != "" {
				t.Fatal(drop)
			}
			out, ok := s.responder(s.link).decide(context.Background(), req)
			if !ok || out.later == nil || out.packet != nil {
				t.Fatalf("answered at once: %+v", out)
			}
			var made finish
			out.later(func(f finish) { made = f })
			if made != nil || s.Stats()["dhcp.ack"] != 0 || len(s.Sightings().Of(macA)) != 0 {
				t.Fatalf("acknowledged before it is written: %v", s.Stats())
			}
			written(c.err)
			out, ok = made()
			if ok != (c.acks == 1) || s.Stats()["dhcp.ack"] != c.acks || s.Stats()["dhcp.drop.lease not stored"] != 1-c.acks {
				t.Errorf("answered %v: %v", ok, s.Stats())
			}
			if d, err := dhcpv4.FromBytes(out.packet); ok && (err != nil || d.MessageType() != dhcpv4.MessageTypeAck) {
				t.Errorf("the answer is %v, %v", d, err)
			}
		})
	}
}

// Machines that take what they were offered are none that somebody makes up: as many as
// like get their leases in one go.
func TestWhoTakesItsAddressIsNoFlood(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Range = span("10.77.16.0", "10.77.63.255")
	s := newSetupAt(t, in, "10.77.0.1/16", nil)
	s.leases.put = func(_ Lease, _ string, done func(error)) { done(nil) }
	for n := range 2 * strangersAtOnce {
		mac, _ := nth(n)
		offer, _ := s.ask(t, packet{kind: discover, mac: mac})
		if offer == nil {
			t.Fatalf("machine %d is not answered: %v", n, s.Stats())
		}
		ack, _ := s.ask(t, takes(mac, offer.YourIPAddr.String()))
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("machine %d is not lent %s: %v", n, offer.YourIPAddr, ack)
		}
	}
	// What was never offered gives nothing back.
	for n := 2 * strangersAtOnce; ; n++ {
		mac, addr := nth(n)
		if ack, _ := s.ask(t, takes(mac, addr.String())); ack == nil {
			t.Fatal("no answer to a REQUEST")
		}
		mac = "06" + mac[2:]
		if offer, _ := s.ask(t, packet{kind: discover, mac: mac}); offer == nil {
			break
		}
		if n > 4*strangersAtOnce {
			t.Fatal("strangers that take nothing are answered without end")
		}
	}
}

// takes is the REQUEST of a machine for what it was offered.
func takes(mac, addr string) packet {
	return packet{kind: reqst, mac: mac, opts: map[uint8][]byte{optServerID: ip4("10.77.0.1"), optRequestedIP: ip4(addr)}}
}

// A machine that has its address, and takes it again and again, makes no room for
// made-up ones.
func TestWhoHasItsAddressGivesNothingBack(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Range = span("10.77.16.0", "10.77.63.255")
	s := newSetupAt(t, in, "10.77.0.1/16", nil)
	s.leases.put = func(_ Lease, _ string, done func(error)) { done(nil) }
	holder, addr := nth(0)
	s.lendTo(t, holder, addr)
	answered := 0
	for n := 1; n <= strangersAtOnce+100; n++ {
		s.ask(t, packet{kind: discover, mac: holder})
		s.lendTo(t, holder, addr)
		mac, _ := nth(n)
		if offer, _ := s.ask(t, packet{kind: discover, mac: mac}); offer != nil {
			answered++
		}
	}
	if answered != strangersAtOnce {
		t.Errorf("%d strangers are answered at once, want %d", answered, strangersAtOnce)
	}
}
