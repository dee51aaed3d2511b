package netboot

import (
	"net/netip"
	"testing"
	"time"
)

// newBook is a book without a disk.
func newBook() (*Leases, *fakeClock) {
	clock := &fakeClock{t: time.Unix(1700000000, 0).UTC()}
	l := newLeases(clock.now)
	l.put = func(_ Lease, _ string, done func(error)) { done(nil) }
	return l, clock
}

// A rack that asks at once, and a flood at a full range, do not have the book walk
// through the range for each machine.
func TestSearchesGoOnWhereTheyEnded(t *testing.T) {
	const n = 2000
	l, clock := newBook()
	_, first := nth(0)
	_, last := nth(n - 1)
	looked := 0
	terms := all(l, Range{first, last})
	terms.Usable = func(netip.Addr) bool { looked++; return true }
	for i := range n {
		mac, want := nth(i)
		if got, ok := l.Offer(mac, terms, netip.Addr{}); !ok || got != want {
			t.Fatalf("machine %d is offered %s, want %s", i, got, want)
		}
		if i%2 == 0 { // the others never take it
			if err := l.Commit(mac, want, clock.now().Add(time.Hour+time.Duration(n-i)*time.Second), terms); err != nil {
				t.Fatal(err)
			}
		}
	}
	if looked > 5*n {
		t.Errorf("%d addresses were looked at for %d machines", looked, n)
	}
	looked = 0
	for i := range n {
		mac, _ := nth(n + i)
		if got, ok := l.Offer(mac, terms, netip.Addr{}); ok {
			t.Fatalf("%s is offered of a full range", got)
		}
	}
	if looked > 5*n {
		t.Errorf("%d addresses of a full range were looked at for %d machines", looked, n)
	}
	// What was offered and not taken is free after a minute.
	clock.pass(offerHold)
	mac, _ := nth(3 * n)
	if got, ok := l.Offer(mac, terms, netip.Addr{}); !ok || l.byAddr[got] != "" {
		t.Errorf("a minute later it is offered %s, %v", got, ok)
	}
}

// When every address was somebody's, the one unused for longest goes first.
func TestUnusedForLongestGoesFirst(t *testing.T) {
	l, clock := newBook()
	r := span("10.77.0.100", "10.77.0.102")
	begin := clock.now()
	lent := func(mac, addr string, d time.Duration) {
		if err := l.Commit(mac, netip.MustParseAddr(addr), begin.Add(d), all(l, r)); err != nil {
			t.Fatal(err)
		}
	}
	lent("02:00:00:00:00:01", "10.77.0.100", 3*time.Hour)
	lent("02:00:00:00:00:02", "10.77.0.101", time.Hour)
	lent("02:00:00:00:00:03", "10.77.0.102", 2*time.Hour)
	is := func(mac, want string) {
		t.Helper()
		got, ok := l.Offer(mac, all(l, r), netip.Addr{})
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s is offered %s, want %q", mac, got, want)
		}
	}
	is(macA, "")
	// Who gives it back makes room at once.
	if ok, err := l.Release("02:00:00:00:00:03", netip.MustParseAddr("10.77.0.102")); !ok || err != nil {
		t.Fatal(ok, err)
	}
	is(macA, "10.77.0.102")
	is(macB, "")
	clock.pass(150 * time.Minute)
	unheard := all(l, r)
	unheard.Heard = begin // nobody knows what has become of its holder
	if got, ok := l.Offer(macB, unheard, netip.Addr{}); ok && got.String() != "10.77.0.102" {
		t.Errorf("%s is offered although its lease may have gone on elsewhere", got)
	}
	is(macB, "10.77.0.102")
	is("02:00:00:00:00:09", "10.77.0.101")
	is("02:00:00:00:00:0a", "")
	clock.pass(time.Hour)
	is("02:00:00:00:00:0b", "10.77.0.102") // the offer to B has passed, and no other is older
	is("02:00:00:00:00:0a", "10.77.0.101")
	is("02:00:00:00:00:0c", "10.77.0.100")
	// A rest that a person ends is over at once.
	l.InUse(netip.MustParseAddr("10.77.0.100"), "02:00:00:00:00:ff")
	clock.pass(time.Second)
	is("02:00:00:00:00:0c", "")
	if _, err := l.Free(netip.MustParseAddr("10.77.0.100")); err != nil {
		t.Fatal(err)
	}
	is("02:00:00:00:00:0c", "10.77.0.100")
}
