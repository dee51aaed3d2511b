package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/grant/granttest"
	"github.com/lpmos/lpmos/agent/pin/pintest"
	"github.com/lpmos/lpmos/agent/wire"
)

// rig is one agent with its node, its machine and its installer.
type rig struct {
	t       *testing.T
	srv     *httptest.Server
	cluster *pintest.Cluster
	known   string // the session that the last report began

	mu       sync.Mutex
	story    []string // what the node was told, in order
	reports  []wire.ReportRequest
	progress []wire.Progress
	logs     []string
	kept     bool                    // the end of the task was told with Keep
	verdicts []wire.ApprovalResponse // given one after the other; the last is "reboot"
	refuse   func(path string) int   // status to answer with; 0 serves
	inv      wire.Inventory
	slept    []time.Duration
	installs func(ctx context.Context, g wire.Grant, src Source, report func(wire.Progress)) error
	console  bytes.Buffer
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, inv: machine(), cluster: pintest.New(t)}
	r.installs = func(_ context.Context, _ wire.Grant, _ Source, report func(wire.Progress)) error {
		for _, s := range wire.Stages {
			_, to, _ := s.Span()
			report(wire.Progress{Stage: s, Percentage: to})
		}
		return nil
	}
	r.srv = r.cluster.Server(http.HandlerFunc(r.serve))
	return r
}

func machine() wire.Inventory {
	return wire.Inventory{
		System: wire.System{Serial: "SN1"},
		Disks:  []wire.Disk{{Name: "sda", Serial: "D1", SizeBytes: 1 << 30}},
		NICs:   []wire.NIC{{Name: "eth0", MAC: "52:54:00:aa:bb:01"}},
	}
}

// approved is what an approval of the rig's machine gives.
func approved() wire.Grant {
	p := wire.Plan{MachineID: "m1", InventoryHash: machine().Hash(), Image: wire.PlanImage{Name: "debian-12"},
		Erase: wire.PlanDisk{DiskID: wire.DiskID{Serial: "D1", SizeBytes: 1 << 30}}}
	return wire.Grant{TaskID: "t1", Generation: 2, Plan: p, PlanHash: p.Hash()}
}

// authority is that of the cluster of all rigs.
var authority = sync.OnceValue(func() *granttest.Authority { return granttest.New(&testing.T{}, time.Now) })

func (r *rig) tell(format string, args ...any) {
	r.story = append(r.story, fmt.Sprintf(format, args...))
}

// serve is the node.
func (r *rig) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := strings.TrimPrefix(q.URL.Path, "/api/v1/agent/")
	if r.refuse != nil {
		if status := r.refuse(path); status != 0 {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"title":"no","detail":"the node says no"}`)
			return
		}
	}
	session, err := signed(q)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return // an agent that ends cuts what it had begun to say
	}
	if err != nil {
		r.t.Errorf("%s: %v", path, err)
	}
	if path != "report" && session != r.known {
		w.WriteHeader(401)
		return
	}
	switch path {
	case "report":
		var req wire.ReportRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.reports, r.known = append(r.reports, req), session
		r.tell("report")
		_ = json.NewEncoder(w).Encode(wire.ReportResponse{MachineID: "m1"})
	case "approval/52:54:00:aa:bb:01":
		v := wire.ApprovalResponse{Verdict: wire.VerdictReboot, Reason: "that is all"}
		if len(r.verdicts) > 0 {
			v, r.verdicts = r.verdicts[0], r.verdicts[1:]
		}
		_ = json.NewEncoder(w).Encode(v)
	case "status":
		var req wire.StatusRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		code := ""
		if req.Error != nil {
			code = " " + req.Error.Code
		}
		r.tell("%s %s/%d%s", req.Status, req.TaskID, req.Generation, code)
		r.kept = r.kept || req.Keep
		w.WriteHeader(204)
	case "progress":
		var req wire.ProgressRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.progress = append(r.progress, req.Progress)
		r.tell("%s %.0f", req.Stage, req.Percentage)
		w.WriteHeader(204)
	case "log":
		var req wire.LogRequest
		err = json.NewDecoder(q.Body).Decode(&req)
		r.logs = append(r.logs, req.Lines...)
		w.WriteHeader(204)
	default:
		r.t.Errorf("the agent asks for %s", q.URL.Path)
		w.WriteHeader(404)
	}
	if err != nil {
		r.t.Errorf("%s: %v", path, err)
	}
}

// signed checks a request as a node does, and leaves its body to be read.
func signed(q *http.Request) (session string, err error) {
	if q.TLS == nil {
		return "", errors.New("it came without TLS")
	}
	exported, err := q.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterBytes)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return "", err
	}
	q.Body = io.NopCloser(bytes.NewReader(body))
	return wire.CheckRequest(q.Header.Get(wire.HeaderKey), q.Header.Get(wire.HeaderSignature), exported, q.Method, q.RequestURI, body)
}

// Install is the installer.
func (r *rig) Install(ctx context.Context, g wire.Grant, _ func() error, src Source, report func(wire.Progress)) error {
	r.mu.Lock()
	r.tell("install")
	f := r.installs
	r.mu.Unlock()
	return f(ctx, g, src, report)
}

func (r *rig) config() Config {
	return Config{
		Trust: r.cluster.Verifier(), Claim: "claim", Key: NewKey(), Nodes: []string{r.srv.URL}, MAC: "52:54:00:aa:bb:01", BootMAC: "52:54:00:aa:bb:02", IP: "10.77.0.100", Version: "test",
		Collect: func() wire.Inventory {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.inv
		},
		Grants: authority().Checker(), Installer: r, Console: NewConsole(&r.console, time.Now),
		Sleep: func(ctx context.Context, d time.Duration) error {
			r.mu.Lock()
			if d != logEvery && d != progressEvery {
				r.slept = append(r.slept, d)
			}
			r.mu.Unlock()
			return sleep(ctx, time.Millisecond)
		},
	}
}

func (r *rig) run(cfg Config) Outcome {
	r.t.Helper()
	a, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := a.Run(ctx)
	if err != nil {
		r.t.Fatalf("%v\n%s", err, r.console.String())
	}
	return out
}

func (r *rig) told(want ...string) {
	r.t.Helper()
	if !slices.Equal(r.story, want) {
		r.t.Errorf("the node was told\n  %s\nwant\n  %s", strings.Join(r.story, ", "), strings.Join(want, ", "))
	}
}

func install() wire.ApprovalResponse { return installing(approved()) }

func installing(g wire.Grant) wire.ApprovalResponse {
	signed := authority().Sign(authority().Fill(g))
	return wire.ApprovalResponse{Verdict: wire.VerdictInstall, SignedGrant: &signed}
}
