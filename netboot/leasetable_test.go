package netboot

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func card(n int) string { return fmt.Sprintf("52:54:00:00:0e:%02x", n) }

func TestTheTableOfLeases(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases.db")
	l, clock := openBook(t, path)
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }
	terms := all(l, Range{at(1), at(9)})
	for n, mac := range map[byte]string{1: macFor("a", 1), 2: macFor("a", 2), 3: macFor("a", 3)} {
		if err := l.Commit(mac, at(n), clock.now().Add(time.Duration(n)*10*time.Minute), terms); err != nil {
			t.Fatal(err)
		}
	}
	clock.pass(15 * time.Minute) // the first has ended
	if !l.Decline(macFor("a", 2), at(2)) {
		t.Fatal("a decline of the holder does not count")
	}
	says := func(want string) {
		t.Helper()
		var got []string
		for _, h := range l.Table() {
			got = append(got, h.Addr.String()+" "+h.State)
		}
		if strings.Join(got, ", ") != want {
			t.Errorf("the table is %q, want %q", got, want)
		}
	}
	says("10.0.0.1 ended, 10.0.0.2 resting, 10.0.0.3 lent")

	if _, err := l.Free(at(1)); !errors.Is(err, ErrNoLease) {
		t.Errorf("an ended lease was freed: %v", err)
	}
	if was, err := l.Free(at(2)); err != nil || was.State != LeaseResting {
		t.Errorf("%+v, %v", was, err)
	}
	if was, err := l.Free(at(3)); err != nil || was.State != LeaseLent || was.MAC != macFor("a", 3) {
		t.Errorf("%+v, %v", was, err)
	}
	says("10.0.0.1 ended, 10.0.0.2 lent, 10.0.0.3 ended")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenLeases(path, clock.now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	l = again
	says("10.0.0.1 ended, 10.0.0.2 lent, 10.0.0.3 ended")
}

// Declined addresses do not pile up in memory.
func TestRestsEnd(t *testing.T) {
	l, clock := openBook(t, filepath.Join(t.TempDir(), "leases.db"))
	for n := range 200 {
		l.mu.Lock()
		l.letRest(netip.AddrFrom4([4]byte{10, 0, byte(n), 1}), clock.now(), macA, "")
		l.mu.Unlock()
		clock.pass(time.Minute)
	}
	if n := len(l.resting); n > 11 {
		t.Errorf("%d rests are remembered", n)
	}
}

// An exhausted range is told with who holds it, until it is not exhausted any more.
func TestAnExhaustedRangeIsNamed(t *testing.T) {
	in := testInterface(ModeDHCP)
	in.Range = Range{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.103")}
	s := newSetupAt(t, in, "10.77.0.1/24", nil)
	s.fleet.keeps("52:54:00:00:0d:01", netip.MustParseAddr("10.77.0.100"))
	us := ip4("10.77.0.1")
	lend := func(n int, addr string) {
		t.Helper()
		if d, _ := s.ask(t, packet{kind: reqst, mac: card(n), opts: map[uint8][]byte{54: us, 50: ip4(addr)}}); d == nil || d.MessageType() != ack {
			t.Fatalf("%s was not lent: %v", addr, d)
		}
	}
	lend(1, "10.77.0.101")
	lend(2, "10.77.0.102")
	lend(3, "10.77.0.103")
	s.ask(t, packet{kind: decline, mac: card(3), opts: map[uint8][]byte{54: us, 50: ip4("10.77.0.103")}})
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("nobody went without yet: %q", got)
	}
	for range 3 {
		if d, _ := s.ask(t, packet{kind: discover, mac: card(9)}); d != nil {
			t.Fatalf("an address is left: %v", d)
		}
	}
	got := s.Alarms()
	want := "no address is left for new machines on br0 in 10.77.0.100-10.77.0.103: 2 lent, 1 kept for known machines, 0 offered, 1 resting because somebody else uses them; " +
		"the next to end is 10.77.0.101, which " + card(1) + " has until 23:13 UTC; give it a larger range"
	if len(got) != 1 || !strings.HasPrefix(got[0], want) {
		t.Errorf("the alarm is %q, want %q", got, want)
	}
	if _, err := s.FreeLease(netip.MustParseAddr("10.77.0.102")); err != nil {
		t.Fatal(err)
	}
	if d, _ := s.ask(t, packet{kind: discover, mac: card(9)}); d == nil || d.YourIPAddr.String() != "10.77.0.102" {
		t.Errorf("what was freed is not offered: %v", d)
	}
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("an address was found since: %q", got)
	}
	s.pass(2 * time.Minute) // nobody took the offer: the alarm of the next ends by itself
	lend(9, "10.77.0.102")
	s.ask(t, packet{kind: discover, mac: card(8)})
	s.pass(alarmLasts)
	if got := s.Alarms(); len(got) != 0 {
		t.Errorf("nobody has asked for long: %q", got)
	}
}
