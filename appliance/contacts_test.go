package appliance

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
)

// heardHere is a node that agents speak to.
type heardHere struct {
	*agentserver.Server
	mu   sync.Mutex
	here map[string]time.Time
}

func (h *heardHere) Contacts(since time.Time) map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[string]time.Time{}
	for id, at := range h.here {
		if at.After(since) {
			out[id] = at
		}
	}
	return out
}

// late is a handler that is there before what it serves.
type late struct {
	mu sync.Mutex
	h  http.Handler
}

func (l *late) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	h := l.h
	l.mu.Unlock()
	h.ServeHTTP(w, r)
}

func TestOtherNodesKnowWhichAgentsAreHeard(t *testing.T) {
	calls := []*late{{h: http.NotFoundHandler()}, {h: http.NotFoundHandler()}}
	c := consensustest.NewCluster(t, 2, func(i int, cfg *consensus.Config) { cfg.Calls = calls[i] })
	now := time.Now()
	agents := make([]*heardHere, 2)
	tellers := make([]*contactTeller, 2)
	for i := range agents {
		agents[i] = &heardHere{Server: agentserver.New(agentserver.Config{}), here: map[string]time.Time{}}
		tellers[i] = newContactTeller(c.Nodes[i], agents[i], slog.New(slog.DiscardHandler))
		tellers[i].now = func() time.Time { return now.Add(time.Duration(i) * time.Hour) } // their clocks differ
		calls[i].mu.Lock()
		calls[i].h = tellers[i]
		calls[i].mu.Unlock()
	}
	agents[0].here["m-1"] = now.Add(-2 * time.Second)
	agents[0].here["m-2"] = now.Add(-time.Hour)
	c.Until("the other node is told", func() bool {
		tellers[0].tell(t.Context())
		return !agents[1].LastContact("m-1").IsZero()
	})
	if got, want := agents[1].LastContact("m-1"), now.Add(time.Hour-2*time.Second); got.Sub(want).Abs() > time.Millisecond {
		t.Errorf("heard at %v, want %v by its own clock", got, want)
	}
	if !agents[1].LastContact("m-2").IsZero() {
		t.Error("it was told what is an hour old")
	}
	if got := tellers[0].told[consensustest.Name(1)]; !got.Equal(now) {
		t.Errorf("told up to %v", got)
	}
}

func TestContactsThatMakeNoSense(t *testing.T) {
	agents := &heardHere{Server: agentserver.New(agentserver.Config{})}
	teller := &contactTeller{agents: agents, now: time.Now}
	for body, want := range map[string]int{`{"m-1":-5,"m-2":1e300}`: 204, `[1]`: 400, ``: 400, `{"m-1":"x"}`: 400} {
		w := httptest.NewRecorder()
		teller.ServeHTTP(w, httptest.NewRequest("POST", contactsPath, strings.NewReader(body)))
		if w.Code != want {
			t.Errorf("%q is answered %d, want %d", body, w.Code, want)
		}
	}
	if !agents.LastContact("m-1").IsZero() || !agents.LastContact("m-2").IsZero() {
		t.Error("a machine was heard in the future, or before there was a node")
	}
}
