package chaos

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lpmos/lpmos/consensus"
)

// kept is what a node must not forget or change by itself.
type kept struct {
	log     any    // the newest entry
	promise string // term and vote
	members string
	state   string
}

// promiseOf reads term and vote out of a closed node's directory.
func promiseOf(t *testing.T, dir string) (out string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "raft.db"), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.View(func(tx *bbolt.Tx) error {
		for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand"} {
			out += key + " " + hex.EncodeToString(tx.Bucket([]byte("conf")).Get([]byte(key))) + " "
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func seen(n *consensus.Node) kept {
	k := kept{log: n.Stats()["log_index"], state: content(n)}
	for _, m := range n.Status().Members {
		k.members += fmt.Sprint(m.ID, m.Address, m.Voter, " ")
	}
	return k
}

// flip changes one bit of what a stopped node keeps, and says where.
func flip(t *testing.T, dir string, random *rand.Rand) string {
	t.Helper()
	names := []string{filepath.Join(dir, "raft.db"), filepath.Join(dir, "raft.db"), filepath.Join(dir, "raft.db")}
	for _, pattern := range []string{"snapshots/*/state.bin", "snapshots/*/meta.json"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	name := names[random.IntN(len(names))]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	at := random.IntN(len(b))
	if filepath.Base(name) == "raft.db" {
		// bbolt grows its file ahead, most of it is empty; the first pages tell where
		// everything is.
		in := len(b)
		switch random.IntN(4) {
		case 0:
			in = 2 * 4096
		case 1:
			in = 32 * 4096
		}
		for at = random.IntN(in); b[at] == 0; at = random.IntN(in) {
		}
	}
	b[at] ^= 1 << random.IntN(8)
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b[at:at+1], int64(at)); err != nil {
		t.Fatal(err)
	}
	from, to := max(0, at-12), min(len(b), at+12)
	return fmt.Sprintf("%s byte %d (%q)", filepath.Base(filepath.Dir(name))+"/"+filepath.Base(name), at, b[from:to])
}

func TestAFlippedBitIsToldOrHarmless(t *testing.T) {
	flips := number("LPMOS_FLIPS", 20)
	const together = 20 // in the life of one cluster
	told, harmless := 0, 0
	for first := 0; first < flips; first += together {
		root, log := shm(t), logOf(t, fmt.Sprint("flips-", first))
		bubble(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(first), 11))
			w := newWorld(t, root, 3, random, log, nil)
			defer w.close()
			begin(t, w.slots[0].node.Load(), honest())
			for k := range min(together, flips-first) {
				// Something to lose, in snapshots and behind them.
				for i := range 10 + random.IntN(100) {
					if _, err := w.any().node.Load().Propose(t.Context(), node(fmt.Sprintf("f%d-%d", k, i))); err != nil {
						t.Fatal(err)
					}
				}
				w.order()
				victim := w.any()
				was := seen(victim.node.Load())
				w.stop(victim)
				was.promise = promiseOf(t, victim.dir)
				where := flip(t, victim.dir, random)
				// Alone at first: what it has, it has of itself.
				w.cable.split(map[string]bool{victim.id: true}, w.ids())
				n, err := consensus.Open(w.config(victim))
				switch {
				case errors.Is(err, consensus.ErrCorrupt):
					told++
					victim.port.Close()
				case err != nil:
					t.Errorf("flip %d in %s: it opens with %v", first+k, where, err)
				default:
					harmless++
					is := seen(n)
					if err := n.Close(); err != nil {
						t.Errorf("flip %d in %s: close: %v", first+k, where, err)
					}
					is.promise = promiseOf(t, victim.dir)
					if is.log != was.log {
						t.Errorf("flip %d in %s: the log ends at %v, it ended at %v", first+k, where, is.log, was.log)
					}
					if is.promise != was.promise {
						t.Errorf("flip %d in %s: term and vote are %s, they were %s", first+k, where, is.promise, was.promise)
					}
					if is.members != was.members {
						t.Errorf("flip %d in %s: the members are %s, they were %s", first+k, where, is.members, was.members)
					}
					if is.state != was.state {
						t.Errorf("flip %d in %s: the state differs:\n%s", first+k, where, difference(was.state, is.state))
					}
				}
				w.cable.heal()
				began := time.Now()
				w.start(victim)
				w.order()
				if took := time.Since(began); took > time.Minute {
					t.Errorf("flip %d in %s: the node was back after %v", first+k, where, took)
				}
				if a, b := content(victim.node.Load()), content(w.leader().node.Load()); a != b {
					t.Errorf("flip %d in %s: the node came back with another state:\n%s", first+k, where, difference(b, a))
				}
			}
		})
	}
	t.Logf("%d flips: %d told, %d harmless", flips, told, harmless)
}
