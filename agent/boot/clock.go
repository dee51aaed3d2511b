package boot

import (
	"syscall"
	"time"
)

// Limits of a clock that is left alone. The node's time on the command line is
// as old as the boot took since, so a clock may be ahead of it, but no further
// than a slow boot explains.
const (
	clockBehind = time.Minute
	clockAhead  = time.Hour
)

// clockIsWrong reports whether a clock showing now has to be set to node's time.
func clockIsWrong(now, node time.Time) bool {
	return now.Before(node.Add(-clockBehind)) || now.After(node.Add(clockAhead))
}

// Clock is the node's time: what it was when the script was written, and how long
// the kernel has run since. The machine's own clock, which may show any year, has
// no part in it.
func Clock(script time.Time) func() time.Time {
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil { // it never fails
		script = script.Add(time.Duration(info.Uptime) * time.Second)
	}
	begin := time.Now()
	return func() time.Time { return script.Add(time.Since(begin)) }
}

// ClockOff is how many seconds a clock showing now is ahead of the node's, 0 if that
// is no more than a boot explains.
func ClockOff(now, node time.Time) int64 {
	if !clockIsWrong(now, node) {
		return 0
	}
	return int64(now.Round(0).Sub(node) / time.Second)
}

// SetClock sets the machine's clock to the node's when it is far off, as it is on
// a machine whose battery is empty. The zero time changes nothing.
func SetClock(node time.Time, say Say) {
	now := time.Now()
	if node.IsZero() || !clockIsWrong(now, node) {
		return
	}
	tv := syscall.NsecToTimeval(node.UnixNano())
	if err := syscall.Settimeofday(&tv); err != nil {
		say("clock: cannot be set to %s: %v", node.UTC().Format(time.DateTime), err)
		return
	}
	say("clock: was %s, set to %s UTC as the node says", now.UTC().Format(time.DateTime), node.UTC().Format(time.DateTime))
}
