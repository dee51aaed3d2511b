package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestTheWriterNeverWaitsAndEachStageArrives(t *testing.T) {
	p := newProgress("t1", 1, time.Now)
	gate, first := make(chan struct{}), make(chan struct{}, 1)
	var got []string
	post := func(_ context.Context, r wire.ProgressRequest) error {
		select {
		case first <- struct{}{}:
		default:
		}
		<-gate
		got = append(got, fmt.Sprintf("%s %.0f", r.Stage, r.Percentage))
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.send(context.Background(), post, func(context.Context, time.Duration) error { return nil }, func(error) {})
	}()
	p.put(wire.Progress{Stage: wire.StagePartitioning, Percentage: 1})
	<-first // the node has the first value and does not answer
	for _, s := range wire.Stages {
		from, to, _ := s.Span()
		for i := range 1000 {
			p.put(wire.Progress{Stage: s, Percentage: from + (to-from)*float64(i)/999})
		}
	}
	close(gate)
	p.close()
	<-done
	want := "partitioning 1, partitioning 20, downloading 60, installing 90, configuring 100"
	if s := strings.Join(got, ", "); s != want {
		t.Fatalf("posted %s\nwant   %s", s, want)
	}
}

func TestPercentagesNeverGoBack(t *testing.T) {
	p := newProgress("t1", 1, time.Now)
	last := 0.0
	for _, in := range []float64{0, 5, 3, 7, 6.9, 500, 2, -1} {
		v, _ := p.put(wire.Progress{Stage: wire.StageDownloading, Percentage: in})
		if v.Percentage < last || v.Percentage > 100 {
			t.Fatalf("%v after %v", v.Percentage, last)
		}
		last = v.Percentage
	}
}

func TestTheConsoleShowsStagesAndThenNowAndThen(t *testing.T) {
	now := time.Unix(0, 0)
	p := newProgress("t1", 1, func() time.Time { return now })
	for _, tc := range []struct {
		after time.Duration
		stage wire.Stage
		show  bool
	}{
		{0, wire.StagePartitioning, true}, {time.Second, wire.StagePartitioning, false},
		{0, wire.StageDownloading, true}, {4 * time.Second, wire.StageDownloading, false}, {2 * time.Second, wire.StageDownloading, true},
	} {
		now = now.Add(tc.after)
		if _, show := p.put(wire.Progress{Stage: tc.stage}); show != tc.show {
			t.Errorf("%s at %s: shown is %v", tc.stage, now, show)
		}
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	p := newProgress("t1", 1, time.Now)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p.send(ctx, func(context.Context, wire.ProgressRequest) error { return nil }, sleep, func(error) {})
}

func TestConsoleKeepsTheNewestLines(t *testing.T) {
	c := NewConsole(io.Discard, time.Now)
	for i := range maxKeptLines + 5 {
		c.Printf("line %d", i)
	}
	req := c.takeLines()
	if len(req.Lines) != maxSentLines+1 || !strings.Contains(req.Lines[0], "5 lines before") || !strings.HasSuffix(req.Lines[1], "line 5") {
		t.Fatalf("%q", req.Lines[:2])
	}
}

func TestTheClientIsASourceOfImages(t *testing.T) {
	m := wire.Manifest{Version: 1, SizeBytes: 512, ChunkBytes: wire.ChunkBytes, SectorBytes: 512, Chunks: []string{""}}
	var answer atomic.Int32 // to a request for the next chunks; 0 gives one
	rig := newRig(t)
	srv := rig.cluster.Server(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/manifest/abc":
			_, _ = io.WriteString(w, `{"version":1,"size_bytes":512,"chunk_bytes":4194304,"sector_bytes":512,"chunks":[""]}`)
		case "/api/v1/agent/next":
			if status := answer.Load(); status != 0 {
				w.WriteHeader(int(status))
				return
			}
			_, _ = io.WriteString(w, `{"fetch":[{"index":3,"url":"/chunk/x"}]}`)
		case "/chunk/x":
			if r.Header.Get("Accept-Encoding") != "" {
				t.Error("an encoding was asked for")
			}
			_, _ = io.WriteString(w, "gzip bytes")
		default:
			w.WriteHeader(404)
		}
	}))
	cfg := rig.config()
	cfg.Nodes = []string{srv.URL}
	c := newClient(cfg)
	ctx := context.Background()
	if got, err := c.Manifest(ctx, "abc"); err != nil || got.Digest() != m.Digest() {
		t.Errorf("manifest %+v %v", got, err)
	}
	next, err := c.Next(ctx, wire.NextRequest{TaskID: "t1", Need: []int{3}})
	if err != nil || len(next.Fetch) != 1 {
		t.Fatalf("next %+v %v", next, err)
	}
	body, err := c.Fetch(ctx, next.Fetch[0].URL)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(body); err != nil || string(b) != "gzip bytes" {
		t.Errorf("%q %v", b, err)
	}
	_ = body.Close()
	if _, err := c.Fetch(ctx, srv.URL+"/chunk/gone"); err == nil {
		t.Error("a missing chunk was fetched")
	}
	// What the node does not have ends an install; what it does not allow may only
	// mean that the task was cancelled, which the progress tells.
	var final *wire.TaskError
	if _, err := c.Manifest(ctx, "gone"); !errors.As(err, &final) || final.Code != wire.CodeImageError {
		t.Errorf("a missing manifest: %v", err)
	}
	for status, ends := range map[int32]bool{400: true, 404: true, 412: true, 403: false, 409: false, 410: false} {
		answer.Store(status)
		if _, err := c.Next(ctx, wire.NextRequest{TaskID: "t1", Need: []int{3}}); errors.As(err, &final) != ends {
			t.Errorf("no next chunk because of %d: %v", status, err)
		}
		final = nil
	}
}
