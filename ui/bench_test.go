package ui

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// BenchmarkHub1000x10 lets 1,000 machines report ten times a second and one
// viewer look, over a real WebSocket. One operation is one tick of a tenth of a
// second. It reports the frames a second, the values told a second, and how old
// the newest value of a machine is when it arrives.
func BenchmarkHub1000x10(b *testing.B) {
	const machines = 1000
	for _, rows := range []int{machines, 40} {
		b.Run(fmt.Sprintf("rows=%d", rows), func(b *testing.B) { benchmarkHub(b, machines, rows) })
	}
}

func benchmarkHub(b *testing.B, machines, rows int) {
	node := apitest.NewNode()
	cfg := node.Config()
	cfg.Now = time.Now
	tasks := installing(b, node.Cluster, machines)
	u, err := New(Config{API: cfg, Static: Static()})
	if err != nil {
		b.Fatal(err)
	}
	srv := httptest.NewServer(apitest.SignedIn(u))
	defer srv.Close()
	defer u.Close()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	conn, _, err := websocket.Dial(ctx, srv.URL+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {srv.URL}}})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	if rows < machines {
		sub := api.Subscribe{Type: "subscribe"}
		for i := range rows {
			sub.Rows = append(sub.Rows, machineName(i))
		}
		frame, err := json.Marshal(sub)
		if err != nil {
			b.Fatal(err)
		}
		if err := conn.Write(ctx, websocket.MessageText, frame); err != nil {
			b.Fatal(err)
		}
	}

	// Each value says when it was made, in the figure that nobody reads here.
	start := time.Now()
	var (
		ages          []time.Duration
		frames, bytes int
	)
	newest := map[string]uint64{}
	done := make(chan error, 1)
	last := uint64(b.N)
	complete := make(chan struct{})
	go func() {
		reached := 0
		for {
			_, data, err := conn.Read(ctx)
			if err != nil {
				done <- err
				return
			}
			frames, bytes = frames+1, bytes+len(data)
			var f api.Frame
			if json.Unmarshal(data, &f) != nil || f.Type != api.FrameProgressBatch {
				continue // a snapshot or a count
			}
			now := uint64(time.Since(start))
			for _, i := range f.Items {
				d := i.Progress.Details
				if i.MachineID < machineName(rows) {
					ages = append(ages, time.Duration(now-d.BytesDownloaded))
				}
				if d.BytesTotal == last && newest[i.TaskID] != last {
					reached++
				}
				newest[i.TaskID] = d.BytesTotal
			}
			if reached == machines {
				close(complete)
				return
			}
		}
	}()

	b.ResetTimer()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := range b.N {
		for _, id := range tasks {
			node.Cluster.Progress(id, wire.Progress{Stage: wire.StageDownloading, Percentage: 20 + 40*float64(n)/float64(b.N),
				Details: wire.ProgressDetails{BytesDownloaded: uint64(time.Since(start)), BytesTotal: uint64(n + 1), SpeedMbps: 900}})
		}
		<-tick.C
	}
	b.StopTimer()
	// The last value of every machine arrives: nobody was left behind.
	select {
	case <-complete:
	case err := <-done:
		b.Fatal(err)
	case <-time.After(30 * time.Second):
		b.Fatal("the viewer has fallen behind")
	}
	slices.Sort(ages)
	seconds := time.Since(start).Seconds()
	b.ReportMetric(float64(frames)/seconds, "frames/s")
	b.ReportMetric(float64(len(ages))/seconds, "values/s")
	b.ReportMetric(float64(bytes)/seconds/1000, "kB/s")
	b.ReportMetric(float64(ages[len(ages)/2].Microseconds())/1000, "age-p50-ms")
	b.ReportMetric(float64(ages[len(ages)*95/100].Microseconds())/1000, "age-p95-ms")
}

func machineName(i int) string { return fmt.Sprintf("m-%05d", i) }

// installing makes so many machines that install, and gives their tasks.
func installing(b *testing.B, cluster api.Cluster, machines int) (tasks []string) {
	do := func(body fleet.Body) error {
		_, err := cluster.Propose(b.Context(), body)
		return err
	}
	if err := do(fleet.PutImage{Image: fleet.Image{Name: "tiny", OSType: "tiny", Digest: fmt.Sprintf("%064x", 7), SizeBytes: 64 << 20, Sector: 512}}); err != nil {
		b.Fatal(err)
	}
	if err := do(consensustest.OneWord()); err != nil {
		b.Fatal(err)
	}
	var many errgroup.Group
	many.SetLimit(32) // a node that writes a disk for each command takes many at once
	for i := range machines {
		id := fmt.Sprintf("t-%05d", i)
		tasks = append(tasks, id)
		many.Go(func() error {
			mac, session := fmt.Sprintf("52:54:00:%02x:%02x:01", i>>8, i&255), fmt.Sprint("s", i)
			inv := apitest.Server()
			inv.NICs = []wire.NIC{{Name: "eno1", MAC: mac}}
			inv.System.UUID, inv.System.Serial = fmt.Sprintf("4c4c4544-0035-4d10-8052-%012x", i), fmt.Sprint("S", i)
			if err := do(fleet.ReportMachine{NewID: machineName(i), RegionID: "dc1", BootID: "b", SessionHash: session, MAC: mac, Inventory: inv}); err != nil {
				return err
			}
			if err := do(fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: mac, PhoneToken: id, Spec: fleet.Spec{OSType: "tiny"}}); err != nil {
				return err
			}
			var hash string
			cluster.View(func(s *fleet.State) { hash = s.Task(id).PlanHash })
			if err := do(fleet.DecideTask{TaskID: id, Approved: true, PlanHash: hash, By: "bench"}); err != nil {
				return err
			}
			return do(fleet.StartInstall{TaskID: id, Generation: 1, PlanHash: hash, SessionHash: session})
		})
	}
	if err := many.Wait(); err != nil {
		b.Fatal(err)
	}
	return tasks
}
