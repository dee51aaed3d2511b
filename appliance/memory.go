package appliance

import (
	"os"
	"runtime/debug"
)

// collectEarly lets the garbage collector begin when the heap has grown by four
// tenths, in place of doubled. Most of a node's memory is its fleet, which lives
// long: waiting for as much again in garbage would cost a node with 10,000
// machines 90 MB, and collecting more often costs it no figure that can be
// measured (make bench-scale). GOGC in the environment counts more.
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
}
