package fleet

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// again applies a command that is in the log already, at the next index.
func (r *rig) again(c Command) (any, error) {
	r.t.Helper()
	r.index++
	r.at = r.at.Add(1)
	c.Retry, c.At = true, r.at
	before := content(r.t, r.s)
	result, events, err := r.s.Apply(r.index, c)
	if len(events) > 0 || content(r.t, r.s) != before {
		r.t.Errorf("%s was done twice: %v", c.Body.commandType(), events)
	}
	if r.s.Index() != r.index {
		r.t.Errorf("the state is at %d, not %d", r.s.Index(), r.index)
	}
	return result, err
}

func TestACommandIsDoneOnce(t *testing.T) {
	cases := []struct {
		name string
		rig  func() *rig
		body func(r *rig) Body
		same bool // the result is the very value
	}{
		{"a task made", func() *rig { r := newRig(t); r.must(debian()); return r }, func(*rig) Body { return create("t1") }, true},
		{"a task started", func() *rig { return at(t, wire.StatusApproved) }, func(r *rig) Body { return r.start("t1") }, true},
		{"a task tried again", func() *rig { return at(t, wire.StatusFailed) }, func(*rig) Body { return RetryTask{TaskID: "t1", PhoneToken: "x"} }, true},
		{"a machine", func() *rig { return newRig(t) }, func(*rig) Body { return report("boot-1") }, true},
		{"an image", func() *rig { return newRig(t) }, func(*rig) Body { return debian() }, true},
		{"a node", func() *rig { return newRig(t) }, func(*rig) Body { return PutNode{Node{ID: "n1"}} }, true},
		{"a cluster", func() *rig { return newRig(t) }, func(*rig) Body { return PutCluster{Cluster{ID: "c1"}} }, true},
		{"an epoch", func() *rig { r := newRig(t); r.must(PutCluster{Cluster{ID: "c1"}}); return r }, func(*rig) Body { return RaiseEpoch{Reason: "fire"} }, true},
		{"a token", func() *rig { return newRig(t) }, func(r *rig) Body {
			return CreateToken{ID: "k1", SecretHash: "h", ExpiresAt: r.at.Add(1e12)}
		}, true},
		{"a pool", func() *rig { r := newRig(t); r.must(PutNode{Node{ID: "n1"}}); return r }, func(*rig) Body {
			return ClaimPool{NodeID: "n1", Network: lan, First: "10.0.0.1", Last: "10.0.0.9"}
		}, true},
		{"a deletion", func() *rig { return at(t, wire.StatusCompleted) }, func(*rig) Body { return DeleteTask{TaskID: "t1"} }, false},
		{"a deleted image", func() *rig { r := newRig(t); r.must(debian()); return r }, func(*rig) Body { return DeleteImage{Name: "debian-12"} }, false},
		{"nothing", func() *rig { return newRig(t) }, func(*rig) Body { return LeaveAgent{SessionHash: "nobody"} }, true},
		{"a conflict", func() *rig { return at(t, wire.StatusPending) }, func(*rig) Body { return create("t2") }, true},
		{"a field at fault", func() *rig { return newRig(t) }, func(*rig) Body { return CreateTask{ID: "t1", TargetMAC: "x"} }, true},
		{"a stale plan", func() *rig { return at(t, wire.StatusPendingApproval) }, func(*rig) Body {
			return DecideTask{TaskID: "t1", Approved: true, PlanHash: "old"}
		}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := c.rig()
			cmd := r.command(c.body(r))
			result, _, err := r.s.Apply(r.index, cmd)
			got, gotErr := r.again(cmd)
			if c.same && got != result || !c.same && got != nil {
				t.Errorf("again it gives %+v, it gave %+v", got, result)
			}
			if asJSON(gotErr) != asJSON(err) || fmt.Sprint(gotErr) != fmt.Sprint(err) {
				t.Errorf("again it is refused with %+v, it was with %+v", gotErr, err)
			}
			// What it gives is what it is by now, and so says who comes from a snapshot.
			restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
			if err != nil {
				t.Fatal(err)
			}
			twin := &rig{t: t, s: restored, index: r.index, at: r.at}
			same, sameErr := twin.again(cmd)
			if asJSON(same) != asJSON(got) || asJSON(sameErr) != asJSON(gotErr) {
				t.Errorf("from a snapshot it gives %+v (%v), otherwise %+v (%v)", same, sameErr, got, gotErr)
			}
		})
	}
}

func TestAResultThatIsGoneIsToldSo(t *testing.T) {
	r := newRig(t)
	r.must(debian())
	cmd := r.command(create("t1"))
	r.s.Apply(r.index, cmd) //nolint:errcheck // what it gives is in other tests
	r.must(DeleteTask{TaskID: "t1"})
	if _, err := r.again(cmd); ErrorCode(err) != NotFound || !strings.Contains(err.Error(), "task t1 has been deleted since") {
		t.Errorf("it gives %v", err)
	}
}

func TestARepeatThatComesTooLateIsUncertain(t *testing.T) {
	r := newRig(t)
	r.must(PutNode{Node{ID: "n0"}})
	first := r.command(PutNode{Node{ID: "n1"}})
	since := r.index - 1      // what the node knew when it asked
	r.s.Apply(r.index, first) //nolint:errcheck // it is taken
	for i := range maxDone {
		r.must(NoteLeader{NodeID: "n1", Term: uint64(i) + 1})
		if i == maxDone-2 {
			if _, err := r.again(first); err != nil {
				t.Fatalf("while it is kept it gives %v", err)
			}
		}
	}
	late := first
	late.Retry, late.Since = true, since
	apply := func(s *State, c Command) (any, error) {
		result, events, err := s.Apply(r.index+1, c)
		if err != nil && len(events) > 0 {
			t.Errorf("a refusal tells %v", events)
		}
		return result, err
	}
	restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*State{"replayed": r.s, "restored": restored} {
		before := s.Node("n1")
		if _, err := apply(s, late); ErrorCode(err) != Uncertain || s.Node("n1") != before {
			t.Errorf("%s: too late it gives %v", name, err)
		}
		// One that was asked for first when its id would still be kept was not done.
		fresh := late
		fresh.ID, fresh.Since = "fresh", s.done.floor
		if _, err := apply(s, fresh); err != nil || s.Node("n1") == before {
			t.Errorf("%s: in time it gives %v", name, err)
		}
		if len(s.done.byID) != maxDone || len(s.done.order) != maxDone {
			t.Errorf("%s: %d ids are kept, %d in order", name, len(s.done.byID), len(s.done.order))
		}
	}
}

func TestAnIDIsNotKeptWithoutNeed(t *testing.T) {
	r := newRig(t)
	old := Command{Version: 1, ID: "x", At: r.at, Body: PutNode{Node{ID: "n1"}}}
	nameless := Command{Version: commandVersion, At: r.at, Body: PutNode{Node{ID: "n1"}}}
	for _, c := range []Command{old, nameless} {
		for range 2 {
			r.index++
			if _, events, err := r.s.Apply(r.index, c); err != nil || len(events) == 0 {
				t.Errorf("%+v gives %v (%v)", c, events, err)
			}
		}
	}
	if len(r.s.done.order) > 0 {
		t.Errorf("these are kept: %+v", r.s.done.order)
	}
}

func TestALongRefusalIsKeptShort(t *testing.T) {
	r := newRig(t)
	cmd := r.command(DeleteImage{Name: strings.Repeat("ü", 3000)})
	if _, _, err := r.s.Apply(r.index, cmd); ErrorCode(err) != NotFound {
		t.Fatal(err)
	}
	_, err := r.again(cmd)
	if ErrorCode(err) != NotFound || len(err.Error()) > maxSentence || !strings.HasPrefix(err.Error(), "there is no image üü") {
		t.Errorf("it is kept as %v", err)
	}
}

func TestSeveralCommandsInOneEntry(t *testing.T) {
	r := newRig(t)
	cmds := []Command{r.command(PutNode{Node{ID: "n1"}}), r.command(PutNode{Node{}}), r.command(PutNode{Node{ID: "n2"}})}
	cmds[2].Retry, cmds[2].Since = true, 7
	cmds = append(cmds, cmds[0])
	raw, err := EncodeEntry(cmds)
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeEntry(raw)
	if err != nil || asJSON(back) != asJSON(cmds) || len(back) != 4 {
		t.Fatalf("%s is read as %+v (%v)", raw, back, err)
	}
	var got []string
	for _, c := range back {
		_, events, err := r.s.Apply(5, c)
		for _, ev := range events {
			if ev.Index != 5 {
				t.Errorf("event %+v is not of entry 5", ev)
			}
		}
		got = append(got, fmt.Sprint(len(events), ErrorCode(err)))
	}
	if want := []string{"2", "0invalid", "2", "0"}; strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("they gave %q, want %q", got, want)
	}
	one, err := EncodeEntry(cmds[:1])
	alone, err2 := cmds[0].Encode()
	if err != nil || err2 != nil || !bytes.Equal(one, alone) {
		t.Errorf("one command is %s, want %s (%v, %v)", one, alone, err, err2)
	}
	if _, err := EncodeEntry(nil); err == nil {
		t.Error("an entry of no commands was made")
	}
	for _, bad := range []string{"", "[", "[]", "[[]]", "[null]", "{}", string(raw) + "x", strings.Replace(string(raw), "put_node", "teleport", 1)} {
		if got, err := DecodeEntry([]byte(bad)); err == nil {
			t.Errorf("%q is read as %+v", bad, got)
		}
	}
}
