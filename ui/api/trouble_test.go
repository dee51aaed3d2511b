package api_test

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// troubled is a cluster whose every command ends with an error.
type troubled struct {
	api.Cluster
	err error
}

func (c troubled) Propose(context.Context, fleet.Body) (any, error) { return nil, c.err }

func withTrouble(t *testing.T, err error) (*apitest.Node, *api.Server) {
	t.Helper()
	node := apitest.NewNode()
	if err := apitest.Gallery(node); err != nil {
		t.Fatal(err)
	}
	cfg := node.Config()
	cfg.Cluster = troubled{node.Cluster, err}
	node.Membership.Fail(err)
	s, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return node, s
}

// TestTroubleSaysWhetherToRepeat: a command that was not taken is safe to repeat,
// one that may have been carried out is not.
func TestTroubleSaysWhetherToRepeat(t *testing.T) {
	for name, c := range map[string]struct {
		err        error
		says       string
		retryAfter string
		status     int // 503 if 0
	}{
		"no leader":           {fmt.Errorf("%w: no leader", consensus.ErrNotReady), "nothing was done; try again", "2", 0},
		"gone before it":      {fmt.Errorf("%w: %w", consensus.ErrNotReady, context.Canceled), "nothing was done; try again", "2", 0},
		"gone during it":      {fmt.Errorf("%w: %w", consensus.ErrUncertain, context.DeadlineExceeded), "it may have been done; look before you repeat it", "", 0},
		"leader lost":         {fmt.Errorf("%w: leadership lost", consensus.ErrUncertain), "it may have been done; look before you repeat it", "", 0},
		"cut off":             {consensus.ErrCutOff, "cannot reach a majority of the cluster, so nothing was done", "2", 0},
		"cut off during it":   {fmt.Errorf("%w: %w", consensus.ErrUncertain, consensus.ErrCutOff), "it may have been done; look before you repeat it", "", 0},
		"disk full":           {consensus.ErrNoSpace, "no room for its log", "", http.StatusInsufficientStorage},
		"disk full during it": {fmt.Errorf("%w: %w", consensus.ErrUncertain, consensus.ErrNoSpace), "it may have been done; look before you repeat it", "", 0},
	} {
		_, s := withTrouble(t, c.err)
		status := cmp.Or(c.status, http.StatusServiceUnavailable)
		for _, write := range []struct{ method, path, body, kind string }{
			{"POST", "/api/v1/tasks", `{"machine_id":"m-01","os_type":"debian","os_version":"12"}`, "application/json"},
			{"PUT", "/api/v1/tasks/t-03/approve", `{"approved":false}`, "application/json"},
			{"DELETE", "/api/v1/machines/m-18", "", ""},
			{"POST", "/api/v1/images?name=mine-1", "disk image", "application/octet-stream"},
			{"POST", "/api/v1/cluster/tokens", "", ""},
			{"DELETE", "/api/v1/cluster/nodes/n-2", "", ""},
			{"POST", "/api/v1/cluster/transfer", `{"to":"n-2"}`, "application/json"},
		} {
			w := call(s, write.method, write.path, write.body, "Content-Type", write.kind)
			if w.Code != status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%s: %s %s answered %d %s", name, write.method, write.path, w.Code, w.Body)
			}
			if got := w.Header().Get("Retry-After"); got != c.retryAfter {
				t.Errorf("%s: %s %s: Retry-After is %q, want %q", name, write.method, write.path, got, c.retryAfter)
			}
			if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("%s: %s %s is %q", name, write.method, write.path, got)
			}
		}
	}
}

// TestRepeatedTooLate: a rule that cannot know any more whether it was followed
// before says so, and does not invite to repeat.
func TestRepeatedTooLate(t *testing.T) {
	_, s := withTrouble(t, &fleet.Error{Code: fleet.Uncertain, Message: "it is not known any more whether this was done before; look before you ask again"})
	w := call(s, "DELETE", "/api/v1/machines/m-18", "")
	if w.Code != http.StatusConflict || w.Header().Get("Retry-After") != "" || !strings.Contains(w.Body.String(), "look before you ask again") {
		t.Errorf("it answered %d %s", w.Code, w.Body)
	}
}

// TestImageThatMayBeKnownKeepsItsBytes: deleting them would leave an image that
// nobody can install.
func TestImageThatMayBeKnownKeepsItsBytes(t *testing.T) {
	for _, c := range []struct {
		err  error
		kept int
	}{{consensus.ErrNotReady, 0}, {consensus.ErrUncertain, 1}} {
		node, s := withTrouble(t, c.err)
		before := node.Images.Stored()
		call(s, "POST", "/api/v1/images?name=mine-1", "disk image", "Content-Type", "application/octet-stream")
		if got := node.Images.Stored() - before; got != c.kept {
			t.Errorf("%v: %d new images are kept, want %d", c.err, got, c.kept)
		}
	}
}
