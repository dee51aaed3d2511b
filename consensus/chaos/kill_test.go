package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// diary is what one writer knows: what was acknowledged, and what may have been done.
type diary struct {
	name    string
	mu      sync.Mutex
	created map[string]result
	retried map[string][2]uint64 // by task: the generation at least, and at most
	wrong   []string
	acked   *atomic.Int64
	lost    int // operations whose end is not known
}

func (d *diary) note(format string, args ...any) {
	d.wrong = append(d.wrong, d.name+": "+fmt.Sprintf(format, args...))
}

// write works on a node until it is told to stop: tasks are made, each under a
// name that can be had once, and one of them is retried again and again.
func (d *diary) write(p *processes, home int, stop <-chan struct{}) {
	own, generation := "", uint64(0)
	for k := 0; ; k++ {
		select {
		case <-stop:
			return
		default:
		}
		i := home
		if rand.IntN(3) == 0 {
			i = rand.IntN(len(p.nodes))
		}
		id := fmt.Sprintf("%s-%d", d.name, k)
		got := p.ask(i, order{Kind: "create", ID: id})
		d.mu.Lock()
		d.created[id] = got.Result
		switch got.Result {
		case done:
			d.acked.Add(1)
			if own == "" {
				own, generation = id, 1
				d.retried[own] = [2]uint64{1, 1}
			}
		case refused:
			d.note("%s was refused, so it was made twice: %s", id, got.Text)
		case uncertain:
			d.lost++
		}
		d.mu.Unlock()
		if got.Result == notTaken {
			time.Sleep(20 * time.Millisecond)
		}
		if own == "" {
			continue
		}
		if got := p.ask(i, order{Kind: "cancel", ID: own}); got.Result != done {
			continue // it can be cancelled again, or was not
		}
		got = p.ask(i, order{Kind: "retry", ID: own})
		d.mu.Lock()
		switch got.Result {
		case done:
			d.acked.Add(1)
			generation++
			if got.Generation != generation {
				d.note("%s is at generation %d after %d retries", own, got.Generation, generation-1)
			}
			d.retried[own] = [2]uint64{generation, generation}
		case refused:
			d.note("the retry of %s, which was cancelled, is refused: %s", own, got.Text)
		case uncertain: // it may yet happen: another task from here on
			d.retried[own] = [2]uint64{generation, generation + 1}
			own = ""
			d.lost++
		}
		d.mu.Unlock()
	}
}

func TestKilledNodesLoseNothingAndDoubleNothing(t *testing.T) {
	kills := number("LPMOS_KILLS", 10)
	p := newProcesses(t)
	var acked atomic.Int64
	var diaries []*diary
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for w := range 6 {
		d := &diary{name: fmt.Sprintf("w%d", w), created: map[string]result{}, retried: map[string][2]uint64{}, acked: &acked}
		diaries = append(diaries, d)
		writers.Go(func() { d.write(p, w%3, stop) })
	}
	down := map[int]bool{}
	for k := range kills {
		before := acked.Load()
		p.until("writes are acknowledged", func() bool { return acked.Load() > before+20 })
		i := rand.IntN(3)
		if l := p.leader(); l >= 0 && rand.IntN(2) == 0 {
			i = l
		}
		if rand.IntN(5) == 0 { // a pause: it wakes up and knows nothing of it
			p.signal(i, syscall.SIGSTOP)
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			if rand.IntN(2) == 0 {
				p.signal(i, syscall.SIGCONT)
			}
		}
		p.kill(i)
		down[i] = true
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		if rand.IntN(3) == 0 { // a second, so that there is no majority for a moment
			j := (i + 1 + rand.IntN(2)) % 3
			p.kill(j)
			down[j] = true
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		}
		for i := range down {
			p.start(i)
			delete(down, i)
		}
		if k%50 == 49 {
			t.Logf("%d kills, %d acknowledged", k+1, acked.Load())
		}
	}
	close(stop)
	writers.Wait()
	p.whole()
	time.Sleep(time.Second)
	var first []string
	for i := range p.nodes {
		var all told
		p.until(p.nodes[i].plan.ID+" answers", func() bool {
			all = p.ask(i, order{Kind: "all"})
			return all.Result == done
		})
		if first == nil {
			first = all.Created
		} else if !slices.Equal(first, all.Created) {
			t.Errorf("%s holds other tasks than %s", p.nodes[i].plan.ID, p.nodes[0].plan.ID)
		}
		have := map[string]uint64{}
		for _, line := range all.Created {
			id, generation, _ := strings.Cut(line, " ")
			var g uint64
			fmt.Sscan(generation, &g) //nolint:errcheck // it is a number
			have[id] = g
		}
		for _, d := range diaries {
			for id, r := range d.created {
				if _, is := have[id]; is != (r == done) && r != uncertain {
					t.Errorf("%s: %s was %s, and it is there: %v", p.nodes[i].plan.ID, id, r, is)
				}
			}
			for id, g := range d.retried {
				if have[id] < g[0] || have[id] > g[1] {
					t.Errorf("%s: %s is at generation %d, want %v", p.nodes[i].plan.ID, id, have[id], g)
				}
			}
		}
	}
	lost := 0
	for _, d := range diaries {
		lost += d.lost
		for _, what := range d.wrong {
			t.Error(what)
		}
	}
	t.Logf("%d kills, %d writes acknowledged and all there once, %d uncertain, %d tasks", kills, acked.Load(), lost, len(first))
}
