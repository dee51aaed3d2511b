package appliance

import (
	"os"
	"runtime/debug"
)

// collectEarly is called when the log has been read. What that took is given back
// to the system, and from then on the garbage collector begins when the heap has
// grown by four tenths, in place of doubled: most of a node's memory is its
// fleet, which lives long, and waiting for as much again in garbage would cost a
// node with 10,000 machines 70 MB. While the log is read the usual measure makes
// the start faster by a quarter. GOGC in the environment counts more. (Figures:
// make bench-scale.)
func collectEarly() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	debug.FreeOSMemory()
}
