package consensus

import "testing"

func TestTheTailOfTheLogIsBoundedInBytesToo(t *testing.T) {
	for _, c := range []struct {
		name  string
		sizes []int64
		want  uint64
	}{
		{"nothing known", nil, 4},
		{"all small", []int64{1, 1, 1}, 4},
		{"as many as there may be", []int64{2, 2, 2, 2, 2, 2}, 4},
		{"the newest are large", []int64{1, 1, 6, 6}, 1},
		{"an old one is large", []int64{9, 1, 1, 1}, 3},
		{"a large one has left the ring", []int64{9, 9, 1, 1, 1, 1}, 4},
		{"one alone is too large", []int64{100}, 1},
	} {
		tail := newTail(4)
		for _, size := range c.sizes {
			tail.add(size)
		}
		if got := tail.within(10); got != c.want {
			t.Errorf("%s: %d entries, want %d", c.name, got, c.want)
		}
	}
}
