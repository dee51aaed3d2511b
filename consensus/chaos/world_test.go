package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// world is a cluster on a cable, and the one goroutine that troubles it.
type world struct {
	t      *testing.T
	cable  *cable
	random *rand.Rand
	root   string
	slots  []*slot
	lives  int
	log    io.Writer
	faults map[string]int // how many of each kind
	behind func()         // waits for what was let die
	tune   func(s *slot, c *consensus.Config)
}

// slot is the place of one node.
type slot struct {
	id    string
	dir   string
	fresh bool                           // its directory is to be filled by the others
	node  atomic.Pointer[consensus.Node] // nil while it is down
	port  *port
}

// shm is a directory whose fsync costs nothing: what is tested here is agreement,
// not disks.
func shm(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "lpmos-chaos")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func newWorld(t *testing.T, root string, nodes int, random *rand.Rand, log io.Writer, tune func(*slot, *consensus.Config)) *world {
	w := &world{t: t, cable: newCable(), random: random, root: root, log: log, faults: map[string]int{}, tune: tune}
	for i := range nodes {
		w.slots = append(w.slots, &slot{id: fmt.Sprintf("n%d", i+1), fresh: i > 0})
	}
	for i, s := range w.slots {
		w.newDir(s)
		w.start(s)
		if i > 0 {
			w.must(w.slots[0].node.Load().Admit(w.within(30*time.Second), s.id, addressOf(s.id)))
		}
		w.must(s.node.Load().Ready(w.within(30 * time.Second)))
	}
	w.order()
	return w
}

func (w *world) newDir(s *slot) {
	w.lives++
	s.dir = filepath.Join(w.root, fmt.Sprintf("%s-%d", s.id, w.lives))
}

func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	time.AfterFunc(d, cancel)
	return ctx
}

func (w *world) must(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

func (w *world) until(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			for _, s := range w.slots {
				if n := s.node.Load(); n != nil {
					w.t.Logf("%s: %+v", s.id, n.Status())
				}
			}
			w.t.Fatalf("waited 2 minutes until %s", what)
		}
	}
}

// order waits until all run, know each other and as many vote as should.
func (w *world) order() {
	w.t.Helper()
	votes := min(5, (len(w.slots)+1)/2*2-1)
	w.until("the cluster is in order", func() bool {
		for _, s := range w.slots {
			n := s.node.Load()
			if n == nil || n.Verify(w.within(time.Second)) != nil || n.Ready(w.within(time.Second)) != nil {
				return false
			}
			have := 0
			members := n.Status().Members
			for _, m := range members {
				if m.Voter {
					have++
				}
			}
			if have != votes || len(members) != len(w.slots) {
				return false
			}
		}
		return true
	})
}

func (w *world) start(s *slot) {
	w.t.Helper()
	n, err := consensus.Open(w.config(s))
	if err != nil {
		w.t.Fatalf("open %s: %v", s.id, err)
	}
	s.node.Store(n)
}

func (w *world) config(s *slot) consensus.Config {
	s.port = w.cable.join(s.id)
	logger := slog.New(slog.DiscardHandler)
	if w.log != nil {
		logger = slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", s.id)
	}
	c := consensus.Config{
		Dir: s.dir, NodeID: s.id, Name: s.id, Region: "dc1", Version: "test", Logger: logger, Network: s.port, Join: s.fresh,
		Heartbeat: 250 * time.Millisecond, SettleAfter: time.Second, SnapshotBytes: 24 << 10, TrailingEntries: 16,
	}
	if w.tune != nil {
		w.tune(s, &c)
	}
	return c
}

// stop closes a node in peace.
func (w *world) stop(s *slot) {
	if n := s.node.Swap(nil); n != nil {
		if err := n.Close(); err != nil {
			w.t.Errorf("close %s: %v", s.id, err)
		}
	}
}

// kill takes a node off the cable before it knows: it hands over nothing.
func (w *world) kill(s *slot) {
	s.port.Close()
	w.stop(s)
}

// crash leaves a node to itself, off the cable, and goes on with a copy of what it
// had on disk.
func (w *world) crash(s *slot) {
	n := s.node.Swap(nil)
	s.port.Close()
	// What was under way reaches the disk or not; then a copy is of one moment.
	var was any
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(400 * time.Millisecond) {
		is := fmt.Sprint(n.Stats()["log_index"], n.Stats()["term"], n.Stats()["snapshot_index"])
		if is == was {
			break
		}
		was = is
	}
	from := s.dir
	w.newDir(s)
	w.must(os.CopyFS(s.dir, os.DirFS(from)))
	last := w.behind
	gone := make(chan struct{})
	go func() { n.Close(); close(gone) }()
	w.behind = func() {
		if last != nil {
			last()
		}
		<-gone
	}
}

func (w *world) up() (out []*slot) {
	for _, s := range w.slots {
		if s.node.Load() != nil {
			out = append(out, s)
		}
	}
	return out
}

func (w *world) any() *slot { return w.slots[w.random.IntN(len(w.slots))] }

// leader is the node that leads, or any.
func (w *world) leader() *slot {
	for _, s := range w.up() {
		if s.node.Load().Leads() {
			return s
		}
	}
	return w.any()
}

func (w *world) ids() (out []string) {
	for _, s := range w.slots {
		out = append(out, s.id)
	}
	return out
}

// trouble makes one fault, and mends it after a while.
func (w *world) trouble() {
	victim := w.any()
	if w.random.IntN(2) == 0 {
		victim = w.leader()
	}
	while := time.Duration(200+w.random.IntN(2500)) * time.Millisecond
	other := w.any()
	what := ""
	note := func(s string) { what = s; w.faults[s]++ }
	switch w.random.IntN(12) {
	case 0, 1:
		note("isolate")
		w.cable.split(map[string]bool{victim.id: true}, w.ids())
		time.Sleep(while)
		w.cable.heal()
	case 2:
		note("split")
		some := map[string]bool{}
		for _, s := range w.slots {
			some[s.id] = w.random.IntN(2) == 0
		}
		w.cable.split(some, w.ids())
		time.Sleep(while)
		w.cable.heal()
	case 3, 4:
		note("one way")
		for range 1 + w.random.IntN(2) {
			if other != victim {
				w.cable.oneWay(victim.id, other.id)
			}
			victim, other = w.any(), w.any()
		}
		time.Sleep(while)
		w.cable.heal()
	case 5, 6:
		note("kill")
		w.kill(victim)
		time.Sleep(while)
		w.start(victim)
	case 7:
		note("crash")
		w.crash(victim)
		w.start(victim)
	case 8:
		note("restart")
		w.stop(victim)
		w.start(victim)
	case 9:
		note("slow")
		w.cable.slow(time.Duration(20+w.random.IntN(150)) * time.Millisecond)
		time.Sleep(while)
		w.cable.slow(time.Millisecond)
	case 10:
		note("hand over")
		other.node.Load().TransferLeadership(w.within(2*time.Second), "", "chaos") //nolint:errcheck // it may be refused
	case 11:
		w.rearrange(victim, note)
	}
	if w.log != nil {
		fmt.Fprintf(w.log, "FAULT %s %s %v\n", what, victim.id, while)
	}
}

// rearrange changes the members.
func (w *world) rearrange(victim *slot, note func(string)) {
	by := w.any().node.Load()
	switch w.random.IntN(3) {
	case 0:
		note("demote")
		by.Demote(w.within(3*time.Second), victim.id, "chaos") //nolint:errcheck // it may be refused
	case 1:
		note("promote")
		by.Promote(w.within(3*time.Second), victim.id, "chaos") //nolint:errcheck // it may be refused
	case 2:
		note("remove")
		for by.ID() == victim.id {
			by = w.any().node.Load()
		}
		if by.Remove(w.within(5*time.Second), victim.id, "chaos") != nil {
			return // it may be half done; admit below mends that
		}
		w.stop(victim)
		victim.fresh = true
		w.newDir(victim)
		w.start(victim)
		by.Admit(w.within(5*time.Second), victim.id, addressOf(victim.id)) //nolint:errcheck // mend does it again
	}
}

// mend heals all and puts the members in order.
func (w *world) mend() {
	w.cable.heal()
	w.cable.slow(time.Millisecond)
	for _, s := range w.slots {
		w.until("a node takes "+s.id+" back", func() bool {
			for _, by := range w.slots {
				var e *fleet.Error
				err := by.node.Load().Admit(w.within(3*time.Second), s.id, addressOf(s.id))
				if err == nil || errors.As(err, &e) {
					return true
				}
			}
			return false
		})
	}
	for _, s := range w.slots {
		// A node that was removed while it ran has stopped for good.
		if s.node.Load().Status().Role == "stopped" {
			w.stop(s)
			w.start(s)
		}
	}
	for _, s := range w.slots {
		w.until(s.id+" is promoted", func() bool {
			err := s.node.Load().Promote(w.within(3*time.Second), s.id, "chaos")
			var e *fleet.Error
			return err == nil || errors.As(err, &e) && e.Code != fleet.Conflict
		})
	}
	w.order()
}

// content is a node's state, without what the node alone keeps of it.
func content(n *consensus.Node) string {
	var b bytes.Buffer
	n.View(func(s *fleet.State) { s.Snapshot().Write(&b) }) //nolint:errcheck // into memory
	_, rest, _ := strings.Cut(b.String(), "\n")
	return rest
}

func (w *world) close() {
	for _, s := range w.slots {
		w.stop(s)
	}
	if w.behind != nil {
		w.behind()
	}
	// Bytes on their way arrive or are given up, and with them their goroutines.
	time.Sleep(10 * time.Minute)
}
