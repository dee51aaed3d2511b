package netboot

import (
	"net/netip"
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
	}{
		{"by its MAC", nil, packet{kind: discover}, "10.77.0.50"},
		{"by its UUID, in the other byte order", nil, packet{kind: discover, mac: macB, opts: uuids(nil)}, "10.77.0.51"},
		{"its second card at the same time", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)}) },
			packet{kind: discover, mac: card(3), opts: uuids(nil)}, "10.77.0.100"},
		{"its second card when the first has been silent for long", func(t *testing.T, s *setup) {
			s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)})
			s.pass(reservedTo)
		}, packet{kind: discover, mac: card(3), opts: uuids(nil)}, "10.77.0.51"},
		{"the same card without its UUID, as systems ask", func(t *testing.T, s *setup) { s.ask(t, packet{kind: discover, mac: macB, opts: uuids(nil)}) },
			packet{kind: discover, mac: macB}, "10.77.0.51"},
		{"by the serial number it is known by", nil, packet{kind: discover, mac: card(7)}, "10.77.0.52"},
		{"a stranger", nil, packet{kind: discover, mac: card(1)}, "10.77.0.100"},
		{"a stranger that asks for a reserved address", nil, packet{kind: discover, mac: card(1), opts: map[uint8][]byte{50: ip4("10.77.0.120")}}, "10.77.0.100"},
		{"a known machine that keeps another", func(_ *testing.T, s *setup) { s.fleet.keeps(macA, at("10.77.0.44")) }, packet{kind: discover}, "10.77.0.50"},
		{"one whose address another machine keeps", func(_ *testing.T, s *setup) { s.fleet.keeps(macB, at("10.77.0.50")) }, packet{kind: discover}, "10.77.0.100"},
		{"one whose address was lent before it was reserved", func(t *testing.T, s *setup) {
			if err := s.leases.Commit(macB, at("10.77.0.120"), s.clock().Add(time.Hour), all2(s)); err != nil {
				t.Fatal(err)
			}
		}, packet{kind: discover, mac: card(9)}, "10.77.0.100"},
		{"and when that lease has ended", func(t *testing.T, s *setup) {
			if err := s.leases.Commit(macB, at("10.77.0.120"), s.clock().Add(time.Hour), all2(s)); err != nil {
				t.Fatal(err)
			}
			s.pass(time.Hour)
		}, packet{kind: discover, mac: card(9)}, "10.77.0.120"},
	} {
		s := newSetup(t, ModeDHCP)
		r, err := reserve(s.fleet, all, func(mac string) []string {
			if mac == card(7) {
				return []string{"", "sn-7", "web1"}
			}
			return nil
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
