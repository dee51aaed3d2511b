package netboot

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestSightingsAreBoundedBothWays(t *testing.T) {
	heard := 0
	s := NewSightings(3, 2, func(Sighting) { heard++ })
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }
	for i := range 5 {
		mac := fmt.Sprintf("m%d", i)
		s.holds(mac, addr(i))
		for j := range 4 {
			s.Add(Sighting{MAC: mac, Text: fmt.Sprint(j)})
		}
		s.Add(Sighting{MAC: "m0", Text: "still here"}) // seen again: stays
	}
	if heard != 25 {
		t.Errorf("%d sightings were told, want 25", heard)
	}
	for mac, want := range map[string]int{"m0": 2, "m1": 0, "m2": 0, "m3": 2, "m4": 2, "": 0} {
		if got := len(s.Of(mac)); got != want {
			t.Errorf("%s: %d sightings, want %d", mac, got, want)
		}
	}
	if got := s.Of("m4"); got[0].Text != "2" || got[1].Text != "3" {
		t.Errorf("not the last two in order: %v", got)
	}
	if s.holder(addr(1)) != "" || s.holder(addr(4)) != "m4" {
		t.Errorf("holders: %q and %q", s.holder(addr(1)), s.holder(addr(4)))
	}
	s.Add(Sighting{Text: "nobody's"})
	if len(s.Of("")) != 0 {
		t.Error("a sighting of nobody is kept")
	}
}

func TestWhatIsAskedAgainAtOnceIsSeenOnce(t *testing.T) {
	s := NewSightings(10, 10, nil)
	at := time.Unix(1, 0)
	for _, sg := range []Sighting{
		{Step: StepAsked, Text: "a"}, {Step: StepAsked, Text: "a"}, {Step: StepAsked, Text: "b"}, {Step: StepMissing, Text: "b"}, {Step: StepMissing, Text: "b"},
		{Step: StepOffer, Text: "c"}, {Step: StepOffer, Text: "c"},
	} {
		sg.MAC, sg.At = "m", at
		s.Add(sg)
	}
	s.Add(Sighting{MAC: "m", At: at, Step: StepAsked, Text: "d"})
	s.Add(Sighting{MAC: "m", At: at.Add(time.Second), Step: StepAsked, Text: "d"})
	text := ""
	for _, sg := range s.Of("m") {
		text += sg.Text
	}
	if text != "abbccdd" {
		t.Errorf("seen %s, want abbccdd", text)
	}
}

func TestRecentIsNewestFirst(t *testing.T) {
	s := NewSightings(10, 10, nil)
	for i, mac := range []string{"m1", "m2", "m1", "m3"} {
		s.Add(Sighting{MAC: mac, At: time.Unix(int64(i), 0)})
	}
	got := s.Recent(3)
	if len(got) != 3 || got[0].MAC != "m3" || got[1].MAC != "m1" || got[2].MAC != "m2" {
		t.Errorf("%v", got)
	}
	if len(s.Recent(99)) != 4 || len(s.Recent(-1)) != 0 {
		t.Errorf("%d of 99, %d of -1", len(s.Recent(99)), len(s.Recent(-1)))
	}
}

func TestAnAddressThatMovesIsTheNewMachines(t *testing.T) {
	s := NewSightings(10, 2, nil)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	s.holds("m1", a)
	s.holds("m2", a)
	if s.holder(a) != "m2" {
		t.Errorf("holder %q", s.holder(a))
	}
	s.holds("m1", b) // must not take a from m2
	if s.holder(a) != "m2" || s.holder(b) != "m1" {
		t.Errorf("holders %q and %q", s.holder(a), s.holder(b))
	}
	if !s.lastNetboot("m1").IsZero() || !s.lastNetboot("m9").IsZero() {
		t.Error("a machine netboots that never did")
	}
	now := time.Unix(1, 0)
	s.netboots("m1", now)
	if !s.lastNetboot("m1").Equal(now) {
		t.Error("netboot not noted")
	}
}

func TestCountersAreACopy(t *testing.T) {
	var c counters
	c.add("a")
	st := c.snapshot()
	c.add("a")
	if st["a"] != 1 || c.snapshot()["a"] != 2 {
		t.Errorf("%v, then %v", st, c.snapshot())
	}
}

func TestLineOfProc(t *testing.T) {
	const line = "  812: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 15243 2 ffff 0"
	if inode, ok := socketOnPort(line, 67); !ok || inode != "15243" {
		t.Errorf("%q, %v", inode, ok)
	}
	// A connection that leaves from the port keeps nobody from opening it.
	if _, ok := socketOnPort(strings.Replace(line, " 07 ", " 01 ", 1), 67); ok {
		t.Error("a connection is taken for what holds the port")
	}
	for _, l := range []string{line, "", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"} {
		if _, ok := socketOnPort(l, 69); ok {
			t.Errorf("port 69 found in %q", l)
		}
	}
}
