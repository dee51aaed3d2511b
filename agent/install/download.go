package install

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// window is how many chunks are asked for at once, the most a request may name.
// None beyond the first window of missing chunks is ever fetched, which is what
// tells a resumed install where it may stop looking.
const window = 64

// Source is the node as an install sees it. An error that wraps a
// *wire.TaskError is final; after any other the call is repeated, for as long
// as the context lives.
type Source interface {
	// Manifest returns the manifest of an image.
	Manifest(ctx context.Context, digest string) (wire.Manifest, error)
	// Next tells the node what is here and what is missing, and asks where to
	// fetch.
	Next(ctx context.Context, req wire.NextRequest) (wire.NextResponse, error)
	// Fetch opens a chunk's gzip member as it is stored.
	Fetch(ctx context.Context, url string) (io.ReadCloser, error)
}

// fetcher gets chunks by number. It lives as long as the install, since what is
// here and what was bad is told with the next request.
type fetcher struct {
	src     Source
	task    string
	image   string
	man     wire.Manifest
	workers int
	stall   time.Duration
	after   func(time.Duration) <-chan time.Time
	meter   *meter
	pool    *chunkPool
	logf    func(string, ...any)

	got []int
	bad []wire.BadChunk
}

// job is a chunk to fetch. The round is that of the answer that named its source.
type job struct {
	src   wire.ChunkSource
	round int
}

// fetched is how a worker's attempt ended.
type fetched struct {
	job
	err   error // of the source: try again
	final error // of the sink: give up
}

// run fetches the wanted chunks and hands each, verified, to sink, which is
// called from several goroutines and must not keep the bytes. It ends with all
// of them there, with sink's error, with a final error of the source or with
// the context.
func (f *fetcher) run(ctx context.Context, want []int, sink func(i int, raw []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	jobs := make(chan job, window)
	results := make(chan fetched, window)
	var wg sync.WaitGroup
	for range f.workers {
		wg.Go(func() {
			var z inflater
			for j := range jobs {
				err, final := f.one(ctx, &z, j.src, sink)
				results <- fetched{job: j, err: err, final: final}
			}
		})
	}
	defer func() {
		cancel()
		close(jobs)
		wg.Wait()
	}()

	missing := slices.Sorted(slices.Values(want))
	assigned := make(map[int]bool) // never more than window, so the channels never block
	failures := 0                  // in a row
	round := 0                     // answers of the node so far
	var wait <-chan time.Time      // before the next request; nil: now
	for len(missing) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		need := missing[:min(window, len(missing))]
		need = slices.DeleteFunc(slices.Clone(need), func(i int) bool { return assigned[i] })
		if wait == nil && len(need) > 0 && len(assigned) < 2*f.workers {
			sources, pause, err := f.ask(ctx, need)
			var final *wire.TaskError
			switch {
			case errors.As(err, &final):
				return final
			case err != nil:
				failures++
				f.trouble(fmt.Sprintf("waiting for the node: %v", err))
				pause = max(backoff(failures), 250*time.Millisecond)
			case len(sources) == 0:
				failures++ // so that the next chunk takes the message back
				f.meter.message(fmt.Sprintf("waiting for chunk %d: the node knows no source for it", need[0]))
			}
			if err == nil {
				round++
			}
			for _, s := range sources {
				assigned[s.Index] = true
				jobs <- job{s, round}
			}
			if pause > 0 {
				wait = f.after(pause)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait:
			wait = nil
		case r := <-results:
			delete(assigned, r.src.Index)
			switch {
			case r.final != nil:
				return r.final
			case r.err != nil && ctx.Err() != nil:
				return ctx.Err()
			case r.err != nil:
				// What a node named that is gone by now says nothing about the sources
				// another has named since, which need no rest.
				if r.round == round {
					failures++
				}
				f.bad = append(f.bad, wire.BadChunk{Index: r.src.Index, URL: r.src.URL, Reason: r.err.Error()})
				f.trouble(fmt.Sprintf("chunk %d from %s: %v", r.src.Index, r.src.URL, r.err))
				if pause := backoff(failures); r.round == round && pause > 0 && wait == nil {
					wait = f.after(pause)
				}
			default:
				if failures > 0 {
					f.meter.recovered()
				}
				failures = 0
				f.got = append(f.got, r.src.Index)
				at, _ := slices.BinarySearch(missing, r.src.Index)
				missing = slices.Delete(missing, at, at+1)
			}
		}
	}
	return nil
}

// ask sends one request. It returns the sources to use, and how long to wait
// before the next request when the answer holds none.
func (f *fetcher) ask(ctx context.Context, need []int) ([]wire.ChunkSource, time.Duration, error) {
	resp, err := f.src.Next(ctx, wire.NextRequest{
		TaskID: f.task, Image: f.image,
		Got: nonNil(f.got), Bad: f.bad, Need: need,
	})
	if err != nil {
		return nil, 0, err
	}
	f.got, f.bad = nil, nil
	var use []wire.ChunkSource
	for _, s := range resp.Fetch {
		// What was not asked for is not taken, and nothing twice.
		if at := slices.Index(need, s.Index); at >= 0 {
			use = append(use, s)
			need = slices.Delete(need, at, at+1)
		}
	}
	if len(use) > 0 {
		return use, 0, nil
	}
	pause := time.Duration(resp.RetryAfterMS) * time.Millisecond
	if pause <= 0 {
		pause = time.Second
	}
	return nil, max(100*time.Millisecond, min(pause, 30*time.Second)), nil
}

// finish tells the node once about the last chunks, so that it can send others
// here for them. Nothing depends on it.
func (f *fetcher) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, _, err := f.ask(ctx, []int{}); err != nil {
		f.logf("the node was not told of the last chunks: %v", err)
	}
}

// one fetches a chunk and hands it on. The first error is the source's, the
// second the sink's.
func (f *fetcher) one(ctx context.Context, z *inflater, src wire.ChunkSource, sink func(int, []byte) error) (err, final error) {
	if err := ctx.Err(); err != nil {
		return err, nil
	}
	raw := f.pool.get(f.man.ChunkLen(src.Index))
	defer f.pool.put(raw)
	n, err := fetchChunk(ctx, f.src, z, src, f.man.Chunks[src.Index], raw, f.stall)
	f.meter.fetched(n, err == nil)
	if err != nil {
		return err, nil
	}
	return nil, sink(src.Index, raw)
}

// trouble tells people why it takes longer.
func (f *fetcher) trouble(message string) {
	f.logf("%s", message)
	f.meter.message(message)
}

// backoff is how long to wait after n failures in a row: not at all after the
// first two, since another source may do, then from a quarter of a second to
// ten seconds.
func backoff(n int) time.Duration {
	if n < 3 {
		return 0
	}
	return min(250*time.Millisecond<<min(n-3, 10), 10*time.Second)
}

// retry repeats f until it succeeds, fails for good or the context ends.
func retry[T any](ctx context.Context, in *installer, what string, f func() (T, error)) (T, error) {
	for n := 1; ; n++ {
		v, err := f()
		var final *wire.TaskError
		if err == nil || errors.As(err, &final) {
			return v, err
		}
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		in.logf("%s: %v", what, err)
		in.meter.message(fmt.Sprintf("waiting for the node: %v", err))
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-in.after(max(backoff(n), 250*time.Millisecond)):
		}
	}
}

func nonNil(s []int) []int {
	if s == nil {
		return []int{}
	}
	return s
}
