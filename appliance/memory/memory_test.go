package memory

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestASmallHeapMayLetGarbageLie(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{
		{0, 1200},
		{4 << 20, 1200},
		{12 << 20, 400},
		{48 << 20, 100},
		{120 << 20, 40},
		{2 << 30, 40},
	} {
		if got := percent(c.live); got != c.want {
			t.Errorf("with %d MiB alive the heap may grow by %d %%, not %d", c.live>>20, got, c.want)
		}
	}
}

func TestTheMeasureFollowsTheHeap(t *testing.T) {
	t.Setenv("GOGC", "")
	defer debug.SetGCPercent(100)
	Tune()
	large := make([]byte, 400<<20)
	now := 0
	for range 100 { // the tuner runs some time after a collection
		runtime.GC()
		now = debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		if now == share {
			break
		}
		runtime.Gosched()
	}
	runtime.KeepAlive(large)
	if now != share {
		t.Errorf("with 400 MiB alive the heap may grow by %d %%", now)
	}
}
