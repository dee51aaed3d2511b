package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/firstbyte"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
)

// ends runs an agent that has to come to an end by an error.
func (r *rig) ends(cfg Config) error {
	r.t.Helper()
	a, err := New(cfg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := a.Run(ctx)
	if err == nil || ctx.Err() != nil {
		r.t.Fatalf("outcome %q, %v\n%s", out, err, r.console.String())
	}
	return err
}

// behind is the rig's node behind another way of speaking TLS.
func (r *rig) behind(cfg *tls.Config) *httptest.Server {
	s := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	s.Listener = firstbyte.New(s.Listener, firstbyte.Config{TLS: cfg})
	s.Start()
	s.URL = "https://" + s.Listener.Addr().String()
	r.t.Cleanup(s.Close)
	return s
}

func TestS56_AnAgentBelievesThePinAlone(t *testing.T) {
	foreign := pintest.New(t)
	for name, c := range map[string]struct {
		spoil func(*rig, *Config)
		says  string
	}{
		"no pin":                     {func(_ *rig, c *Config) { c.Trust = nil }, "lpmos.pin"},
		"the pin of another cluster": {func(_ *rig, c *Config) { c.Trust = foreign.Verifier() }, "authority with the pin"},
		"a node of another cluster": {func(r *rig, c *Config) {
			c.Nodes = []string{r.behind(&tls.Config{Certificates: []tls.Certificate{foreign.Certificate(nil)}}).URL}
		}, "authority with the pin"},
		"every node of another cluster": {func(r *rig, c *Config) {
			c.Nodes = nil
			for range 3 {
				c.Nodes = append(c.Nodes, r.behind(&tls.Config{Certificates: []tls.Certificate{foreign.Certificate(nil)}}).URL)
			}
		}, "authority with the pin"},
		"TLS 1.2": {func(r *rig, c *Config) {
			c.Nodes = []string{r.behind(&tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{r.cluster.Certificate(nil)}}).URL}
		}, "protocol version"},
		"no TLS": {func(r *rig, c *Config) {
			s := httptest.NewServer(http.HandlerFunc(r.serve))
			r.t.Cleanup(s.Close)
			c.Nodes = []string{"https://" + s.Listener.Addr().String()}
		}, "TLS handshake"},
		"no https": {func(r *rig, c *Config) { c.Nodes = []string{wire.PlainURL(r.srv.URL)} }, "no node to talk to"},
		"a certificate that is no node's": {func(r *rig, c *Config) {
			cert := r.cluster.Certificate(func(c *x509.Certificate) {
				c.DNSNames = []string{"grant." + r.cluster.Pin().Cluster() + ".lpmos.internal"}
			})
			c.Nodes = []string{r.behind(&tls.Config{Certificates: []tls.Certificate{cert}}).URL}
		}, "no node of cluster"},
		"a certificate that has ended": {func(r *rig, c *Config) {
			c.Trust = pin.NewVerifier(r.cluster.Pin(), func() time.Time { return time.Now().AddDate(1, 0, 0) })
		}, "holds from"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.verdicts = []wire.ApprovalResponse{install()}
			cfg := r.config()
			c.spoil(r, &cfg)
			if err := r.ends(cfg); !strings.Contains(err.Error(), c.says) {
				t.Errorf("it ended with %q, want %q", err, c.says)
			}
			r.told()
		})
	}
}

func TestS56_RedirectsAreNotFollowed(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	asked := 0
	lure := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked++ }))
	defer lure.Close()
	sends := 0
	away := r.cluster.Server(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		sends++
		http.Redirect(w, q, lure.URL+q.URL.Path, http.StatusTemporaryRedirect)
	}))
	cfg := r.config()
	cfg.Nodes = []string{away.URL, r.srv.URL}
	r.run(cfg)
	if asked != 0 || sends == 0 || !strings.Contains(r.console.String(), "redirects are not followed") {
		t.Errorf("%d requests where a node sent it, which did so %d times; console:\n%s", asked, sends, r.console.String())
	}
}

// One that is not believed is left for another, as one that is gone.
func TestAStrangerAmongTheNodesIsPassedOver(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	foreign := pintest.New(t)
	cfg := r.config()
	cfg.Nodes = []string{foreign.Server(http.HandlerFunc(r.serve)).URL, r.srv.URL}
	believed := 0
	cfg.Believed = func() { believed++ }
	if out := r.run(cfg); out != OutcomeInstalled || believed != 1 {
		t.Errorf("outcome %q, %d nodes believed first", out, believed)
	}
	if !strings.Contains(r.console.String(), "authority with the pin") {
		t.Errorf("it is not said:\n%s", r.console.String())
	}
}

func TestABootThatIsNotAcceptedEnds(t *testing.T) {
	r := newRig(t)
	r.refuse = func(path string) int { return map[string]int{"report": 401}[path] }
	if err := r.ends(r.config()); !errors.Is(err, ErrClaim) || !strings.Contains(err.Error(), "the node says no") {
		t.Errorf("it ended with %v", err)
	}
	// So does one whose session is lost while it waits.
	r = newRig(t)
	r.verdicts = []wire.ApprovalResponse{{Verdict: wire.VerdictReport}}
	r.refuse = func(path string) int {
		if path == "report" && len(r.reports) > 0 {
			return 401
		}
		return 0
	}
	if err := r.ends(r.config()); !errors.Is(err, ErrClaim) {
		t.Errorf("it ended with %v", err)
	}
}

// The machine's clock does not count, only the time it was told: S53 for the agent.
func TestS53_TheTimeOfTheBootScriptCounts(t *testing.T) {
	r := newRig(t)
	r.verdicts = []wire.ApprovalResponse{install()}
	for _, wrong := range []time.Time{time.Unix(0, 0), time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)} {
		cfg := r.config()
		cfg.Now = func() time.Time { return wrong }
		cfg.ClockOff = int64(time.Until(wrong) / time.Second)
		r.run(cfg)
		if got := r.reports[len(r.reports)-1].ClockOff; got != cfg.ClockOff {
			t.Errorf("a clock %d s off was reported as %d", cfg.ClockOff, got)
		}
	}
}
