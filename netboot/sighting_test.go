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

// What is kept of all machines is bounded, and those unseen for longest lose first; a
// few of each stay.
func TestSightingsAreBoundedInAll(t *testing.T) {
	s := NewSightings(4, 10, nil)
	s.Bound(16) // so that each keeps 4
	count := func(want string) {
		t.Helper()
		got, sum := "", 0
		for i := range 6 {
			n := len(s.Of(fmt.Sprintf("m%d", i)))
			got, sum = got+fmt.Sprintf(" %d", n), sum+n
		}
		if got[1:] != want || s.kept != sum {
			t.Fatalf("kept %s and counted %d, want %s", got[1:], s.kept, want)
		}
	}
	add := func(mac string, n int) {
		for i := range n {
			s.Add(Sighting{MAC: mac, At: time.Unix(int64(i), 0), Text: fmt.Sprint(i)})
		}
	}
	add("m0", 10)
	add("m1", 6)
	count("10 6 0 0 0 0")
	add("m2", 1)
	count("4 6 1 0 0 0")
	if got := s.Of("m0"); got[0].Text != "6" || got[3].Text != "9" {
		t.Errorf("not the newest are left: %v", got)
	}
	s.holds("m1", netip.MustParseAddr("10.0.0.1")) // as if it were seen
	add("m2", 9)
	count("4 4 5 0 0 0") // m2 itself was the only one left with more
	add("m3", 20)
	count("4 4 4 4 0 0")
	add("m4", 10) // and m0 is gone
	count("0 4 4 4 4 0")
	s.Bound(8)
	count("0 2 2 2 2 0")
	s.Bound(16)
	add("m4", 10)
	count("0 2 2 2 10 0")
}

// Whoever shows what was seen last, every second, takes no more of it than is shown:
// DHCP and TFTP wait for the same lock.
func TestRecentTakesNoMoreThanIsShown(t *testing.T) {
	s := NewSightings(rememberedMachines, rememberedSightings, nil)
	for i := range 3 * sightingsShown {
		s.Add(Sighting{MAC: stallMAC(i % 500), At: time.Unix(int64(i), 0)})
	}
	all := s.Recent(1000)
	if len(all) != sightingsShown {
		t.Errorf("%d, want %d", len(all), sightingsShown)
	}
	for i, sg := range all {
		if want := int64(3*sightingsShown - 1 - i); sg.At.Unix() != want {
			t.Fatalf("at %d is the sighting of %d, want that of %d", i, sg.At.Unix(), want)
		}
	}
	if n := testing.AllocsPerRun(10, func() { s.Recent(200) }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkRecent is what the network page asks for every second, of a store that is full.
func BenchmarkRecent(b *testing.B) {
	s := NewSightings(rememberedMachines, rememberedSightings, nil)
	for i := range rememberedMachines * rememberedSightings {
		s.Add(Sighting{MAC: stallMAC(i % rememberedMachines), At: time.Unix(int64(i), 0), Step: StepOffer, Text: "was offered an address"})
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Recent(200)
		s.OnWire(200)
	}
}

// A machine that asks for what is not here, over and over or for ever another file, is
// told of a few times; what others did stays where it is.
func TestAMachineThatAsksAThousandTimesIsToldOfAFewTimes(t *testing.T) {
	at := netip.MustParseAddr("10.77.0.120")
	for name, c := range map[string]struct {
		file func(int) string
		most int // sightings in 10 s
	}{
		"the same file":      {func(int) string { return "pxelinux.0" }, missingEach},
		"two in turn":        {func(i int) string { return "pxelinux." + fmt.Sprint(i%2) }, 2 * missingEach},
		"ever another file":  {func(i int) string { return fmt.Sprintf("pxelinux.cfg/%d", i) }, 10 * sightingsEach},
		"a file that's here": {func(int) string { return LoaderUEFI }, 10 * sightingsEach},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSetup(t, ModeDHCP)
			told := 0
			s.sightings.notify = func(Sighting) { told++ }
			s.sightings.holds(macB, at)
			tftp := s.tftp(s.link)
			for i := range 5000 {
				s.get("GET", "/boot/"+c.file(i))
				_, _, _ = tftp.take(tftpRequest{name: c.file(i)}, at)
				s.pass(2 * time.Millisecond)
			}
			if told == 0 || told > 2*c.most {
				t.Errorf("%d are told of 10000 requests, want at most %d", told, 2*c.most)
			}
			if dropped := s.Stats()["sightings.too many"]; (dropped > 0) != (c.most > 100) {
				t.Errorf("counted are %d that are not kept", dropped)
			}
		})
	}
}

// What is told less often still tells the stall, and the machine's stall is told
// whatever it does.
func TestAFileThatIsAskedForAllTheTimeIsAStall(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	at := netip.MustParseAddr("10.77.0.120")
	s.sightings.holds(macB, at)
	tftp := s.tftp(s.link)
	for range 12 {
		_, _, _ = tftp.take(tftpRequest{name: "pxelinux.0"}, at)
		s.pass(500 * time.Millisecond)
	}
	for range 2 * sightingsEach {
		s.Sightings().Add(Sighting{At: s.clock(), MAC: macB, Kind: KindRouter, Text: "and a word that is no step"})
	}
	s.lookForStalls()
	if stall, ok := s.Sightings().Stall(macB); !ok || stall.ID != "file-missing" {
		t.Errorf("named %q", stall.ID)
	}
	if seen := s.Sightings().Of(macB); seen[len(seen)-1].Kind != KindStall {
		t.Errorf("the stall is not told: %v", seen[len(seen)-1])
	}
}
