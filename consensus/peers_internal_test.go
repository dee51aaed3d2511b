package consensus

import (
	"testing"
	"time"
)

// A follower that stands still is connected to anew, unless it is being sent a
// snapshot: over a slow line that takes longer than anybody waits for an entry,
// and none that is cut every few seconds would ever arrive.
func TestWhenAFollowerStandsStill(t *testing.T) {
	now := time.Now()
	one := &peer{up: true, moved: now, lastLog: 5}
	p := &peers{by: map[string]*peer{"n2": one}}
	sent := uint64(0)
	after := func(d time.Duration, bytes uint64) bool {
		now, sent = now.Add(d), sent+bytes
		return p.stuck("n2", 10, sent, now)
	}
	for range 20 {
		if after(4*time.Second, bulk) {
			t.Fatal("it is cut off while it is being filled")
		}
	}
	if after(stuckAfter/2, bulk/10) {
		t.Error("it is cut off at once")
	}
	if !after(stuckAfter/2, bulk/10) {
		t.Error("it stands still, for all the heartbeats")
	}
	if after(stuckAfter/2, 0) {
		t.Error("it is not given time again")
	}
	one.lastLog = 10
	if after(2*stuckAfter, 0) {
		t.Error("it has all there is")
	}
}
