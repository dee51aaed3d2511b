// Package memory sets how much garbage a node lets lie before it collects it.
package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// The garbage collector begins when the heap has grown by four tenths of what
// lives in it, in place of doubled: most of a large node's memory is its fleet,
// which lives long, and waiting for as much again in garbage would cost a node
// with 10,000 machines 70 MB. A small node has little that lives, and would
// collect without end when it is busy: it may always let some garbage lie. (Figures:
// make bench-scale, make bench-raft.)
const (
	share = 40       // of what lives, in percent
	floor = 48 << 20 // bytes
)

// Tune gives back to the system what reading the log has taken, and holds the
// garbage to the measure from then on; while the log is read the usual one makes
// the start faster by a quarter. GOGC in the environment counts more.
func Tune() {
	if os.Getenv("GOGC") == "" {
		follow(&tuner{})
	}
	debug.FreeOSMemory()
}

// tuner is seen off, and comes back, at the end of every collection.
type tuner struct {
	live    [3]metrics.Sample
	percent int
}

// follow sets the measure anew whenever the garbage collector finds that nothing
// points at the tuner, which is at the end of each of its rounds.
func follow(t *tuner) {
	// What the runtime's percentage is of.
	t.live[0].Name, t.live[1].Name, t.live[2].Name = "/gc/heap/live:bytes", "/gc/scan/stack:bytes", "/gc/scan/globals:bytes"
	metrics.Read(t.live[:])
	if p := percent(t.live[0].Value.Uint64() + t.live[1].Value.Uint64() + t.live[2].Value.Uint64()); p != t.percent {
		t.percent = p
		debug.SetGCPercent(p)
	}
	runtime.SetFinalizer(t, follow)
}

// percent is by how much a heap may grow of which so many bytes live. The runtime
// lets one of less than 4 MiB grow as if it were as large.
func percent(live uint64) int {
	return max(share, int(floor*100/max(live, 4<<20)))
}
