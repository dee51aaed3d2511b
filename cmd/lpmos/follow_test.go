package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/api/client"
)

// peer is a node in memory with a dashboard that listens.
func peer(t *testing.T) (*apitest.Node, *httptest.Server, *ui.UI) {
	t.Helper()
	node := apitest.NewNode()
	if err := apitest.Gallery(node); err != nil {
		t.Fatal(err)
	}
	page, err := ui.New(ui.Config{API: node.Config(), Static: fstest.MapFS{"index.html": {Data: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(apitest.SignedIn(page))
	t.Cleanup(func() {
		page.Close()
		srv.Close()
	})
	return node, srv, page
}

// TestFollowGoesToAnotherNode: when the node that was asked dies, what happens
// next is heard from one it has told of, each change once.
func TestFollowGoesToAnotherNode(t *testing.T) {
	first, firstServer, firstPage := peer(t)
	second, secondServer, _ := peer(t)
	first.Membership.Set(func(s *consensus.Status) {
		s.Members[0].Dashboard, s.Members[1].Dashboard = firstServer.URL, secondServer.URL
		s.Members[2].Dashboard = "http://127.0.0.1:9" // nobody is there
	})
	c, err := client.New(firstServer.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do := func(n *apitest.Node, body fleet.Body) {
		t.Helper()
		if _, err := n.Cluster.Propose(ctx, body); err != nil {
			t.Fatal(err)
		}
	}
	var heard []string
	errDone := errors.New("all was heard")
	err = follow(ctx, c, func(u client.Update) error {
		switch {
		case u.Snapshot != nil && len(heard) > 0:
			t.Error("a second snapshot came")
		case u.Snapshot != nil:
			for _, n := range []*apitest.Node{first, second} {
				do(n, fleet.CancelTask{TaskID: "t-05", By: "me"})
			}
		case u.Frame.Type == "status":
			heard = append(heard, "status")
			do(second, fleet.DeleteTask{TaskID: "t-05"})
			firstPage.Close()
			firstServer.Close()
		case u.Frame.Type == "task_deleted":
			heard = append(heard, "task_deleted")
			return errDone
		}
		return nil
	})
	if !errors.Is(err, errDone) || !slices.Equal(heard, []string{"status", "task_deleted"}) {
		t.Errorf("heard %v (%v)", heard, err)
	}
}

func TestRingLeavesOutAddressesOfOtherHosts(t *testing.T) {
	for name, c := range map[string]struct {
		asked string
		want  []string
	}{
		"from afar": {"http://10.0.0.1:8080", []string{"http://10.0.0.2:8080"}},
		"on a host": {"http://127.0.0.1:8080", []string{"http://10.0.0.2:8080", "http://127.0.0.1:8082", "http://localhost:8083"}},
	} {
		named, err := client.New(c.asked, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := ring{named: named}
		v := &api.ClusterView{Status: consensus.Status{Node: "a"}}
		for i, d := range []string{c.asked, "http://10.0.0.2:8080", "http://127.0.0.1:8082", "http://localhost:8083", c.asked, "", "nonsense"} {
			v.Members = append(v.Members, api.Member{Member: consensus.Member{ID: string(rune('a' + i)), Dashboard: d}})
		}
		r.learn(v)
		var got []string
		for _, o := range r.others {
			got = append(got, o.Address())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
