package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// membersOf names every node with what may be done with it.
func membersOf(v *api.ClusterView) map[string]string {
	out := map[string]string{}
	for _, m := range v.Members {
		out[m.Name] = strings.Join(m.Actions, " ")
	}
	return out
}

func TestClusterSaysWhatMayBeDone(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*consensus.Status)
		want map[string]string
	}{
		"three voters": {func(*consensus.Status) {}, map[string]string{"n1": "transfer demote remove", "n2": "transfer demote remove", "n3": "transfer demote remove"}},
		"a silent one cannot lead": {func(s *consensus.Status) { s.Members[2].Reachable = false },
			map[string]string{"n1": "transfer demote remove", "n2": "transfer demote remove", "n3": "demote remove"}},
		"one that stands by": {func(s *consensus.Status) { s.Members[1].Voter = false },
			map[string]string{"n1": "transfer demote remove", "n2": "promote remove", "n3": "transfer demote remove"}},
		"the last voter stays": {func(s *consensus.Status) { s.Members[1].Voter, s.Members[2].Voter = false, false },
			map[string]string{"n1": "", "n2": "promote remove", "n3": "promote remove"}},
		"a cluster of one": {func(s *consensus.Status) { s.Members = s.Members[:1] }, map[string]string{"n1": ""}},
	} {
		node, s := newGallery(t)
		node.Membership.Set(c.set)
		got := membersOf(s.Cluster())
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestClusterSaysWhatIsNotAsItShouldBe(t *testing.T) {
	node, s := newGallery(t)
	for off, want := range map[float64][]string{0: {}, 1.9: {}, -1.9: {}, 3.25: {"its clock is 3.2 s ahead"}, -90: {"its clock is 90.0 s behind"}} {
		node.Membership.Set(func(s *consensus.Status) { s.Members[1].ClockOff = off })
		if got := s.Cluster().Members[1].Warnings; !slices.Equal(got, want) {
			t.Errorf("a clock %v s off: %q, want %q", off, got, want)
		}
	}
	node.Membership.Set(func(s *consensus.Status) { s.Members[2].Problem = "its disk is full" })
	if got := s.Cluster().Members[2].Warnings; !slices.Equal(got, []string{"its disk is full"}) {
		t.Errorf("its own words are not told: %q", got)
	}
}

func TestClusterInOneSentence(t *testing.T) {
	for _, c := range []struct {
		set  func(*consensus.Status)
		want string
	}{
		{func(*consensus.Status) {}, "3 nodes, 3 of them in reach, 3 voters, n1 leads; 1 voter may be lost"},
		{func(s *consensus.Status) { s.Members[2].Reachable = false }, "3 nodes, 2 of them in reach, 3 voters, n1 leads; no voter may be lost now"},
		{func(s *consensus.Status) { s.Members[1].Voter, s.Members[2].Voter = false, false }, "3 nodes, 3 of them in reach, 1 voter, n1 leads; no voter may be lost now"},
		{func(s *consensus.Status) {
			s.Leader, s.Members[1].Reachable, s.Members[2].Reachable = "", false, false
		}, "3 nodes, 1 of them in reach, 3 voters, nobody leads"},
		{func(s *consensus.Status) { s.Members = s.Members[:1] }, "one node, alone: if it is lost, so is everything it knows"},
	} {
		node, s := newGallery(t)
		node.Membership.Set(c.set)
		if got := s.Cluster().Summary; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestMembersChange(t *testing.T) {
	node, s := newGallery(t)
	token := answer(t, s, "POST", "/api/v1/cluster/tokens", "", 201)
	if token["token"] == "" || token["address"] != "10.77.1.1:4747" || token["expires_at"] == nil {
		t.Errorf("the token is %v", token)
	}
	answer(t, s, "POST", "/api/v1/cluster/transfer", `{"to":"n-2"}`, 204)
	answer(t, s, "POST", "/api/v1/cluster/nodes/n-3/demote", "", 204)
	v := s.Cluster()
	if v.Leader != "n-2" || v.Members[2].Voter {
		t.Errorf("after handing over to n2 and demoting n3: %+v", v)
	}
	answer(t, s, "POST", "/api/v1/cluster/nodes/n-3/promote", "", 204)
	answer(t, s, "POST", "/api/v1/cluster/transfer", `{"to":""}`, 204)
	answer(t, s, "DELETE", "/api/v1/cluster/nodes/n-2", "", 204)
	if v := s.Cluster(); v.Leader == "n-2" || len(v.Members) != 2 {
		t.Errorf("after removing n2: %+v", v)
	}
	answer(t, s, "DELETE", "/api/v1/cluster/nodes/n-3", "", 204)
	if got := node.Membership.Status().Members; len(got) != 1 {
		t.Errorf("%d members are left", len(got))
	}
}

// TestRefusedChangesSayTheWayOut: what cannot be done is refused with what to do
// in its place.
func TestRefusedChangesSayTheWayOut(t *testing.T) {
	node, s := newGallery(t)
	node.Membership.Set(func(s *consensus.Status) { s.Members[1].Voter, s.Members[2].Voter = false, false })
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"DELETE", "/api/v1/cluster/nodes/n-1", "", 409, "promote another node first"},
		{"POST", "/api/v1/cluster/nodes/n-1/demote", "", 409, "promote another node first"},
		{"POST", "/api/v1/cluster/transfer", `{"to":"n-2"}`, 409, "promote it first"},
		{"POST", "/api/v1/cluster/transfer", `{"to":"n-9"}`, 404, "n-9 is no node of this cluster"},
		{"DELETE", "/api/v1/cluster/nodes/n-9", "", 404, "lpmos node list"},
		{"POST", "/api/v1/cluster/nodes/n-9/promote", "", 404, "n-9 is no node of this cluster"},
		{"POST", "/api/v1/cluster/transfer", `{}`, 400, "to"},
		{"POST", "/api/v1/cluster/transfer", `{"to":"` + strings.Repeat("x", 65) + `"}`, 400, "to"},
		{"DELETE", "/api/v1/cluster/nodes/" + strings.Repeat("x", 65), "", 400, "id"},
	} {
		p := answer(t, s, c.method, c.path, c.body, c.status)
		if !strings.Contains(fmt.Sprint(p["detail"]), c.says) {
			t.Errorf("%s %s %s: %v, want %q", c.method, c.path, c.body, p["detail"], c.says)
		}
	}
}

func TestAuditIsNewestFirst(t *testing.T) {
	_, s := newGallery(t)
	for range 3 {
		answer(t, s, "POST", "/api/v1/cluster/tokens", "", 201)
	}
	answer(t, s, "DELETE", "/api/v1/cluster/nodes/n-1", "", 204)
	var list api.AuditList
	w := call(s, "GET", "/api/v1/audit?limit=4", "")
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Audit) != 4 {
		t.Fatalf("it answered %s (%v)", w.Body, err)
	}
	for i, want := range []string{"removed node n1", "node n2 leads since term 5", "made join token j-3", "made join token j-2"} {
		if got := list.Audit[i]; !strings.Contains(got.What, want) {
			t.Errorf("record %d says %q, want %q", i, got.What, want)
		}
	}
	if got := list.Audit[0]; got.By != "anna" || got.Node != "n-1" || got.Index == 0 || got.At.IsZero() {
		t.Errorf("the newest record is %+v", got)
	}
	for _, limit := range []string{"0", "10001", "-1", "x"} {
		answer(t, s, "GET", "/api/v1/audit?limit="+limit, "", 400)
	}
}

func TestHealthNamesTheLeader(t *testing.T) {
	node, s := newGallery(t)
	node.Membership.CutOff()
	if h := answer(t, s, "GET", "/api/v1/health", "", 200); h["leader"] != "" {
		t.Errorf("cut off, and the leader is %v", h["leader"])
	}
}

func TestNodeWithoutClusterSaysSo(t *testing.T) {
	cfg := apitest.NewNode().Config()
	cfg.Membership = nil
	s, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/api/v1/cluster", ""}, {"POST", "/api/v1/cluster/tokens", ""}, {"POST", "/api/v1/cluster/transfer", `{"to":""}`},
		{"DELETE", "/api/v1/cluster/nodes/n-1", ""}, {"GET", "/api/v1/backup", ""},
	} {
		answer(t, s, c.method, c.path, c.body, http.StatusNotImplemented)
	}
	if snap := s.Snapshot(s.Picture(), nil); snap.Cluster != nil {
		t.Errorf("the snapshot tells of a cluster: %+v", snap.Cluster)
	}
}

// cutShort writes a part of a backup and fails.
type cutShort struct {
	*apitest.Membership
	wrote string
}

func (c cutShort) Backup(_ context.Context, w io.Writer) error {
	_, err := io.WriteString(w, c.wrote)
	return errors.Join(err, errors.New("the disk is gone"))
}

func TestBackup(t *testing.T) {
	_, s := newGallery(t)
	w := call(s, "GET", "/api/v1/backup", "")
	if w.Code != 200 || w.Body.String() != "a backup" || w.Header().Get("Content-Type") != "application/octet-stream" ||
		!strings.HasPrefix(w.Header().Get("Content-Disposition"), `attachment; filename="lpmos-2026`) {
		t.Errorf("it answered %d %v %q", w.Code, w.Header(), w.Body)
	}
	// What goes wrong at once is told; what goes wrong later ends the connection,
	// so that nobody takes half a file for a backup.
	for _, wrote := range []string{"", "half"} {
		node := apitest.NewNode()
		cfg := node.Config()
		cfg.Membership = cutShort{node.Membership, wrote}
		s, err := api.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(apitest.SignedIn(s))
		res, err := http.Get(srv.URL + "/api/v1/backup")
		if err != nil {
			if wrote == "" {
				t.Errorf("an error before the first byte cut the connection: %v", err)
			}
			srv.Close()
			continue
		}
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
		if wrote == "" && (res.StatusCode != 500 || err != nil) || wrote != "" && err == nil {
			t.Errorf("after %q it answered %d (%v)", wrote, res.StatusCode, err)
		}
		srv.Close()
	}
}
