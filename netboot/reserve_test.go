package netboot

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestReservations(t *testing.T) {
	uuid := append([]byte{0}, testUUID[:]...)
	at := netip.MustParseAddr
	all := []Reservation{
		{"52:54:00:00:00:0A", at("10.77.0.50")}, // macA, as people write it
		{"12345678-ABCD-cdef-0102-030405060708", at("10.77.0.51")},
		{"SN-7", at("10.77.0.52")},
		{"52:54:00:00:0e:09", at("10.77.0.120")}, // out of the range
	}
	sn7 := map[string][]Owner{"sn-7": {{"web1", card(7)}}}
	if macA != "52:54:00:00:00:0a" {
		t.Fatalf("macA is %s", macA)
	}
	uuids := func(extra map[uint8][]byte) map[uint8][]byte {
		m := map[uint8][]byte{97: uuid}
		for k, v := range extra {
			m[k] = v
		}
		return m
	}
	for _, c := range []struct {
		name    string
		prepare func(*testing.T, *setup)
		p       packet
		want    string
		known   map[string][]Owner
	}{
		{"by its MAC", nil, packet{kind: discover}, "10.77.0.50", nil},
		{"by its UUID, in the other byte order", nil, packet{kind: discover, mac: macB, opts: uuids(nil)}, "10.77.0.51", nil},
		{"its second card at the same time", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)}) },
			packet{kind: discover, mac: card(3), opts: uuids(nil)}, "10.77.0.100", nil},
		{"its second card when the first has been silent for long", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)})
			s.pass(reservedTo)
		}, packet{kind: discover, mac: card(3), opts: uuids(nil)}, "10.77.0.51", nil},
		{"the same card without its UUID, as systems ask", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)}) },
			packet{kind: discover, mac: macB}, "10.77.0.51", nil},
		{"by the serial number it is known by", nil, packet{kind: discover, mac: card(7)}, "10.77.0.52", sn7},
		{"its second card", nil, packet{kind: discover, mac: card(8)}, "10.77.0.100", sn7},
		{"another machine that is known by the same", nil, packet{kind: discover, mac: card(8)}, "10.77.0.100",
			map[string][]Owner{"sn-7": {{"web1", card(7)}, {"web2", card(8)}}}},
		{"a known machine's card that boots, whichever asked first", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: card(3), opts: uuids(nil)}) },
			packet{kind: discover, mac: macB, opts: uuids(nil)}, "10.77.0.51", map[string][]Owner{"12345678-abcd-cdef-0102-030405060708": {{"web1", macB}}}},
		{"and its other card, although it asked first", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: card(3), opts: uuids(nil)}) },
			packet{kind: discover, mac: card(3), opts: uuids(nil)}, "10.77.0.100", map[string][]Owner{"12345678-abcd-cdef-0102-030405060708": {{"web1", macB}}}},
		{"a stranger", nil, packet{kind: discover, mac: card(1)}, "10.77.0.100", nil},
		{"a stranger that asks for a reserved address", nil, packet{kind: discover, mac: card(1), opts: map[uint8][]byte{50: ip4("10.77.0.120")}}, "10.77.0.100", nil},
		{"a known machine that keeps another", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, at("10.77.0.44")) }, packet{kind: discover}, "10.77.0.50", nil},
		{"one whose address another machine keeps", func(_ *testing.T, s *setup) { s.fleet.keeps(macB, at("10.77.0.50")) }, packet{kind: discover}, "10.77.0.100", nil},
		{"one whose address was lent before it was reserved", func(t *testing.T, s *setup) {
			if err := s.leases.Commit(macB, at("10.77.0.120"), s.clock().Add(time.Hour), all2(s)); err != nil {
				t.Fatal(err)
			}
		}, packet{kind: discover, mac: card(9)}, "10.77.0.100", nil},
		{"and when that lease has ended", func(t *testing.T, s *setup) {
			if err := s.leases.Commit(macB, at("10.77.0.120"), s.clock().Add(time.Hour), all2(s)); err != nil {
				t.Fatal(err)
			}
			s.pass(time.Hour)
		}, packet{kind: discover, mac: card(9)}, "10.77.0.120", nil},
	} {
		s := newSetup(t, ModeDHCP)
		r, err := reserve(s.fleet, all, func(ids []string) map[string][]Owner {
			if !slices.Equal(ids, []string{"12345678-abcd-cdef-0102-030405060708", "sn-7"}) {
				t.Errorf("asked for %q", ids)
			}
			return c.known
		}, s.leases, s.clock)
		if err != nil {
			t.Fatal(err)
		}
		s.cfg.Fleet, s.reserved = r, r
		if c.prepare != nil {
			c.prepare(t, s)
		}
		d, _ := s.ask(t, c.p)
		if d == nil || d.YourIPAddr.String() != c.want {
			t.Errorf("%s: offered %v, want %s", c.name, d, c.want)
		}
	}
	if _, err := reserve(nil, []Reservation{{"a", at("10.0.0.1")}, {"b", at("10.0.0.1")}}, nil, nil, nil); err == nil {
		t.Error("one address for two machines is taken")
	}
}

func all2(s *setup) Terms { return all(s.leases, s.link.Range) }

// Two machines that a serial number fits are told to people, and the first has the address.
func TestAReservationThatTwoClaimIsAnAlarm(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	known := map[string][]Owner{"sn-7": {{"web1", card(7)}}}
	asked := 0
	var err error
	s.reserved, err = reserve(s.fleet, []Reservation{{"SN-7", netip.MustParseAddr("10.77.0.52")}}, func([]string) map[string][]Owner {
		asked++
		return known
	}, s.leases, s.clock)
	if err != nil {
		t.Fatal(err)
	}
	if a := s.Alarms(); len(a) != 0 {
		t.Errorf("alarms %q", a)
	}
	known = map[string][]Owner{"sn-7": {{"web1", card(7)}, {"web2", card(8)}}}
	if s.Alarms(); asked != 1 {
		t.Errorf("asked %d times in a second", asked)
	}
	s.pass(ownersFor)
	a := s.Alarms()
	if len(a) != 1 || !strings.HasPrefix(a[0], "2 machines claim the address 10.77.0.52, which is reserved for SN-7: web1, web2; web1, which was seen first, has it.") {
		t.Errorf("alarms %q", a)
	}
	if table := s.LeaseTable(); len(table) != 1 || table[0].MAC != card(7) {
		t.Errorf("the table is %+v", table)
	}
}
