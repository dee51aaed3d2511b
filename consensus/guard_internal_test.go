package consensus

import (
	"errors"
	"syscall"
	"testing"
	"testing/synctest"
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

// Raft that starts anew reads the log: it must not find, nor lose later, what
// counts as not written.
func TestAWriteThatHungIsOverBeforeTheLogIsReadAnew(t *testing.T) {
	stop := make(chan struct{})
	g := &guard{deadline: 10 * time.Millisecond, stop: stop}
	var order []string
	release := make(chan struct{})
	if err := g.write(func() error { <-release; order = append(order, "late"); return nil }, func() error { order = append(order, "undo"); return nil }); !errors.Is(err, errHangs) {
		t.Fatal(err)
	}
	settled := make(chan error, 1)
	go func() { settled <- g.settle() }()
	select {
	case err := <-settled:
		t.Fatalf("it did not wait for the write (%v)", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(release)
	if err := <-settled; err != nil {
		t.Fatal(err)
	}
	g.deadline = 10 * time.Second
	if err := g.write(func() error { order = append(order, "next"); return nil }, nil); err != nil {
		t.Fatal(err)
	}
	if len(order) != 3 || order[0] != "late" || order[1] != "undo" || order[2] != "next" {
		t.Errorf("the order was %v", order)
	}
	never := make(chan struct{})
	g.deadline = time.Millisecond
	if err := g.write(func() error { <-never; return nil }, func() error { return nil }); !errors.Is(err, errHangs) {
		t.Fatal(err)
	}
	close(stop)
	if err := g.settle(); !errors.Is(err, errStopping) {
		t.Errorf("a node that ends waits for its disk: %v", err)
	}
}

// A disk that was full is used again at once when there is much room, after a while
// when there is some, and not while there is none.
func TestHowMuchRoomIsRoom(t *testing.T) {
	for _, c := range []struct {
		name   string
		free   uint64
		within time.Duration // 0: never
	}{
		{"much", roomAgain, time.Second},
		{"some", someRoom, tryAgain + time.Second},
		{"hardly any", someRoom - 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stop := make(chan struct{})
				g := &guard{free: func(string) (uint64, error) { return c.free, nil }, stop: stop}
				_ = g.note(syscall.ENOSPC)
				time.AfterFunc(time.Hour, func() { close(stop) })
				began := time.Now()
				is := g.room()
				if took := time.Since(began); is != (c.within > 0) || is && (took > c.within || took < c.within-time.Second) {
					t.Errorf("room: %v after %v", is, took)
				}
			})
		})
	}
}
