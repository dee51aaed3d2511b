package netboot

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

type fakeClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *fakeClock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func openBook(t testing.TB, path string) (*Leases, *fakeClock) {
	t.Helper()
	clock := &fakeClock{t: time.Unix(1700000000, 0).UTC()}
	l, err := OpenLeases(path, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, clock
}

// all are the terms of a node that is alone.
func all(l *Leases, r Range) Terms {
	return Terms{From: []Range{r}, Keeps: r.Contains, Usable: func(netip.Addr) bool { return true }, Heard: l.now()}
}

func TestLeasesSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	l, clock := openBook(t, path)
	a := netip.MustParseAddr("10.0.0.5")
	r := Range{a, a}
	if err := l.Commit(macA, a, clock.now().Add(time.Hour), all(l, r)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenLeases(path, clock.now); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("opening it twice: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = openBook(t, path)
	if got, ok := l.Of(macA); !ok || got.Addr != a || !got.Until.Equal(clock.now().Add(time.Hour)) {
		t.Errorf("after the restart: %+v, %v", got, ok)
	}
	if err := l.Commit(macB, a, clock.now().Add(time.Hour), all(l, r)); !errors.Is(err, errAddressHeld) {
		t.Errorf("a second machine got the address: %v", err)
	}
}

func TestThePoolGivesTheLongestUnusedAddressLast(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	r, err := ParseRange("10.0.0.1-10.0.0.3")
	if err != nil {
		t.Fatal(err)
	}
	mac := func(i int) string { return fmt.Sprintf("52:54:00:00:00:%02x", i) }
	for i := range 3 {
		a, ok := l.Offer(mac(i), all(l, r), netip.Addr{})
		if !ok {
			t.Fatalf("machine %d got nothing", i)
		}
		if again, _ := l.Offer(mac(i), all(l, r), netip.Addr{}); again != a {
			t.Errorf("machine %d asked again and got %s instead of %s", i, again, a)
		}
		if err := l.Commit(mac(i), a, clock.now().Add(time.Hour), all(l, r)); err != nil {
			t.Fatal(err)
		}
		clock.pass(time.Minute)
	}
	if a, ok := l.Offer(mac(9), all(l, r), netip.Addr{}); ok {
		t.Errorf("a fourth machine was offered %s of three", a)
	}
	clock.pass(time.Hour)
	if a, _ := l.Offer(mac(1), all(l, r), netip.Addr{}); a.String() != "10.0.0.2" {
		t.Errorf("the second machine was offered %s back", a)
	}
	a, ok := l.Offer(mac(9), all(l, r), netip.Addr{})
	if !ok || a.String() != "10.0.0.1" {
		t.Errorf("a fourth machine was offered %s, want the longest unused", a)
	}
	if err := l.Commit(mac(9), a, clock.now().Add(time.Hour), all(l, r)); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.Of(mac(0)); ok {
		t.Error("the first machine still has a lease on an address that went to another")
	}
}

// No two machines ever hold one address, however their packets interleave.
func TestNoAddressIsLentTwice(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	r, err := ParseRange("10.0.0.1-10.0.0.50")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	owner := make(map[netip.Addr]string)
	for i := range 80 {
		wg.Go(func() {
			mac := fmt.Sprintf("52:54:00:00:00:%02x", i)
			a, ok := l.Offer(mac, all(l, r), netip.MustParseAddr("10.0.0.7"))
			if !ok || l.Commit(mac, a, clock.now().Add(time.Hour), all(l, r)) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if o := owner[a]; o != "" {
				t.Errorf("%s is lent to %s and %s", a, o, mac)
			}
			owner[a] = mac
		})
	}
	wg.Wait()
	if len(owner) != 50 {
		t.Errorf("%d of 50 addresses were lent", len(owner))
	}
}

func TestAMachineMayNotDrainThePoolByDeclining(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	r, err := ParseRange("10.0.0.1-10.0.0.50")
	if err != nil {
		t.Fatal(err)
	}
	rested := 0
	for range 10 {
		a, _ := l.Offer(macA, all(l, r), netip.Addr{})
		if l.Decline(macA, a) {
			rested++
		}
	}
	if rested != declinesPerHr {
		t.Errorf("%d addresses rest, want %d", rested, declinesPerHr)
	}
	clock.pass(time.Hour + time.Second)
	if a, _ := l.Offer(macA, all(l, r), netip.Addr{}); !l.Decline(macA, a) {
		t.Error("an hour later it may not decline")
	}
}

// Sixty-four clients at once: commits share writes, or this would be as slow
// as the disk's flush.
func BenchmarkCommit(b *testing.B) {
	l, clock := openBook(b, filepath.Join(b.TempDir(), "leases.db"))
	until := clock.now().Add(time.Hour)
	r := Range{netip.MustParseAddr("10.1.0.0"), netip.MustParseAddr("10.1.255.255")}
	var next sync.Mutex
	n := 0
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			next.Lock()
			n++
			i := n % 60000
			next.Unlock()
			a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			if err := l.Commit(fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255), a, until, all(l, r)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func TestParseRange(t *testing.T) {
	for in, want := range map[string]string{
		"10.77.0.100-10.77.0.199":   "",
		"10.77.0.100 - 10.77.0.199": "",
		"10.77.0.100":               "want FIRST-LAST",
		"10.77.0.199-10.77.0.100":   "ends before it begins",
		"10.77.0.1-x":               "unable to parse",
		"fe80::1-fe80::2":           "only IPv4",
	} {
		r, err := ParseRange(in)
		if want == "" && (err != nil || r.String() != "10.77.0.100-10.77.0.199") {
			t.Errorf("%q: %s, %v", in, r, err)
		}
		if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

// The search for a free address goes on from where one was found a moment ago: what has
// become free before that is found all the same.
func TestNoFreeAddressIsPassedBy(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	r := span("10.0.0.1", "10.0.0.3")
	offer := func(n int) netip.Addr {
		a, ok := l.Offer(fmt.Sprintf("02:00:00:00:00:%02x", n), all(l, r), netip.Addr{})
		if !ok {
			t.Fatalf("no address for machine %d", n)
		}
		return a
	}
	if err := l.Commit("02:00:00:00:00:00", r.First, clock.now().Add(500*time.Millisecond), all(l, r)); err != nil {
		t.Fatal(err)
	}
	for n, want := range []string{"10.0.0.2", "10.0.0.3"} {
		if got := offer(n + 1); got.String() != want {
			t.Errorf("machine %d is offered %s, want %s", n+1, got, want)
		}
	}
	clock.pass(600 * time.Millisecond)
	if got := offer(3); got != r.First {
		t.Errorf("machine 3 is offered %s, want %s, which is free again", got, r.First)
	}
}

// What a room costs whose machines all ask at once, and nobody has had an address yet.
func BenchmarkAThousandStrangersAreOffered(b *testing.B) {
	in := testInterface(ModeDHCP)
	in.Range = span("10.77.64.0", "10.77.127.255")
	for b.Loop() {
		s := newSetupAt(b, in, "10.77.0.1/16", nil)
		terms := s.responder(s.link).terms()
		for n := range 1000 {
			if _, ok := s.leases.Offer(fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8, n&255), terms, netip.Addr{}); !ok {
				b.Fatal("no address is left")
			}
		}
	}
}
