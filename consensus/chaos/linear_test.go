package chaos

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"
)

// number is a setting of the long runs, for which see the Makefile.
func number(name string, short int) int {
	if v, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return v
	}
	return short
}

// bubble runs f in a time of its own. Who asks Raft something as it ends may never
// be answered (see await in consensus/life.go), and a goroutine waits for good: that
// is known, and no other is let pass.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if t.Failed() { // it ended in the middle
			return
		}
		if !strings.Contains(fmt.Sprint(r), "blocked goroutines remain") {
			panic(r)
		}
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for one := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(one, "synctest bubble") && !strings.Contains(one, "consensus.(*Node).await.func1") {
				t.Errorf("a goroutine is left over:\n%s", one)
				break
			}
		}
	}()
	synctest.Test(t, f)
}

// logOf is where nodes write what they do, if somebody wants to know.
func logOf(t *testing.T, name string) io.Writer {
	dir := os.Getenv("LPMOS_CHAOS_LOG")
	if dir == "" {
		return nil
	}
	f, err := os.Create(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// play runs one seed: rounds of trouble, each followed by quiet in which all nodes
// have to come to the same state.
func play(t *testing.T, seed uint64, nodes, seconds int, a access, trouble bool) *story {
	root := shm(t)
	log := logOf(t, fmt.Sprint("seed-", seed))
	var s *story
	faults := map[string]int{}
	bubble(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, root, nodes, random, log, nil)
		defer w.close()
		s = begin(t, w.slots[0].node.Load(), a)
		for left := seconds; left > 0; left -= 10 {
			over, ended := make(chan struct{}), make(chan struct{})
			clients := rand.New(rand.NewPCG(random.Uint64(), 2))
			go func() { defer close(ended); s.run(w, 2*nodes, clients, over) }()
			for until := time.Now().Add(time.Duration(min(left, 10)) * time.Second); time.Now().Before(until); {
				time.Sleep(time.Duration(random.IntN(800)) * time.Millisecond)
				if trouble {
					w.trouble()
				}
			}
			close(over)
			<-ended
			w.mend()
			// What is still under way may take as long as a proposal may wait for its
			// turn and for its answer.
			time.Sleep(25 * time.Second)
			s.settle()
			for c, slot := range w.slots {
				for k := range tasks {
					s.ask(c, slot.node.Load(), input{kind: read, task: k}, 5*time.Second)
				}
			}
			want := content(w.slots[0].node.Load())
			for _, slot := range w.slots[1:] {
				if got := content(slot.node.Load()); got != want {
					t.Errorf("seed %d: %s and %s have come to different states:\n%s", seed, w.slots[0].id, slot.id, difference(want, got))
				}
			}
		}
		faults = w.faults
	})
	unknown := 0
	for _, op := range s.ops {
		if op.Output.(output).result == uncertain {
			unknown++
		}
	}
	t.Logf("seed %d: %d operations, %d of them uncertain, %d not taken, faults %v", seed, len(s.ops), unknown, s.failed, faults)
	return s
}

// difference is the first line in which two contents differ.
func difference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(la), len(lb)) {
		var x, y string
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if x != y {
			at := 0
			for at < min(len(x), len(y)) && x[at] == y[at] {
				at++
			}
			from := max(0, at-200)
			return fmt.Sprintf("%.500s\n%.500s", x[min(from, len(x)):], y[min(from, len(y)):])
		}
	}
	return ""
}

func TestWhatIsAnsweredIsLinearizable(t *testing.T) {
	seeds, seconds := number("LPMOS_SEEDS", 3), number("LPMOS_SEED_SECONDS", 10)
	first := number("LPMOS_FIRST_SEED", 1)
	operations, granted := 0, 0
	for seed := first; seed < first+seeds; seed++ {
		nodes := 3
		if seed%3 == 0 {
			nodes = 5
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := play(t, uint64(seed), nodes, seconds, honest(), true)
			operations, granted = operations+len(s.ops), granted+len(s.journal)
			verdict, wrong := s.judge(60 * time.Second)
			for _, what := range wrong {
				t.Errorf("seed %d: %s", seed, what)
			}
			switch verdict {
			case porcupine.Unknown:
				t.Errorf("seed %d: the history could not be judged in time", seed)
			case porcupine.Illegal:
				draw(t, s, seed)
			}
		})
	}
	t.Logf("%d seeds of %d s: %d operations, %d grants to erase", seeds, seconds, operations, granted)
}

// draw keeps a picture of an illegal history.
func draw(t *testing.T, s *story, seed int) {
	_, info := porcupine.CheckOperationsVerbose(machine.ToModel(), s.ops, time.Minute)
	f, err := os.CreateTemp("", fmt.Sprintf("lpmos-history-%d-*.html", seed))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := porcupine.Visualize(machine.ToModel(), info, f); err != nil {
		t.Fatal(err)
	}
	t.Logf("the history is drawn in %s", f.Name())
}
