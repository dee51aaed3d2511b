package chaos

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(float64(len(d))*p))].Round(time.Millisecond)
}

// steady is the place of the leader once the cluster is whole.
func (p *processes) steady() int {
	p.t.Helper()
	p.whole()
	at := -1
	p.until("one node leads", func() bool { at = p.leader(); return at >= 0 })
	return at
}

func TestALeaderThatIsKilledIsReplaced(t *testing.T) {
	rounds := number("LPMOS_FAILOVERS", 5)
	p := newProcesses(t)
	var took []time.Duration
	for k := range rounds {
		at := p.steady()
		p.kill(at)
		killed := time.Now()
		acked := make(chan time.Time, 2)
		stop := make(chan struct{})
		var clients sync.WaitGroup
		for c := range 2 { // each tries one survivor and then the other
			clients.Go(func() {
				for try := 0; ; try++ {
					select {
					case <-stop:
						return
					default:
					}
					if p.ask((at+1+(c+try)%2)%3, order{Kind: "create", ID: fmt.Sprintf("f%d-%d-%d", k, c, try)}).Result == done {
						acked <- time.Now()
						return
					}
				}
			})
		}
		select {
		case when := <-acked:
			took = append(took, when.Sub(killed))
		case <-time.After(20 * time.Second):
			t.Errorf("20 s after the leader was killed nothing is acknowledged")
		}
		close(stop)
		clients.Wait()
		p.start(at)
	}
	t.Logf("leader killed, next acknowledged write, %d times: p50 %v p99 %v max %v", len(took), percentile(took, 0.5), percentile(took, 0.99), percentile(took, 1))
	if limit := 5 * time.Second; percentile(took, 0.99) > limit {
		t.Errorf("p99 %v, want at most %v", percentile(took, 0.99), limit)
	}
}

func TestAPlannedHandOverFailsNoWriteAndIsShort(t *testing.T) {
	rounds := number("LPMOS_FAILOVERS", 5)
	p := newProcesses(t)
	p.steady()
	type write struct{ from, to time.Time }
	var mu sync.Mutex
	var writes []write
	failed := 0
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				default:
				}
				from := time.Now()
				got := p.ask(w, order{Kind: "create", ID: fmt.Sprintf("h%d-%d", w, k)})
				mu.Lock()
				writes = append(writes, write{from, time.Now()})
				if got.Result != done {
					failed++
					t.Logf("a write was %s: %s", got.Result, got.Text)
				}
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	type window struct{ from, to time.Time }
	var windows []window
	var calls []time.Duration
	for range rounds {
		at := p.steady()
		from := time.Now()
		if got := p.ask((at+1)%3, order{Kind: "transfer"}); got.Result != done {
			t.Errorf("hand over: %s %s", got.Result, got.Text)
		}
		calls = append(calls, time.Since(from))
		time.Sleep(300 * time.Millisecond)
		windows = append(windows, window{from, time.Now()})
	}
	close(stop)
	writers.Wait()
	var longest []time.Duration
	for _, win := range windows {
		var most time.Duration
		for _, w := range writes {
			if w.to.After(win.from) && w.from.Before(win.to) {
				most = max(most, w.to.Sub(w.from))
			}
		}
		longest = append(longest, most)
	}
	t.Logf("%d planned hand-overs under %d writes: %d failed; the call p50 %v p99 %v; the longest write of each p50 %v p99 %v max %v", rounds, len(writes), failed,
		percentile(calls, 0.5), percentile(calls, 0.99), percentile(longest, 0.5), percentile(longest, 0.99), percentile(longest, 1))
	if failed > 0 {
		t.Errorf("%d of %d writes failed", failed, len(writes))
	}
}
