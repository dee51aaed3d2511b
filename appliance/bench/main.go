// Command bench measures how many task updates a second three nodes agree on,
// beside a cluster of three etcd on the same disk in the same run.
//
// Both sync every write, both run as three processes on loopback, and each round
// measures one after the other. The writers of LPMOS are where they are in the
// product, inside the nodes, a third on each, so two thirds of the writes are
// forwarded to the leader over mutual TLS. Those of etcd use its own Go client, a
// third with each endpoint, without TLS.
//
// It is a module of its own: the product needs nothing of etcd.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// valueBytes is the size of one value, and tasks how many are updated.
const (
	valueBytes = 256
	tasks      = 256
	members    = 3
)

// result of one measurement.
type result struct {
	Ops  int             `json:"ops"`
	Took time.Duration   `json:"took"`
	Lat  []time.Duration `json:"lat"` // sorted
	CPU  time.Duration   `json:"-"`   // of all processes of the cluster, and of who writes to it
}

func (r result) rate() float64 { return float64(r.Ops) / r.Took.Seconds() }

func (r result) at(p float64) time.Duration {
	if len(r.Lat) == 0 {
		return 0
	}
	return r.Lat[min(len(r.Lat)-1, int(p*float64(len(r.Lat))))]
}

// store is a cluster that can be written to by a number of writers.
type store interface {
	run(ctx context.Context, writers int, d time.Duration) (result, error)
	pids() []int // its processes, and that of its writers
	close()
}

// cpu is the processor time that processes have used so far.
func cpu(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		// Behind the name in brackets: fields 14 and 15 of all, in hundredths of a second.
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 12 {
			for _, ticks := range f[11:13] {
				n, err := strconv.Atoi(ticks)
				if err == nil {
					sum += time.Duration(n) * 10 * time.Millisecond
				}
			}
		}
	}
	return sum
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "node" {
		if err := node(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "node:", err)
			os.Exit(1)
		}
		return
	}
	dir := flag.String("dir", "", "where both clusters keep their data; a new folder of the system's by default")
	rounds := flag.Int("rounds", 3, "measurements of each, in turn")
	seconds := flag.Int("seconds", 5, "length of each")
	list := flag.String("writers", "1,16,64,256", "numbers of writers")
	flag.Parse()
	if err := compare(*dir, *rounds, time.Duration(*seconds)*time.Second, *list); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func compare(dir string, rounds int, d time.Duration, list string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "lpmos-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	ours, err := startNodes(ctx, dir)
	if err != nil {
		return fmt.Errorf("start three nodes: %w", err)
	}
	defer ours.close()
	theirs, err := startEtcd(ctx, dir)
	if err != nil {
		return fmt.Errorf("start three etcd: %w", err)
	}
	defer theirs.close()
	fmt.Printf("%8s  %34s  %34s  %20s\n", "writers", "lpmos /s, p50, p99, CPU each", "etcd /s, p50, p99, CPU each", "ratio /s, p99, CPU")
	for text := range strings.SplitSeq(list, ",") {
		writers, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || writers < 1 || writers > tasks {
			return fmt.Errorf("writers: %q is no number from 1 to %d", text, tasks)
		}
		var a, b []result
		for range rounds {
			for _, side := range []struct {
				s   store
				out *[]result
			}{{ours, &a}, {theirs, &b}} {
				before := cpu(side.s.pids())
				r, err := side.s.run(ctx, writers, d)
				if err != nil {
					return err
				}
				r.CPU = cpu(side.s.pids()) - before
				*side.out = append(*side.out, r)
			}
		}
		x, y := median(a), median(b)
		fmt.Printf("%8d  %34s  %34s  %20s\n", writers, line(x), line(y),
			fmt.Sprintf("%.2f, %.2f, %.2f", x.rate()/y.rate(), float64(x.at(0.99))/float64(y.at(0.99)), float64(x.each())/float64(y.each())))
	}
	return nil
}

// median is the measurement with the middle rate.
func median(rs []result) result {
	slices.SortFunc(rs, func(a, b result) int { return int(a.rate() - b.rate()) })
	return rs[len(rs)/2]
}

// each is the processor time of one update.
func (r result) each() time.Duration { return r.CPU / time.Duration(max(1, r.Ops)) }

func line(r result) string {
	return fmt.Sprintf("%.0f, %s, %s, %s", r.rate(), r.at(0.5).Round(100*time.Microsecond), r.at(0.99).Round(100*time.Microsecond), r.each().Round(time.Microsecond))
}

// writeAll runs writers that each repeat write until the time is over.
func writeAll(ctx context.Context, writers int, d time.Duration, write func(ctx context.Context, writer, n int) error) (result, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	end := time.Now().Add(d)
	type one struct {
		lat []time.Duration
		err error
	}
	done := make(chan one)
	began := time.Now()
	for w := range writers {
		go func() {
			var o one
			for n := 0; time.Now().Before(end) && o.err == nil; n++ {
				at := time.Now()
				o.err = write(ctx, w, n)
				o.lat = append(o.lat, time.Since(at))
			}
			done <- o
		}()
	}
	var r result
	var err error
	for range writers {
		o := <-done
		r.Lat = append(r.Lat, o.lat...)
		if o.err != nil && err == nil {
			err = o.err
			cancel()
		}
	}
	r.Took, r.Ops = time.Since(began), len(r.Lat)
	slices.Sort(r.Lat)
	return r, err
}
