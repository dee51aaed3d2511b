// Package consensustest gives tests a consensus.Node on a directory of its own.
//
// Cluster is several of them on a Network that can be cut, slowed and healed.
package consensustest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// Config is a configuration with short timers for a node on the directory.
func Config(dir string) consensus.Config {
	return consensus.Config{
		Dir: dir, Name: "n1", Region: "dc1", Version: "test",
		Logger:           slog.New(slog.DiscardHandler),
		Heartbeat:        50 * time.Millisecond,
		ProgressInterval: 50 * time.Millisecond,
	}
}

// Open starts a node that is ready, and closes it when the test ends.
func Open(t testing.TB, cfg consensus.Config) *consensus.Node {
	t.Helper()
	n, err := consensus.Open(cfg)
	if err != nil {
		t.Fatalf("open node: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close node: %v", err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := n.Ready(ctx); err != nil {
		t.Fatalf("node is not ready: %v", err)
	}
	return n
}

// Node starts a node on a new directory.
func Node(t testing.TB) *consensus.Node {
	t.Helper()
	return Open(t, Config(t.TempDir()))
}

// Propose puts a command in the log, which must not be refused, and gives its
// result as the type the rule returns.
func Propose[T any](t testing.TB, n *consensus.Node, body fleet.Body) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	result, err := n.Propose(ctx, body)
	if err != nil {
		t.Fatalf("%T: %v", body, err)
	}
	out, _ := result.(T)
	return out
}
