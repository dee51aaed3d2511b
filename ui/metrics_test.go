package ui

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

func figuresOfTest() consensus.Figures {
	h := consensus.Histogram{Bounds: []float64{0.001, 0.01}, Counts: []uint64{3, 40}, Sum: 0.6, Count: 41}
	return consensus.Figures{Commit: h, Fsync: h, Flushes: 12}
}

// scrape reads the figures as Prometheus does.
func scrape(t *testing.T, u *UI) map[string]*dto.MetricFamily {
	t.Helper()
	res := get(u, "GET", "/metrics")
	if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Fatalf("it answered %d as %q", res.StatusCode, res.Header.Get("Content-Type"))
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// value finds the one value with these labels, as name=value.
func value(t *testing.T, all map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	for _, m := range all[name].GetMetric() {
		has := map[string]bool{}
		for _, l := range m.GetLabel() {
			has[l.GetName()+"="+l.GetValue()] = true
		}
		fits := true
		for _, l := range labels {
			fits = fits && has[l]
		}
		if fits {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	t.Errorf("there is no %s with %v", name, labels)
	return 0
}

func TestMetricsTellHowTheNodeIs(t *testing.T) {
	node, u := newUI(t, func(c *Config) { c.Figures = figuresOfTest })
	node.Membership.Silence()
	// One who looks and does not read: two changes wait for it.
	v := u.hub.newViewer(apitest.Anna, func(context.Context, []byte) error { return nil })
	if !u.hub.join(v) {
		t.Fatal("nobody is let in")
	}
	v.mu.Lock()
	for _, id := range []string{"t-01", "t-02", "t-02"} {
		v.pour(fleet.Event{Type: fleet.EventTaskDeleted, TaskID: id})
	}
	v.mu.Unlock()
	all := scrape(t, u)
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"lpmos_build_info", []string{"version=test", "node=n1", "region=dc1"}, 1},
		{"lpmos_raft_term", nil, 4},
		{"lpmos_raft_is_leader", nil, 1},
		{"lpmos_raft_applied_index", nil, 1204},
		{"lpmos_raft_commit_index", nil, 1204},
		{"lpmos_raft_quorum", nil, 1},
		{"lpmos_raft_peer_lag_entries", []string{"peer=n-3", "name=n3"}, 412},
		{"lpmos_raft_peer_round_trip_seconds", []string{"peer=n-2"}, 0.0004},
		{"lpmos_raft_peer_clock_offset_seconds", []string{"peer=n-3"}, 3.2},
		{"lpmos_raft_peer_reachable", []string{"peer=n-2"}, 1},
		{"lpmos_raft_peer_reachable", []string{"peer=n-3"}, 0},
		{"lpmos_progress_entries_total", nil, 12},
		{"lpmos_feed_watchers", nil, 1},
		{"lpmos_feed_lag", nil, 2},
		{"lpmos_machines", []string{"phase=failed"}, 3},
		{"lpmos_tasks", []string{"status=installing"}, 5},
		{"lpmos_boot_transfers", []string{"state=running"}, 3},
		{"lpmos_boot_transfers", []string{"state=waiting"}, 0},
		{"lpmos_netboot_events_total", []string{"event=dhcp.drop.malformed"}, 1},
	} {
		if got := value(t, all, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	if n := len(all["lpmos_raft_peer_reachable"].GetMetric()); n != 2 {
		t.Errorf("%d peers are told; the node itself is none", n)
	}
	for _, name := range []string{"lpmos_commit_seconds", "lpmos_fsync_seconds"} {
		h := all[name].GetMetric()[0].GetHistogram()
		if h.GetSampleCount() != 41 || h.GetSampleSum() != 0.6 || len(h.GetBucket()) != 3 || h.GetBucket()[1].GetCumulativeCount() != 40 {
			t.Errorf("%s is %v", name, h)
		}
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
		if all[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestMetricsReadAsPrometheusWants asks the check that promtool has.
func TestMetricsReadAsPrometheusWants(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.Figures = figuresOfTest })
	found, err := promlint.New(get(u, "GET", "/metrics").Body).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range found {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestNameThatIsNoTextEndsNothing: a figure that cannot be told is an error of
// the answer.
func TestNameThatIsNoTextEndsNothing(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.API.Name = "\xff" })
	if res := get(u, "GET", "/metrics"); res.StatusCode != http.StatusInternalServerError {
		t.Errorf("it answered %d", res.StatusCode)
	}
}

func TestMetricsOfANodeAlone(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.API.Membership = nil })
	all := scrape(t, u)
	if all["lpmos_raft_term"] != nil || all["lpmos_commit_seconds"] != nil || all["lpmos_machines"] == nil {
		t.Errorf("a node of no cluster tells %d figures", len(all))
	}
	if res := get(u, "POST", "/metrics", "Sec-Fetch-Site", "same-origin"); res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a POST was answered %d", res.StatusCode)
	}
	if b, err := io.ReadAll(get(u, "GET", "/metrics").Body); err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("the figures tell a secret (%v)", err)
	}
}
