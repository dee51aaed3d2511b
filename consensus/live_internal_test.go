package consensus

import (
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestNewsWaitsWhileAMessageIsOnItsWay(t *testing.T) {
	now := time.Now()
	l := &listener{progress: map[string]fleet.AdvanceItem{}, contacts: map[string]time.Time{}}
	tell := func(task string, percentage float64) {
		l.progress[task] = fleet.AdvanceItem{TaskID: task, Progress: wire.Progress{Percentage: percentage}}
	}
	if _, due := l.take(now); due {
		t.Fatal("nothing is told")
	}
	tell("a", 1)
	if m, due := l.take(now); !due || len(m.Progress) != 1 || len(m.Contacts) != 0 {
		t.Fatalf("the first message is %+v", m)
	}
	l.busy.Store(true)
	tell("a", 2)
	tell("b", 1)
	tell("a", 3)
	l.contacts["m"] = now.Add(-time.Second)
	l.contacts["early"] = now.Add(time.Second) // the clock was set back
	if _, due := l.take(now); due {
		t.Fatal("two messages are on their way")
	}
	l.busy.Store(false)
	m, due := l.take(now.Add(time.Second))
	if !due || len(m.Progress) != 2 || m.Contacts["m"] != 2*time.Second || m.Contacts["early"] != 0 {
		t.Fatalf("the second message is %+v", m)
	}
	for _, it := range m.Progress {
		if want := map[string]float64{"a": 3, "b": 1}[it.TaskID]; it.Progress.Percentage != want {
			t.Errorf("%s is told at %v, want the newest, %v", it.TaskID, it.Progress.Percentage, want)
		}
	}
	if _, due := l.take(now); due {
		t.Error("it is told twice")
	}
}
