package ui

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
)

// quick makes a viewer's second short.
func quick(c *Config) { c.Limits.Fast, c.Limits.Slow = 10*time.Millisecond, 20*time.Millisecond }

// TestClusterIsToldWhenItChanges: at once what people act on, with the sentence
// on what cannot be done.
func TestClusterIsToldWhenItChanges(t *testing.T) {
	node, _, c, _ := newNode(t, quick)
	e := look(t, c, 0)
	if snap := e.snapshot(); snap.Cluster.Leader != "n-1" || len(snap.Cluster.Members[0].Actions) == 0 {
		t.Fatalf("the snapshot tells %+v", snap.Cluster)
	}
	node.Membership.Silence()
	node.Clock.Tick()
	for {
		if f := e.until(api.FrameCluster); !f.Cluster.Members[2].Reachable {
			if w := f.Cluster.Members[2].Warnings; len(w) != 1 || !strings.Contains(w[0], "3.2 s ahead") {
				t.Errorf("the silent node's warnings are %q", w)
			}
			break
		}
	}
	node.Membership.CutOff()
	node.Clock.Tick()
	for {
		if f := e.until(api.FrameCluster); !f.Cluster.Quorum {
			if f.Cluster.Problem == "" || f.Cluster.Leader != "" {
				t.Errorf("cut off, and told %+v", f.Cluster)
			}
			return
		}
	}
}

// TestFiguresOfTheClusterWait: what changes all the time comes every fifth time,
// and nothing comes twice.
func TestFiguresOfTheClusterWait(t *testing.T) {
	node, u := newUI(t)
	var told clusterTold
	view := func() *api.ClusterView { return u.hub.api.Cluster() }
	if !told.news(view()) {
		t.Fatal("the first view is no news")
	}
	for i := range 2*figuresEvery - 1 {
		node.Membership.Set(func(s *consensus.Status) {
			s.Applied++
			s.HeardAt = s.HeardAt.Add(time.Second)
			s.Members[1].RoundTrip += 0.1
			s.Members[1].Described.FreeBytes--
		})
		if news := told.news(view()); news != (i == figuresEvery-1) {
			t.Errorf("beat %d: news %v", i, news)
		}
	}
	for name, change := range map[string]func(*consensus.Status){
		"reachable": func(s *consensus.Status) { s.Members[1].Reachable = false },
		"leader":    func(s *consensus.Status) { s.Leader = "n-2" },
		"quorum":    func(s *consensus.Status) { s.Quorum = false },
		"problem":   func(s *consensus.Status) { s.Problem = "no majority" },
		"vote":      func(s *consensus.Status) { s.Members[1].Voter = false },
		"chunks": func(s *consensus.Status) {
			s.Members[1].Described.Images = map[string]consensus.Hold{"d": {Have: 3, Total: 9}}
		},
		"members": func(s *consensus.Status) { s.Members = s.Members[:2] },
	} {
		told.news(view())
		told.beat = 0
		node.Membership.Set(change)
		if !told.news(view()) {
			t.Errorf("%s: a change is no news", name)
		}
		if told.news(view()) {
			t.Errorf("%s: one change is news twice", name)
		}
	}
	if told.news(nil) {
		t.Error("a node of no cluster has news of it")
	}
}

// TestAuditAndRemovalAreTold to those who look, each record once.
func TestAuditAndRemovalAreTold(t *testing.T) {
	_, _, c, _ := newNode(t)
	e := look(t, c, 0)
	e.snapshot()
	for range 3 {
		if _, err := c.NewToken(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	for len(said) < 3 {
		f := e.until("audit")
		said = append(said, f.Audit.What)
		if f.Audit.By != "operator at 127.0.0.1" || f.Index == 0 || f.Audit.Index != f.Index {
			t.Errorf("the record is %+v", f.Audit)
		}
	}
	for i, s := range said {
		if want := "operator at 127.0.0.1 made join token j-" + string(rune('1'+i)); !strings.HasPrefix(s, want) {
			t.Errorf("record %d says %q, want %q", i, s, want)
		}
	}
	if err := c.RemoveNode(t.Context(), "n-3"); err != nil {
		t.Fatal(err)
	}
	if f := e.until("node_deleted"); f.ID != "n-3" || f.Name != "n3" || f.Node != nil {
		t.Errorf("heard %+v", f)
	}
	all, err := c.Audit(t.Context(), 2)
	if err != nil || len(all) != 2 || !strings.Contains(all[0].What, "removed node n3") {
		t.Errorf("the audit is %+v (%v)", all, err)
	}
}

// TestResumeOnAnotherNode: the index is the cluster's, so whoever goes to another
// node hears there what was missed, by the socket and by plain HTTP.
func TestResumeOnAnotherNode(t *testing.T) {
	// Both have agreed on the same: the same commands in the same order.
	first, _, c, _ := newNode(t)
	second, _, other, otherURL := newNode(t)
	e := look(t, c, 0)
	since := e.snapshot().Index
	propose(t, first, fleet.CancelTask{TaskID: "t-05", By: "me"})
	propose(t, second, fleet.CancelTask{TaskID: "t-05", By: "me"})
	if f := e.until("status"); f.Index != since+1 {
		t.Fatalf("heard index %d, want %d", f.Index, since+1)
	}
	// The first node dies here. What happens now, only the second can tell.
	for _, body := range []fleet.Body{fleet.DeleteTask{TaskID: "t-05"}, fleet.DeleteMachine{MachineID: "m-02"}} {
		propose(t, second, body)
	}
	e = look(t, other, since+1)
	if f := e.next().Frame; f == nil || f.Type != api.FrameHello {
		t.Fatalf("the first frame is %+v", f)
	}
	if f := e.next().Frame; f == nil || f.Type != api.FrameResumed || f.Index != since+1 {
		t.Fatalf("the second frame is %+v, want to resume", f)
	}
	want := []string{"task_deleted", "audit", "machine_deleted", "audit"}
	got := []string{e.changed(), e.changed(), e.changed(), e.changed()}
	if !slices.Equal(got, want) {
		t.Errorf("on the other node came %v, want %v", got, want)
	}
	if got := eventTypes(t, otherURL, since+1, len(want)); !slices.Equal(got, want) {
		t.Errorf("by plain HTTP came %v, want %v", got, want)
	}
	// A node that is behind what was seen elsewhere begins anew.
	look(t, c, since+3).snapshot()
}

// changed is the type of the next frame of something that changed.
func (e eye) changed() string {
	e.t.Helper()
	for {
		f := e.next().Frame
		if f == nil {
			e.t.Fatal("a snapshot came")
		}
		if isChange(f.Type) {
			return f.Type
		}
	}
}

func isChange(kind string) bool {
	return !slices.Contains([]string{api.FrameHello, api.FrameResumed, api.FrameStats, api.FrameCluster, api.FrameProgressBatch, "progress", "machine"}, kind)
}

// eventTypes reads n changes after an index by server-sent events.
func eventTypes(t *testing.T, url string, since uint64, n int) (types []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprint(url, "/api/v1/events?since=", since), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for len(types) < n && lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var f api.Frame
		if err := json.Unmarshal([]byte(data), &f); err != nil {
			t.Fatal(err)
		}
		if isChange(f.Type) {
			types = append(types, f.Type)
		}
	}
	return types
}
