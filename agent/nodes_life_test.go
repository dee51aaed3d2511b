package agent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// sibling is another node, which answers what it can and passes the rest on to
// the rig's: they know the same.
func (r *rig) sibling(answers func(w http.ResponseWriter, q *http.Request) bool) *httptest.Server {
	return r.cluster.Server(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !answers(w, q) {
			r.serve(w, q)
		}
	}))
}

// asked counts requests by their last words.
type asked struct {
	mu sync.Mutex
	n  map[string]int
}

func (a *asked) count(q *http.Request) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.n == nil {
		a.n = map[string]int{}
	}
	word := strings.Split(strings.TrimPrefix(q.URL.Path, "/api/v1/agent/"), "/")[0]
	a.n[word]++
	return a.n[word]
}

func TestAnEndIsKeptOnlyWhenNoNodeCanWriteItDown(t *testing.T) {
	for name, others := range map[string]bool{"all are cut off": true, "another is not": false} {
		r := newRig(t)
		r.verdicts = []wire.ApprovalResponse{install()}
		var cut asked
		off := r.sibling(func(w http.ResponseWriter, q *http.Request) bool {
			if strings.HasSuffix(q.URL.Path, "/status") && (others || q.Host != strings.TrimPrefix(r.srv.URL, "https://")) {
				if n := cut.count(q); n > 1 && n <= 3 { // the first is the question whether it may begin
					w.WriteHeader(503)
					return true
				}
			}
			return false
		})
		cfg := r.config()
		cfg.Nodes = []string{off.URL}
		if !others {
			cfg.Nodes = append(cfg.Nodes, r.srv.URL)
		}
		if out := r.run(cfg); out != OutcomeInstalled {
			t.Fatalf("%s: outcome %q", name, out)
		}
		if r.kept != others {
			t.Errorf("%s: kept %v", name, r.kept)
		}
	}
}

func TestAWaitingAgentIsSentElsewhere(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	var polls asked
	off := r.sibling(func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/approval/") {
			polls.count(q)
			_, _ = w.Write([]byte(`{"verdict":"wait","reason":"this node cannot reach the other nodes","elsewhere":true,"nodes":["` + r.srv.URL + `"]}`))
			return true
		}
		return false
	})
	cfg := r.config()
	cfg.Nodes = []string{off.URL} // it learns of the other from this one
	if out := r.run(cfg); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	if polls.n["approval"] != 1 || !strings.Contains(r.console.String(), "cannot reach the other nodes") {
		t.Errorf("%d polls; console:\n%s", polls.n["approval"], r.console.String())
	}
	if !slices.Contains(r.slept, refusedPause) {
		t.Error("it goes to and fro without a rest")
	}
}

// One node that does not know the session may only be behind.
func TestASessionIsGivenUpOnlyWhenNoNodeKnowsIt(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	behind := r.sibling(func(w http.ResponseWriter, q *http.Request) bool {
		if strings.HasSuffix(q.URL.Path, "/report") {
			return false
		}
		w.WriteHeader(401)
		return true
	})
	cfg := r.config()
	cfg.Nodes = []string{behind.URL, r.srv.URL}
	if out := r.run(cfg); out != OutcomeInstalled {
		t.Fatalf("outcome %q", out)
	}
	if len(r.reports) != 1 {
		t.Errorf("%d reports", len(r.reports))
	}
}

func TestWhatOneNodeLacksAnotherIsAskedFor(t *testing.T) {
	for _, status := range []int{404, 412} {
		r := newRig(t)
		r.verdicts = []wire.ApprovalResponse{install()}
		var at asked
		image := func(lacks bool) func(w http.ResponseWriter, q *http.Request) bool {
			return func(w http.ResponseWriter, q *http.Request) bool {
				if !strings.HasPrefix(q.URL.Path, "/manifest/") && !strings.HasSuffix(q.URL.Path, "/next") {
					return false
				}
				at.count(q)
				if lacks {
					w.WriteHeader(status)
				} else {
					_, _ = w.Write([]byte("{}"))
				}
				return true
			}
		}
		lacks, has := r.sibling(image(true)), r.sibling(image(false))
		r.installs = func(ctx context.Context, _ wire.Grant, src Source, report func(wire.Progress)) error {
			if _, err := src.Manifest(ctx, "x"); err != nil {
				return err
			}
			_, err := src.Next(ctx, wire.NextRequest{})
			return err
		}
		cfg := r.config()
		cfg.Nodes = []string{lacks.URL, has.URL}
		if out := r.run(cfg); out != OutcomeInstalled {
			t.Fatalf("%d: outcome %q\n%s", status, out, r.console.String())
		}

		cfg.Nodes = []string{lacks.URL}
		r.verdicts = []wire.ApprovalResponse{install()}
		r.reports, r.story = nil, nil
		r.run(cfg)
		if !slices.Contains(r.story, "failed t1/2 "+wire.CodeImageError) {
			t.Errorf("%d: nobody has the image, and the node was told %v", status, r.story)
		}
	}
}

// A node that was stopped accepts connections and says nothing. One that is at
// work says so, however long it takes.
func TestASilentNodeIsLeft(t *testing.T) {
	r := newRig(t)
	release := make(chan struct{})
	frozen := r.sibling(func(w http.ResponseWriter, q *http.Request) bool { <-release; return true })
	r.t.Cleanup(func() { close(release) })
	slow := r.sibling(func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, "/report") {
			return false
		}
		for range 13 {
			time.Sleep(100 * time.Millisecond)
			w.WriteHeader(http.StatusProcessing)
		}
		return false
	})
	cfg := r.config()
	cfg.Nodes = []string{frozen.URL, slow.URL}
	cfg.Silence = time.Second
	r.run(cfg)
	r.told("report")
	if len(r.slept) != 1 {
		t.Errorf("pauses %v: the node at work was left, or the silent one asked again", r.slept)
	}
}
