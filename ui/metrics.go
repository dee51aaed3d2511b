package ui

import (
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lpmos/lpmos/consensus"
)

// scrapes is how many may read the figures at once.
const scrapes = 4

// metrics serves a node's figures as Prometheus reads them, out of a registry of
// its own: nothing else in the process can add to it.
func metrics(h *hub) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		figures{h}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: scrapes,
		ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelError)}), nil
}

// figures collects what the node knows at the moment it is asked.
type figures struct{ hub *hub }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("lpmos_"+name, help, labels, nil)
}

// What is told, under names that are kept: people build graphs and alarms on them.
var (
	descBuild     = describe("build_info", "Always 1; says which version this node runs.", "version", "node", "region")
	descTerm      = describe("raft_term", "The election term; it rises with every change of the leader.")
	descLeads     = describe("raft_is_leader", "1 on the node that leads.")
	descApplied   = describe("raft_applied_index", "Index of the state that people see on this node.")
	descCommitted = describe("raft_commit_index", "Highest index known to be agreed on.")
	descQuorum    = describe("raft_quorum", "1 while a majority is in reach.")
	descPeerLag   = describe("raft_peer_lag_entries", "Entries a node is behind what is agreed on.", "peer", "name")
	descPeerTrip  = describe("raft_peer_round_trip_seconds", "How long a node takes to answer.", "peer", "name")
	descPeerClock = describe("raft_peer_clock_offset_seconds", "A node's clock less the one of this node.", "peer", "name")
	descPeerThere = describe("raft_peer_reachable", "1 while a node answers.", "peer", "name")
	descCommit    = describe("commit_seconds", "How long commands proposed on this node took until they were agreed on and applied.")
	descFsync     = describe("fsync_seconds", "How long a write of the log took with its fsync.")
	descProgress  = describe("progress_entries_total", "Entries with progress of installs that this node gave to the log.")
	descWatchers  = describe("feed_watchers", "Dashboards and scripts that follow the feed on this node.")
	descFeedLag   = describe("feed_lag", "Changes that the slowest of those who follow the feed has not been told yet.")
	descMachines  = describe("machines", "Machines by phase.", "phase")
	descTasks     = describe("tasks", "Tasks by status.", "status")
	descTransfers = describe("boot_transfers", "Kernels and initramfs on their way to machines, and those that wait for their turn.", "state")
	descNetboot   = describe("netboot_events_total", "What was heard and answered on the networks this node boots machines on.", "event")
)

// Describe names all that Collect may tell.
func (f figures) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descBuild, descTerm, descLeads, descApplied, descCommitted, descQuorum,
		descPeerLag, descPeerTrip, descPeerClock, descPeerThere, descCommit, descFsync, descProgress,
		descWatchers, descFeedLag, descMachines, descTasks, descNetboot, descTransfers} {
		out <- d
	}
}

// Collect tells how things are now.
func (f figures) Collect(out chan<- prometheus.Metric) {
	cfg := f.hub.cfg.API
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- valid(d)(prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...))
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- valid(d)(prometheus.NewConstMetric(d, prometheus.CounterValue, float64(v), labels...))
	}
	gauge(descBuild, 1, cfg.Version, cfg.Name, cfg.Region)
	if cfg.Membership != nil {
		collectCluster(cfg.Membership.Status(), gauge)
	}
	if f.hub.cfg.Figures != nil {
		n := f.hub.cfg.Figures()
		out <- histogram(descCommit, n.Commit)
		out <- histogram(descFsync, n.Fsync)
		count(descProgress, n.Flushes)
	}
	watchers, lag := 0, 0
	f.hub.each(func(v *viewer) {
		watchers++
		lag = max(lag, v.waiting())
	})
	gauge(descWatchers, float64(watchers))
	gauge(descFeedLag, float64(lag))
	stats := f.hub.pulse().stats
	for phase, n := range stats.Machines {
		gauge(descMachines, float64(n), string(phase))
	}
	for status, n := range stats.Tasks {
		gauge(descTasks, float64(n), string(status))
	}
	for event, n := range cfg.Sightings.Counters() {
		count(descNetboot, n, event)
	}
	transfers := cfg.Sightings.Transfers()
	gauge(descTransfers, float64(transfers.Running), "running")
	gauge(descTransfers, float64(transfers.Waiting), "waiting")
}

func collectCluster(st consensus.Status, gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(descTerm, float64(st.Term))
	gauge(descLeads, oneIf(st.Leader == st.Node))
	gauge(descApplied, float64(st.Applied))
	gauge(descCommitted, float64(st.Committed))
	gauge(descQuorum, oneIf(st.Quorum))
	for _, m := range st.Members {
		if m.ID == st.Node {
			continue
		}
		gauge(descPeerLag, float64(m.Lag), m.ID, m.Name)
		gauge(descPeerTrip, m.RoundTrip/1000, m.ID, m.Name)
		gauge(descPeerClock, m.ClockOff, m.ID, m.Name)
		gauge(descPeerThere, oneIf(m.Reachable), m.ID, m.Name)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func histogram(d *prometheus.Desc, h consensus.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Bounds))
	for i, le := range h.Bounds {
		buckets[le] = h.Counts[i]
	}
	return valid(d)(prometheus.NewConstHistogram(d, h.Count, h.Sum, buckets))
}

// valid turns a figure that cannot be told, as one with a name that is no text,
// into an error of this reading. It may not end the node.
func valid(d *prometheus.Desc) func(prometheus.Metric, error) prometheus.Metric {
	return func(m prometheus.Metric, err error) prometheus.Metric {
		if err != nil {
			return prometheus.NewInvalidMetric(d, err)
		}
		return m
	}
}
