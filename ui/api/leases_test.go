package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// What is kept for a known machine is no node's to take back, and viewers take
// nothing back.
func TestLeasesAreTakenBackByWhoMay(t *testing.T) {
	node, s := newGallery(t)
	var kept string
	node.Cluster.View(func(st *fleet.State) {
		for _, m := range st.Machines() {
			for _, addr := range m.Addresses {
				kept = addr
			}
		}
	})
	if kept == "" {
		t.Fatal("no machine of the gallery keeps an address")
	}
	node.Leases.Lend(api.Lease{Address: "10.9.9.9", State: api.LeaseLent, MAC: "52:54:00:00:0a:01"})
	for _, c := range []struct {
		address string
		status  int
		says    string
	}{
		{kept, http.StatusConflict, "is kept for machine"},
		{"10.9.9.8", http.StatusNotFound, "has not lent 10.9.9.8"},
		{"10.9.9", http.StatusBadRequest, "is no IPv4 address"},
		{"::1", http.StatusBadRequest, "is no IPv4 address"},
	} {
		if got := answer(t, s, http.MethodPost, "/api/v1/leases/"+c.address+"/release", "", c.status); !strings.Contains(got["detail"].(string), c.says) {
			t.Errorf("%s: %v", c.address, got)
		}
	}
	for need, n := range map[string]door.Need{"GET /api/v1/leases": door.Viewer, "POST /api/v1/leases/{address}/release": door.Operator} {
		if s.Routes()[need] != n {
			t.Errorf("%s needs %q, want %q", need, s.Routes()[need], n)
		}
	}
	if got := answer(t, s, http.MethodPost, "/api/v1/leases/10.9.9.9/release", "", 200); got["mac"] != "52:54:00:00:0a:01" {
		t.Errorf("%v", got)
	}
	if n := len(node.Leases.Leases()); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}
