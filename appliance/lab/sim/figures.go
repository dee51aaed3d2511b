package sim

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"
)

// Result is what a run has measured.
type Result struct {
	Machines  int              `json:"machines"`
	Agents    int              `json:"agents"` // that have reported
	Wanted    int              `json:"installs_wanted"`
	Installed int              `json:"installed"` // and up from their disks
	Seconds   float64          `json:"seconds"`
	Steps     []Step           `json:"steps"`
	Packets   int              `json:"dhcp_packets"` // that machines have sent
	Lost      int              `json:"dhcp_packets_lost"`
	Bytes     int64            `json:"boot_bytes"`        // of loaders, kernels and initramfs
	Dials     int64            `json:"agent_connections"` // that agents have opened
	Restarts  map[string]int   `json:"restarts,omitempty"`
	Trouble   map[string]int   `json:"trouble,omitempty"`
	Nodes     map[string]Usage `json:"nodes,omitempty"`
	// Counters are what each node has counted on the wire, by its name.
	Counters map[string]map[string]uint64 `json:"counters,omitempty"`
}

// Step is how long one step took, in seconds, over all who went through it.
type Step struct {
	Name    string  `json:"step"`
	N       int     `json:"n"`
	P50     float64 `json:"p50"`
	P95     float64 `json:"p95"`
	P99     float64 `json:"p99"`
	Max     float64 `json:"max"`
	Retries int     `json:"retries"` // packets sent once more
	Failed  int     `json:"failed"`
}

// Step finds a step by its name; nil when nobody came to it.
func (r Result) Step(name string) *Step {
	i := slices.IndexFunc(r.Steps, func(s Step) bool { return s.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Steps[i]
}

// order is that of a boot.
var order = []string{"firmware offer", "firmware ack", "loader", "iPXE offer", "iPXE ack", "script", "kernel", "initrd", "agent offer", "agent ack",
	stepReport, "dhcp", stepLate, stepPower, stepApproval, stepFirstByte, stepInstalled, stepUp}

// figures collects what machines tell.
type figures struct {
	mu       sync.Mutex
	steps    map[string]*samples
	restarts map[string]int
	troubles map[string]int
}

type samples struct {
	took   []float64
	again  int
	failed int
}

func newFigures() *figures {
	return &figures{steps: map[string]*samples{}, restarts: map[string]int{}, troubles: map[string]int{}}
}

func (f *figures) add(name string, took time.Duration, again int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.steps[name]
	if s == nil {
		s = &samples{}
		f.steps[name] = s
	}
	s.again += max(again, 0)
	if err != nil {
		s.failed++
		return
	}
	s.took = append(s.took, took.Seconds())
}

// restart counts a boot that failed, by why: without what is different of each.
func (f *figures) restart(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.restarts[plain(err.Error())]++
}

func (f *figures) trouble(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.troubles[plain(text)]++
}

// plain takes addresses, paths and numbers out of a sentence.
func plain(text string) string {
	var b strings.Builder
	for _, word := range strings.Fields(text) {
		if strings.ContainsAny(word, "0123456789") {
			word = "…"
		}
		b.WriteString(word + " ")
	}
	return strings.TrimSpace(b.String())
}

func (r *run) result(took time.Duration) Result {
	r.fig.mu.Lock()
	defer r.fig.mu.Unlock()
	res := Result{Machines: r.Machines, Agents: len(r.reported), Wanted: r.Install, Installed: len(r.up), Seconds: took.Seconds(),
		Bytes: r.bytes.get(), Dials: r.dials.get(), Restarts: r.fig.restarts, Trouble: r.fig.troubles}
	r.wire.mu.Lock()
	res.Packets, res.Lost = r.wire.sent, r.wire.lost
	r.wire.mu.Unlock()
	for name, s := range r.fig.steps {
		slices.Sort(s.took)
		step := Step{Name: name, N: len(s.took), Retries: s.again, Failed: s.failed}
		step.P50, step.P95, step.P99, step.Max = quantile(s.took, 0.5), quantile(s.took, 0.95), quantile(s.took, 0.99), quantile(s.took, 1)
		res.Steps = append(res.Steps, step)
	}
	slices.SortFunc(res.Steps, func(a, b Step) int { return slices.Index(order, a.Name) - slices.Index(order, b.Name) })
	return res
}

// quantile of sorted values, by the nearest rank: one that was really measured.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// Print writes the result for people.
func (r Result) Print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "step\tn\tp50\tp95\tp99\tmax\tretries\tfailed\t")
	for _, s := range r.Steps {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t\n", s.Name, s.N, duration(s.P50), duration(s.P95), duration(s.P99), duration(s.Max), s.Retries, s.Failed)
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d of %d machines reached the agent", r.Agents, r.Machines)
	if r.Wanted > 0 {
		fmt.Fprintf(w, ", %d of %d are installed and up", r.Installed, r.Wanted)
	}
	fmt.Fprintf(w, ", in %.1f s. They sent %d DHCP packets, %.1f each", r.Seconds, r.Packets, float64(r.Packets)/float64(r.Machines))
	if r.Lost > 0 {
		fmt.Fprintf(w, " (%d packets were lost)", r.Lost)
	}
	fmt.Fprintf(w, ", fetched %.2f GB to boot and opened %d connections as agents.\n", float64(r.Bytes)/1e9, r.Dials)
	for _, name := range sorted(r.Restarts) {
		fmt.Fprintf(w, "%d times a boot began anew: %s\n", r.Restarts[name], name)
	}
	for _, name := range sorted(r.Trouble) {
		fmt.Fprintf(w, "%d times: %s\n", r.Trouble[name], name)
	}
	for _, name := range sorted(r.Nodes) {
		n := r.Nodes[name]
		fmt.Fprintf(w, "%s: %.1f s of processor time, at most %.0f MB of memory\n", name, n.CPUSeconds, float64(n.MaxRSS)/1e6)
	}
	for _, name := range sorted(r.Counters) {
		var told []string
		for _, event := range sorted(r.Counters[name]) {
			if worth(event) && r.Counters[name][event] > 0 {
				told = append(told, fmt.Sprintf("%s %d", event, r.Counters[name][event]))
			}
		}
		if len(told) > 0 {
			fmt.Fprintf(w, "%s counted: %s\n", name, strings.Join(told, ", "))
		}
	}
}

// worth says whether people should be shown what a node counted: what it did not do, and
// what had to wait.
func worth(event string) bool {
	for _, word := range []string{"drop", "refused", "failed", "panic", "wait", "dhcp.nak", "not found", "wrong"} {
		if strings.Contains(event, word) {
			return true
		}
	}
	return false
}

func sorted[T any](m map[string]T) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// duration is seconds as people read them.
func duration(s float64) string {
	switch {
	case s < 0.0995:
		return fmt.Sprintf("%.1f ms", s*1000)
	case s < 9.95:
		return fmt.Sprintf("%.2f s", s)
	}
	return fmt.Sprintf("%.1f s", s)
}

// counter counts what many machines do.
type counter struct{ n atomic.Int64 }

func (c *counter) add(n int64) { c.n.Add(n) }
func (c *counter) get() int64  { return c.n.Load() }
