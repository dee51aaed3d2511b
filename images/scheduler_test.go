package images

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

const base = "http://10.77.0.1:80"

func TestSchedulerNamesTheNode(t *testing.T) {
	s := openStore(t, t.TempDir())
	m, digest := mustImport(t, s, diskImage(12*wire.ChunkBytes, 1))
	sched := NewScheduler(alone(s))

	resp, err := sched.Next(t.Context(), base+"/", wire.NextRequest{TaskID: "t", Image: digest, Need: []int{11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 0}})
	if err != nil {
		t.Fatal(err)
	}
	var indexes []int
	for _, f := range resp.Fetch {
		indexes = append(indexes, f.Index)
		if want := base + "/chunk/" + m.Chunks[f.Index]; f.URL != want {
			t.Errorf("chunk %d is at %s, want %s", f.Index, f.URL, want)
		}
	}
	if want := []int{11, 10, 9, 8, 7, 6, 5, 4}; !slices.Equal(indexes, want) {
		t.Errorf("answered %v, want %v: the order asked for, eight at most", indexes, want)
	}
	resp, err = sched.Next(t.Context(), base, wire.NextRequest{TaskID: "t", Image: digest})
	if err != nil || resp.Fetch == nil || len(resp.Fetch) != 0 || resp.RetryAfterMS != 0 {
		t.Errorf("nothing needed: %+v, %v", resp, err)
	}
}

func TestSchedulerWaitsForAMissingChunk(t *testing.T) {
	s := openStore(t, t.TempDir())
	m, digest := mustImport(t, s, diskImage(4*wire.ChunkBytes, 1))
	if err := os.Remove(s.chunkPath(m.Chunks[3])); err != nil {
		t.Fatal(err)
	}
	sched := NewScheduler(alone(s))
	resp, err := sched.Next(t.Context(), base, wire.NextRequest{TaskID: "t", Image: digest, Need: []int{3, 2}})
	if err != nil || len(resp.Fetch) != 1 || resp.Fetch[0].Index != 2 {
		t.Errorf("%+v, %v: want chunk 2 alone", resp, err)
	}
	resp, err = sched.Next(t.Context(), base, wire.NextRequest{TaskID: "t", Image: digest, Need: []int{3}})
	if err != nil || len(resp.Fetch) != 0 || resp.RetryAfterMS <= 0 {
		t.Errorf("%+v, %v: want to be told to ask again", resp, err)
	}
}

func TestSchedulerGivesUpAfterThreeFailures(t *testing.T) {
	s := openStore(t, t.TempDir())
	m, digest := mustImport(t, s, diskImage(4*wire.ChunkBytes, 1))
	bad := wire.BadChunk{Index: 2, URL: base + "/chunk/" + m.Chunks[2], Reason: "connection reset"}
	ask := func(sched *Scheduler, req wire.NextRequest) error {
		req.TaskID, req.Image = "t", digest
		_, err := sched.Next(t.Context(), base, req)
		return err
	}
	fail := wire.NextRequest{Bad: []wire.BadChunk{bad}, Need: []int{2}}

	sched := NewScheduler(alone(s))
	for i := range 2 {
		if err := ask(sched, fail); err != nil {
			t.Fatalf("after failure %d: %v", i+1, err)
		}
	}
	if err := ask(sched, fail); !errors.Is(err, ErrSourceExhausted) {
		t.Errorf("after failure 3: %v", err)
	}
	if err := ask(sched, wire.NextRequest{Need: []int{3}}); err != nil {
		t.Errorf("another chunk: %v", err)
	}
	sched.Forget("t")
	if err := ask(sched, wire.NextRequest{Need: []int{2}}); err != nil {
		t.Errorf("a retry of the task: %v", err)
	}
	for range 5 { // a chunk that arrives is forgiven
		if err := ask(sched, fail); err != nil {
			t.Fatal(err)
		}
		if err := ask(sched, wire.NextRequest{Got: []int{2}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSchedulerFindsItsOwnDiskAtFault(t *testing.T) {
	s := openStore(t, t.TempDir())
	m, digest := mustImport(t, s, diskImage(3*wire.ChunkBytes, 1))
	flip(t, s.chunkPath(m.Chunks[2]), 1000)
	_, err := NewScheduler(alone(s)).Next(t.Context(), base, wire.NextRequest{
		TaskID: "t", Image: digest, Need: []int{2}, Bad: []wire.BadChunk{{Index: 2, URL: base + "/chunk/" + m.Chunks[2]}},
	})
	if !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v, want the damage to be named at the first failure", err)
	}
}

func TestSchedulerRefusesWhatMakesNoSense(t *testing.T) {
	s := openStore(t, t.TempDir())
	_, digest := mustImport(t, s, diskImage(3*wire.ChunkBytes, 1))
	sched := NewScheduler(alone(s))
	for name, req := range map[string]wire.NextRequest{
		"need behind the end":  {Image: digest, Need: []int{3}},
		"need below zero":      {Image: digest, Need: []int{-1}},
		"need a chunk of zero": {Image: digest, Need: []int{1}},
		"need too many":        {Image: digest, Need: make([]int, 65)},
		"got behind the end":   {Image: digest, Got: []int{3}},
		"got too many":         {Image: digest, Got: make([]int, 4)},
		"bad behind the end":   {Image: digest, Bad: []wire.BadChunk{{Index: 9}}},
		"bad chunk of zero":    {Image: digest, Bad: []wire.BadChunk{{Index: 1}}},
		"bad too many":         {Image: digest, Bad: make([]wire.BadChunk, 65)},
	} {
		if _, err := sched.Next(t.Context(), base, req); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := sched.Next(t.Context(), base, wire.NextRequest{Image: "../x"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown image: %v", err)
	}
}

func FuzzScheduler(f *testing.F) {
	s := openStore(f, f.TempDir())
	m, digest := mustImport(f, s, diskImage(3*wire.ChunkBytes, 1))
	f.Add([]byte(`{"need":[0,2],"got":[0],"bad":[{"index":2,"url":"http://x/"}]}`))
	f.Add([]byte(`{"need":[-1]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var req wire.NextRequest
		if json.Unmarshal(data, &req) != nil {
			return
		}
		req.Image = digest
		resp, err := NewScheduler(alone(s)).Next(t.Context(), base, req)
		if err != nil {
			return
		}
		for _, got := range resp.Fetch {
			if !slices.Contains(req.Need, got.Index) || got.URL != base+"/chunk/"+m.Chunks[got.Index] {
				t.Errorf("answered %+v to %s", got, data)
			}
		}
	})
}
