package netboot

import (
	"testing"
	"time"
)

func TestABucketGivesAllItHasAtOnceAndFillsAgain(t *testing.T) {
	now := time.Unix(1700000000, 0)
	b := &bucket{burst: 10, each: 2}
	given := func(after time.Duration) (n int) {
		now = now.Add(after)
		for range 100 {
			if b.allow(now) {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 10}, {0, 0}, {time.Second, 2}, {500 * time.Millisecond, 1}, {100 * time.Millisecond, 0}, {time.Hour, 10}, {-time.Hour, 0}, {time.Second, 2}} {
		if got := given(c.after); got != c.want {
			t.Errorf("%s later: %d, want %d", c.after, got, c.want)
		}
	}
	if !(*bucket)(nil).allow(now) {
		t.Error("none at all lets nothing happen")
	}
}
