package consensus_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// live is a live message.
func live(t testing.TB, items ...fleet.AdvanceItem) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"progress": items})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func item(task string, generation uint64, p wire.Progress) fleet.AdvanceItem {
	return fleet.AdvanceItem{TaskID: task, Generation: generation, Progress: p}
}

func TestNonsenseOfAPeerHarmsNothing(t *testing.T) {
	heard := make(chan string, 100)
	c, _ := busyCluster(t, 1, func(_ int, cfg *consensus.Config) {
		cfg.ProgressInterval = time.Hour
		cfg.Heard = func(id string, at time.Time) {
			if at.After(time.Now()) {
				id += " in the future"
			}
			heard <- id
		}
	})
	to := c.Nodes[1]
	client, base, err := c.Nodes[0].Call(to.ID())
	if err != nil {
		t.Fatal(err)
	}
	tell := func(body string) int {
		res, err := client.Post(base+"/live", "application/json", strings.NewReader(body))
		if err != nil {
			return 0 // the node hung up
		}
		defer res.Body.Close()
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode
	}
	b := watchBars(t, to)
	if got := tell(live(t, item("t0", 1, downloading(40)))); got != http.StatusOK {
		t.Fatalf("a good message is answered with %d", got)
	}
	must(t, b.to(40, "t0"))
	many := make([]fleet.AdvanceItem, 20_000)
	for i := range many {
		many[i] = item(fmt.Sprint("none", i), 1, downloading(41))
	}
	speed := downloading(41)
	speed.Details.SpeedMbps = -1
	twoMB := live(t, many...)
	if len(twoMB) < 2<<20 {
		t.Fatalf("the large message is %d bytes only", len(twoMB))
	}
	for name, m := range map[string]struct {
		body   string
		status int
	}{
		"no number":          {`{"progress":[{"task_id":"t0","generation":1,"progress":{"stage":"downloading","percentage":NaN}}]}`, 400},
		"too large a number": {strings.Replace(live(t, item("t0", 1, downloading(41))), "41", "1e999", 1), 400},
		"another type":       {strings.Replace(live(t, item("t0", 1, downloading(41))), "41", `"41"`, 1), 400},
		"half":               {live(t, item("t0", 1, downloading(41)))[:40], 400},
		"nothing":            {"", 400},
		"null":               {"null", 200},
		"of nobody":          {`{"progress":[null,{}]}`, 200},
		"unknown task":       {live(t, item("none", 1, downloading(41))), 200},
		"other generation":   {live(t, item("t0", 2, downloading(41)), item("t0", math.MaxUint64, downloading(41))), 200},
		"no stage":           {live(t, item("t0", 1, wire.Progress{Stage: "x", Percentage: 41})), 200},
		"not of the stage":   {live(t, item("t0", 1, downloading(99)), item("t0", 1, downloading(-1))), 200},
		"no speed":           {live(t, item("t0", 1, speed)), 200},
		"backwards":          {live(t, item("t0", 1, downloading(39))), 200},
		"2 MB of items":      {twoMB, 200},
		"unknown machine":    {`{"contacts":{"none":1000}}`, 200},
	} {
		if got := tell(m.body); got != m.status {
			t.Errorf("%s: it answers %d, want %d", name, got, m.status)
		}
		if got, _ := to.Latest("t0"); got.Percentage != 40 {
			t.Fatalf("%s: it moved the bar to %v", name, got.Percentage)
		}
	}
	if got := tell(strings.Repeat(" ", 17<<20)); got == http.StatusOK {
		t.Error("17 MB were taken")
	}
	// A machine that was heard in the future would count as alive until then.
	if got := tell(`{"contacts":{"none":1,"m0":-9000000000000000000}}`); got != http.StatusOK {
		t.Errorf("a contact in the future is answered with %d", got)
	}
	if got := <-heard; got != "m0" {
		t.Errorf("it was told of %s, want m0", got)
	}
	if len(heard) != 0 {
		t.Errorf("it was told of %s as well", <-heard)
	}
	// And it goes on. Nothing of the above was told to anybody.
	was := b.live
	if got := tell(live(t, item("t0", 1, downloading(50)))); got != http.StatusOK {
		t.Errorf("a good message is answered with %d", got)
	}
	must(t, b.to(50, "t0"))
	if b.live != was+1 || b.logged != 0 {
		t.Errorf("viewers were told of %d values live and %d logged, want one", b.live-was, b.logged)
	}
	consensustest.Propose[*fleet.Node](t, to, putNode("after"))
}

// FuzzLive: whatever another node says, no bar runs backwards or out of its stage,
// nothing is in the future, and the state is only what the log made it.
func FuzzLive(f *testing.F) {
	cfg := consensustest.Config(f.TempDir())
	cfg.ProgressInterval = time.Hour
	cfg.Heard = func(id string, at time.Time) {
		if at.After(time.Now()) || id != "m0" {
			panic(fmt.Sprintf("%s was heard at %v", id, at))
		}
	}
	n := consensustest.Open(f, cfg)
	installing(f, n, 0)
	for _, s := range []string{
		live(f, item("t0", 1, downloading(40))), live(f, item("t0", 2, downloading(41))), live(f, item("none", 1, downloading(41))),
		`{"progress":[{"task_id":"t0","generation":1,"progress":{"stage":"downloading","percentage":NaN}}]}`,
		`{"contacts":{"m0":5000000000,"none":1}}`, `{"contacts":{"m0":-9000000000000000000}}`, `{"progress":[null],"contacts":null}`, `null`, ``,
	} {
		f.Add([]byte(s))
	}
	var index uint64
	n.View(func(s *fleet.State) { index = s.Index() })
	f.Fuzz(func(t *testing.T, body []byte) {
		before, had := n.Latest("t0")
		n.AnswerLive(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/live", bytes.NewReader(body)))
		after, has := n.Latest("t0")
		if had && (!has || after.Percentage < before.Percentage) {
			t.Errorf("the bar ran from %v to %v", before, after)
		}
		if has {
			if from, to, ok := after.Stage.Span(); !ok || !(after.Percentage >= from && after.Percentage <= to) {
				t.Errorf("it shows %v", after)
			}
		}
		n.View(func(s *fleet.State) {
			if s.Index() != index {
				t.Errorf("the state is at %d, was at %d", s.Index(), index)
			}
		})
		select {
		case err := <-n.Failed():
			t.Fatal(err)
		default:
		}
	})
}
