package appliance

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/agentserver"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// A node's own certificate is one that agents believe, and what it gives without
// TLS is no more than who knows no cluster needs.
func TestMachinesAreAnsweredAsTheyAsk(t *testing.T) {
	id, err := trust.Found(t.TempDir(), "", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	ok := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	mux.Handle("/chunk/", ok)
	mux.Handle("/manifest/", agentserver.OverTLS(ok))
	mux.Handle("/api/v1/agent/", agentserver.New(agentserver.Config{}).Handler())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	l := bothWays(raw, id)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	defer func() { srv.Close(); <-ended }()

	pinned := &http.Client{Transport: &http.Transport{TLSClientConfig: pin.NewVerifier(pin.Of(id.CA), time.Now).Config()}}
	defer pinned.CloseIdleConnections()
	for _, c := range []struct {
		scheme, path string
		want         int
	}{
		{"http", "/chunk/x", 200}, {"https", "/chunk/x", 200},
		{"http", "/manifest/x", 426}, {"https", "/manifest/x", 200},
		{"http", "/api/v1/agent/approval/x", 426}, {"https", "/api/v1/agent/approval/x", 401},
		{"http", "/metrics", 404}, {"https", "/metrics", 404}, {"http", "/debug/pprof/", 404}, {"https", "/", 404},
	} {
		res, err := pinned.Get(c.scheme + "://" + l.Addr().String() + c.path)
		if err != nil {
			t.Fatalf("%s %s: %v", c.scheme, c.path, err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d", c.scheme, c.path, res.StatusCode, c.want)
		}
	}
	if got := pin.Of(id.CA).Cluster(); got != id.Cluster {
		t.Errorf("by its pin it is cluster %s, and it is %s", got, id.Cluster)
	}
}

func TestClaimsOfANodeAreReadByAnother(t *testing.T) {
	secret := trust.NewSecret()
	one := claimSeam{(&trust.Identity{Node: "one", Secret: secret}).Claims()}
	two := claimSeam{(&trust.Identity{Node: "two", Secret: secret}).Claims()}
	at := netip.MustParseAddr("10.77.0.9")
	code, err := one.make("52:54:00:00:00:01", at)
	if err != nil {
		t.Fatal(err)
	}
	got, err := two.read(code)
	if left := time.Until(got.Expires); err != nil || got.MAC != "52:54:00:00:00:01" || got.IP != at || left > trust.ClaimLife || left < trust.ClaimLife-time.Minute {
		t.Errorf("%+v, %v", got, err)
	}
	for _, mac := range []string{"", "x", "00:01:02:03:04:05:06:07"} {
		if code, err := one.make(mac, at); err == nil {
			t.Errorf("a code for MAC %q: %s", mac, code)
		}
	}
}

// However many agents show one code at however many nodes, one session begins.
func TestS30_OneClaimAtThreeNodes(t *testing.T) {
	s := newSite(t)
	inv := apitest.Server()
	inv.NICs = []wire.NIC{{Name: "eno1", MAC: "52:54:00:00:00:01"}}
	code, err := s.claim(inv.NICs[0].MAC, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(wire.ReportRequest{BootID: "boot-0001", MAC: inv.NICs[0].MAC, IP: "10.77.0.9", Inventory: inv, Claim: code})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	answers := map[int]int{}
	winner := ""
	var wg sync.WaitGroup
	for i := range 30 {
		a := s.trust.Caller()
		wg.Go(func() {
			res, err := a.Do(t.Context(), "POST", s.servers[i%3].URL+"/api/v1/agent/report", body)
			if err != nil {
				t.Error(err)
				return
			}
			res.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			if answers[res.Status]++; res.Status == 200 {
				winner = a.Session()
			}
		})
	}
	wg.Wait()
	if answers[200] != 1 || answers[401] != 29 {
		t.Fatalf("answers: %v", answers)
	}
	for i, n := range s.c.Nodes {
		s.c.Until(fmt.Sprintf("node %d knows the session, and the alarm", i), func() (is bool) {
			n.View(func(st *fleet.State) {
				m := st.MachineBySession(winner)
				is = m != nil && !m.Doubled.IsZero() && len(st.Machines()) == 1
			})
			return is
		})
	}
}
