package consensus_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// childDir makes this binary the process that is killed: it writes to a node in
// the directory until its end, and tells what was acknowledged.
const childDir = "LPMOS_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func writeUntilKilled(dir string) error {
	cfg := consensustest.Config(dir)
	cfg.SnapshotBytes, cfg.TrailingEntries = 64<<10, 16 // snapshots under fire, too
	n, err := consensus.Open(cfg)
	if err != nil {
		return err
	}
	if err := n.Ready(context.Background()); err != nil {
		return err
	}
	failed := make(chan error)
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				if _, err := n.Propose(context.Background(), putNode(id)); err != nil {
					failed <- err
					return
				}
				// One write to a pipe is whole or not there.
				if _, err := os.Stdout.WriteString(id + "\n"); err != nil {
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

func TestNothingAcknowledgedIsLostByKill9(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	var acked []string
	for range rounds {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		after := 50 + rand.IntN(400)
		lines := bufio.NewScanner(out)
		count := 0
		for lines.Scan() {
			acked = append(acked, lines.Text())
			if count++; count == after {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		child.Wait() //nolint:errcheck // it was killed
		if count < after {
			t.Fatalf("the child ended by itself after %d writes", count)
		}
	}
	n := consensustest.Open(t, consensustest.Config(dir))
	n.View(func(s *fleet.State) {
		for _, id := range acked {
			if s.Node(id) == nil {
				t.Errorf("%s was acknowledged and is gone", id)
			}
		}
		t.Logf("%d acknowledged in %d lives, %d kept, snapshot at %v", len(acked), rounds, len(s.Nodes()), n.Stats()["snapshot_index"])
	})
}
