package consensus

import (
	"errors"
	"testing"
	"time"
)

// A disk that hangs: the write is given up, and what it leaves behind when it
// lands after all is taken away before the next.
func TestAWriteThatHangsLeavesNothingBehind(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	g := &guard{deadline: 20 * time.Millisecond, stop: stop, failed: func(err error) { t.Errorf("the disk counts as lost: %v", err) }}
	var order []string
	release := make(chan struct{})
	err := g.write(func() error { <-release; order = append(order, "late"); return nil }, func() error { order = append(order, "undo"); return nil })
	if !errors.Is(err, errHangs) {
		t.Fatalf("a write that hangs gives %v", err)
	}
	if err := g.write(func() error { return nil }, nil); !errors.Is(err, errHangs) {
		t.Fatalf("a write behind one that hangs gives %v", err)
	}
	close(release)
	g.deadline = 10 * time.Second
	if err := g.write(func() error { order = append(order, "next"); return nil }, nil); err != nil {
		t.Fatal(err)
	}
	if got := order; len(got) != 3 || got[0] != "late" || got[1] != "undo" || got[2] != "next" {
		t.Errorf("the order was %v", got)
	}
	if err := g.write(func() error { order = append(order, "more"); return nil }, nil); err != nil || len(order) != 4 {
		t.Errorf("then %v (%v)", order, err)
	}
}
