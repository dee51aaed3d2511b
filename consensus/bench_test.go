package consensus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// BenchmarkPropose: acknowledged commands a second, each on disk.
func BenchmarkPropose(b *testing.B) {
	for _, writers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			n := consensustest.Node(b)
			jobs := make(chan int)
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := range jobs {
						if _, err := n.Propose(context.Background(), putNode(fmt.Sprint(i%1000))); err != nil {
							b.Error(err)
						}
					}
				})
			}
			b.ResetTimer()
			for i := range b.N {
				jobs <- i
			}
			close(jobs)
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

// BenchmarkProgress: 1,000 machines that install at once, and one viewer. One
// operation is one update; the fleet sends 10,000 a second.
func BenchmarkProgress(b *testing.B) {
	cfg := consensustest.Config(b.TempDir())
	cfg.ProgressInterval = time.Second
	n := consensustest.Open(b, cfg)
	const machines = 1000
	for i := range machines {
		installing(b, n, i)
	}
	w := n.SnapshotAndWatch(func(*fleet.State) {})
	var viewer sync.WaitGroup
	seen := 0
	viewer.Go(func() {
		for {
			events, err := w.Next(context.Background())
			if err != nil {
				return
			}
			seen += len(events)
		}
	})
	first := n.Stats()["log_index"].(uint64)
	b.ResetTimer()
	for i := range b.N {
		n.Progress(fmt.Sprint("t", i%machines), 1, downloading(20+40*float64(i)/float64(b.N)))
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
	b.ReportMetric(float64(n.Stats()["log_index"].(uint64)-first), "entries")
	w.Close()
	viewer.Wait()
	if seen == 0 {
		b.Error("the viewer saw nothing")
	}
}

// BenchmarkRestart: opening a directory with 1,000 machines that install.
func BenchmarkRestart(b *testing.B) {
	cfg := consensustest.Config(b.TempDir())
	n := consensustest.Open(b, cfg)
	for i := range 1000 {
		installing(b, n, i)
	}
	for b.Loop() {
		if err := n.Close(); err != nil {
			b.Fatal(err)
		}
		var err error
		if n, err = consensus.Open(cfg); err != nil {
			b.Fatal(err)
		}
		if err := n.Ready(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		b.Fatal(err)
	}
}
