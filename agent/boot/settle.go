package boot

import (
	"context"
	"os"
	"strings"
	"time"
)

// Times of Settle. Adapters scan their ports after their driver is loaded, and
// say nowhere when they are done.
const (
	settleStep  = 200 * time.Millisecond
	settleQuiet = time.Second      // with a disk: no new one for so long
	settleNone  = 20 * time.Second // without a disk
	settleMost  = 60 * time.Second
)

// Settle waits until the disks of the machine have shown themselves: until none
// was added for a while. rescan is called at each look, to load drivers of what
// appears.
func Settle(ctx context.Context, rescan func()) {
	start := time.Now()
	last, since := "", start
	for time.Since(start) < settleMost && ctx.Err() == nil {
		rescan()
		now, some := blockDevices("/sys/block")
		if now != last {
			last, since = now, time.Now()
		}
		quiet := settleNone
		if some {
			quiet = settleQuiet
		}
		if time.Since(since) >= quiet {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(settleStep):
		}
	}
}

// blockDevices returns the names in one string, and whether a disk is among them.
func blockDevices(dir string) (names string, disk bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", false
	}
	var b strings.Builder
	for _, e := range entries {
		b.WriteString(e.Name() + " ")
		for _, p := range []string{"sd", "nvme", "vd", "xvd", "hd", "mmcblk"} {
			disk = disk || strings.HasPrefix(e.Name(), p)
		}
	}
	return b.String(), disk
}
