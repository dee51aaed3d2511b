package appliance

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/ui/api"
)

// seeing is a node that sees machines on its wire.
func seeing(t *testing.T) *sightingSeam {
	t.Helper()
	files, err := netboot.LoadFiles(fstest.MapFS{})
	if err == nil {
		t.Fatal("an empty tree has all boot files")
	}
	s := newSightingSeam()
	s.more = func() map[string]uint64 { return nil }
	server, err := netboot.New(netboot.Config{DataDir: t.TempDir(), BootPort: 80, Files: files, Pin: "p", PathKey: [32]byte{1},
		Claim: claimSeam{}.make, Log: slog.New(slog.DiscardHandler), OnSighting: s.publish, Elsewhere: s.elsewhere})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	s.open(server, nil)
	return s
}

func saw(s *sightingSeam, mac, text string, at time.Time) {
	s.netboot().Sightings().Add(netboot.Sighting{At: at, MAC: mac, Kind: netboot.KindDHCP, Step: netboot.StepAck, Text: text})
}

// What one node sees, people see at the other, once.
func TestNodesTellEachOtherWhatTheySee(t *testing.T) {
	const mac = "52:54:00:00:00:0a"
	now := time.Now()
	a, b := seeing(t), seeing(t)
	atA := httptest.NewServer(a)
	defer atA.Close()
	ask := func() {
		t.Helper()
		if !b.begin("n-a", "node-a") {
			t.Fatal("it is asked already")
		}
		defer b.end("n-a")
		if err := b.ask(t.Context(), atA.Client(), atA.URL, "n-a"); err != nil {
			t.Fatal(err)
		}
	}
	var heard []api.Sighting
	b.Subscribe(func(s api.Sighting) { heard = append(heard, s) })

	saw(a, mac, "before they met", now)
	ask()
	if got := b.Of(mac); len(got) != 1 || got[0].Node != "node-a" || got[0].Text != "before they met" || len(heard) != 0 {
		t.Fatalf("it knows %v, and was told as news %v", got, heard)
	}
	saw(b, mac, "here", now.Add(time.Second))
	saw(a, mac, "and there", now.Add(2*time.Second))
	ask()
	ask()
	got := b.Of(mac)
	if len(got) != 3 || got[1].Text != "here" || got[1].Node != "" || got[2].Node != "node-a" {
		t.Errorf("it knows %v", got)
	}
	if len(heard) != 2 || heard[1].Text != "and there" || heard[1].Node != "node-a" {
		t.Errorf("told as news: %v", heard)
	}
	if r := b.Recent(2); len(r) != 2 || r[0].Text != "and there" || r[1].Text != "here" {
		t.Errorf("recent: %v", r)
	}
	if w := b.OnWire(10); len(w) != 1 || w[0].Text != "and there" || w[0].Node != "node-a" {
		t.Errorf("on the wire: %v", w)
	}
	if more := b.elsewhere(mac); len(more) != 2 {
		t.Errorf("netboot is told of %v", more)
	}

	// A stall is known as long as its node says so, or until that is silent.
	b.take(b.others["n-a"], wireNews{Life: a.life, Told: a.told, Stalls: []netboot.Stalled{{MAC: mac, Stall: netboot.Stall{ID: "loader-silent", Text: "why"}}}})
	if s := b.Stall(mac); s == nil || s.ID != "loader-silent" || s.Node != "node-a" {
		t.Errorf("stall %v", s)
	}
	if w := b.OnWire(0); len(w) != 1 || w[0].Stall == nil {
		t.Errorf("who stands is not on the wire: %v", w)
	}
	b.now = func() time.Time { return time.Now().Add(wireStale) }
	if s := b.Stall(mac); s != nil || len(b.OnWire(0)) != 0 {
		t.Errorf("the word of a silent node counts: %v", s)
	}
	b.now = time.Now
	ask()
	if s := b.Stall(mac); s != nil {
		t.Errorf("it has gone on, and still stands: %v", s)
	}

	// Both look, and each says it; people hear it once.
	for i, at := range []*sightingSeam{a, b, a, b} {
		step := []netboot.Step{netboot.StepStalled, netboot.StepGoesOn}[i/2]
		at.netboot().Sightings().Add(netboot.Sighting{At: now.Add(time.Duration(i) * 2500 * time.Millisecond), MAC: mac, Kind: netboot.KindStall, Step: step, Stall: "loader-silent"})
	}
	ask()
	said := []string{}
	for _, s := range b.Of(mac) {
		if s.Kind == "stall" {
			said = append(said, s.Step)
		}
	}
	if len(said) != 2 || said[0] != "stalled" || said[1] != "goes-on" {
		t.Errorf("two nodes' word on one stall: %v", said)
	}

	// A node that started anew counts from one again.
	a.life, a.told, a.kept = a.life+1, 0, nil
	saw(a, mac, "anew", now.Add(3*time.Second))
	ask()
	if got := b.Of(mac); !slices.ContainsFunc(got, func(s api.Sighting) bool { return s.Text == "anew" }) {
		t.Errorf("after its new start it knows %v", got)
	}
	b.keepOnly(nil)
	if got := b.Of(mac); slices.ContainsFunc(got, func(s api.Sighting) bool { return s.Node != "" }) {
		t.Errorf("of a node that left it knows %v", got)
	}
}

func TestMuchThatANodeMissedIsCut(t *testing.T) {
	a := seeing(t)
	for range 3 * wireKept {
		a.publish(netboot.Sighting{MAC: "m"})
	}
	for told, most := range map[string]int{"": wireKept, "0": wireKept, "6143": 1, "6144": 0, "99999": 0} {
		n := a.news("", told)
		if told != "" && told != "0" { // it has to say whose numbers they are
			n = a.news(strconv.FormatInt(a.life, 10), told)
		}
		if len(n.Seen) > most || most == 1 && len(n.Seen) != 1 || most == wireKept && len(n.Seen) < wireKept/2 {
			t.Errorf("who was told %q is told %d, want at most %d", told, len(n.Seen), most)
		}
	}
}

func TestJourneys(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for name, c := range map[string]struct {
		m       fleet.Machine
		t       *fleet.Task
		contact time.Time
		want    netboot.Journey
	}{
		"nothing is asked of it":   {m: fleet.Machine{ReportedAt: at(5)}, want: netboot.Journey{AgentSpoke: at(5)}},
		"it speaks":                {m: fleet.Machine{ReportedAt: at(5)}, contact: at(9), want: netboot.Journey{AgentSpoke: at(9)}},
		"it waits for approval":    {m: fleet.Machine{ReportedAt: at(5)}, t: &fleet.Task{Status: wire.StatusPendingApproval}, want: netboot.Journey{AgentSpoke: at(5), AgentDue: true}},
		"its agent is to leave":    {m: fleet.Machine{ReportedAt: at(5), AgentDone: true}, t: &fleet.Task{Status: wire.StatusInstalling}, want: netboot.Journey{AgentSpoke: at(5)}},
		"it is installed":          {m: fleet.Machine{ReportedAt: at(5)}, t: &fleet.Task{Status: wire.StatusCompleted, FinishedAt: at(8)}, want: netboot.Journey{AgentSpoke: at(5), Installed: at(8)}},
		"it is up":                 {m: fleet.Machine{ReportedAt: at(5)}, t: &fleet.Task{Status: wire.StatusCompleted, FinishedAt: at(8), CameUp: &fleet.CameUp{At: at(9)}}, want: netboot.Journey{AgentSpoke: at(5), Installed: at(8), CameUp: at(9)}},
		"a person has to look":     {m: fleet.Machine{Question: "which?"}, want: netboot.Journey{Question: "which?"}},
		"the next task is waiting": {m: fleet.Machine{ReportedAt: at(5)}, t: &fleet.Task{Status: wire.StatusReady, FinishedAt: at(8)}, want: netboot.Journey{AgentSpoke: at(5)}},
	} {
		if got := journeyOf(&c.m, c.t, c.contact); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestHowLongASystemTookIsTheLongestThatIsKnown(t *testing.T) {
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	up := func(s int64) *fleet.CameUp { return &fleet.CameUp{At: at(s)} }
	for name, c := range map[string]struct {
		installs []*fleet.Evidence
		want     time.Duration
	}{
		"none yet":             {},
		"one that is not up":   {installs: []*fleet.Evidence{{EndedAt: at(100)}}},
		"several":              {installs: []*fleet.Evidence{{EndedAt: at(500)}, {EndedAt: at(100), CameUp: up(140)}, {EndedAt: at(10), CameUp: up(205)}, {EndedAt: at(1), CameUp: up(2)}}, want: 195 * time.Second},
		"one that did not end": {installs: []*fleet.Evidence{{CameUp: up(140)}}},
	} {
		if got := upTook(c.installs); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// Other nodes ask, and people look, before netboot is open; and a node may leave the
// cluster between being chosen and being asked.
func TestWhatIsNotThereYetIsNotAskedOnTheWire(t *testing.T) {
	s := newSightingSeam()
	s.more = func() map[string]uint64 { return nil }
	if got := s.Transfers(); got != (api.Transfers{}) {
		t.Errorf("transfers before netboot is open: %+v", got)
	}
	if len(s.Recent(9)) != 0 || len(s.OnWire(9)) != 0 || len(s.Alarms()) != 0 {
		t.Error("something was seen before netboot is open")
	}
	if !s.begin("gone", "node-g") {
		t.Fatal("it is asked already")
	}
	s.keepOnly(nil)
	if err := s.ask(t.Context(), http.DefaultClient, "http://127.0.0.1:1", "gone"); err != nil {
		t.Errorf("a node that has left was asked: %v", err)
	}
	s.end("gone")
}

// All other nodes together may not take more memory than one.
func TestOtherNodesShareWhatIsKept(t *testing.T) {
	s := newSightingSeam()
	members := map[string]bool{}
	kept := func(id string) (n int) {
		for i := range wireMachines {
			n += len(s.others[id].seen.Of(strconv.Itoa(i)))
		}
		return n
	}
	for id := range 4 {
		members[strconv.Itoa(id)] = true
		s.begin(strconv.Itoa(id), "node")
	}
	s.keepOnly(members)
	for i := range 2 * wireAll / 4 {
		s.others["0"].seen.Add(netboot.Sighting{MAC: strconv.Itoa(i % 1000), At: time.Unix(int64(i), 0)})
	}
	if n := kept("0"); n > wireAll/4 || n < wireAll/8 {
		t.Errorf("%d sightings of one of four nodes are kept, want at most %d", n, wireAll/4)
	}
}
