package fleet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// history installs machine m1 again and again: tasks t00, t01, ... of which the
// last is its own and all others are past.
func history(t *testing.T, tasks int) *rig {
	t.Helper()
	r := newRig(t)
	r.s.past.unpacked = 2
	r.must(debian())
	for i := range tasks {
		id := fmt.Sprintf("t%02d", i)
		r.must(create(id), report("boot-"+id, withDebian(sda()), disk("DISK-B", 500)))
		r.install(id)
		r.must(ReportUp{PhoneToken: "token-" + id, Hostname: "web1"})
	}
	return r
}

func TestAPastTaskIsAllThatItWas(t *testing.T) {
	r := history(t, 1)
	was := map[string]*Task{}
	for i := range 6 {
		last := r.s.Tasks()[i]
		was[last.ID] = last
		id := fmt.Sprintf("t%02d", i+1)
		r.must(create(id), report("boot-"+id))
		r.install(id)
	}
	if n := len(r.s.past.list); n != 6 || r.s.past.list[0].pack == nil || r.s.past.list[5].pack != nil || len(r.s.CurrentTasks()) != 1 {
		t.Fatalf("%d tasks are past, %d current", n, len(r.s.CurrentTasks()))
	}
	for id, want := range was {
		if got := r.task(id); !reflect.DeepEqual(got, want) {
			t.Errorf("task %s is\n%s\nit was\n%s", id, asJSON(got), asJSON(want))
		}
	}
	if k := r.s.past.list[0].pack; len(k.Tasks) != 4 || len(k.Packed) > 4*350 {
		t.Errorf("%d packed tasks are %d bytes", len(k.Tasks), len(k.Packed))
	}
	if got := r.s.TaskByPhoneToken("token-t00"); got == nil || got.ID != "t00" {
		t.Errorf("its token finds %+v", got)
	}
}

func TestAPastTaskCanBeDeletedAndTriedAgain(t *testing.T) {
	r := history(t, 4)
	other := create("t90")
	other.TargetMAC = mac2
	r.must(other, CancelTask{TaskID: "t90", By: "ann"}) // a machine nobody has seen
	if ids := keysOf(r.s.past.list, func(p *pastTask) string { return p.ID }); !slices.Equal(ids, []string{"t00", "t01", "t02", "t90"}) {
		t.Fatalf("past are %v", ids)
	}
	r.must(ReportUp{PhoneToken: "token-t00"}) // told again
	r.refused(Conflict, RetryTask{TaskID: "t00", By: "ann", PhoneToken: "x"})
	r.refused(Invalid, create("t00"))
	r.must(DeleteTask{TaskID: "t00"})
	if r.s.Task("t00") != nil || r.s.TaskByPhoneToken("token-t00") != nil {
		t.Error("a past task was deleted and is there")
	}
	r.refused(NotFound, DeleteTask{TaskID: "t00"})
	r.must(RetryTask{TaskID: "t90", By: "ann", PhoneToken: "x"})
	if got := r.task("t90"); got.Generation != 2 || r.s.tasks["t90"] != got || r.s.past.get("t90") != nil || r.s.TaskByPhoneToken("token-t90") != nil {
		t.Errorf("tried again it is %+v", got)
	}
	r.must(CancelTask{TaskID: "t90", By: "ann"}, DeleteMachine{MachineID: "m1"})
	if ids := keysOf(r.s.past.list, func(p *pastTask) string { return p.ID }); !slices.Equal(ids, []string{"t01", "t02", "t03", "t90"}) || len(r.s.tasks) != 0 {
		t.Errorf("without its machine, past are %v", ids)
	}
}

func idsOf(tasks []*Task) string {
	return strings.Join(keysOf(tasks, func(t *Task) string { return t.ID }), " ")
}

func TestTasksComeInPages(t *testing.T) {
	r := history(t, 5)
	other := create("t02b")
	other.TargetMAC, other.RegionID = mac2, "dc2"
	r.must(other)
	for _, c := range []struct {
		q    TaskQuery
		want string
		more bool
	}{
		{TaskQuery{Limit: 10}, "t04 t03 t02b t02 t01 t00", false},
		{TaskQuery{Limit: 6}, "t04 t03 t02b t02 t01 t00", false},
		{TaskQuery{Limit: 3}, "t04 t03 t02b", true},
		{TaskQuery{Limit: 3, Before: "t02b"}, "t02 t01 t00", false},
		{TaskQuery{Limit: 2, Before: "t02b"}, "t02 t01", true},
		{TaskQuery{Limit: 2, Status: wire.StatusCompleted}, "t04 t03", true},
		{TaskQuery{Limit: 2, Status: wire.StatusPending}, "t02b", false},
		{TaskQuery{Limit: 9, RegionID: "dc2"}, "t02b", false},
		{TaskQuery{Limit: 9, MachineID: "m1", Before: "t03"}, "t02 t01 t00", false},
		{TaskQuery{Limit: 9, MachineID: "m9"}, "", false},
		{TaskQuery{Limit: 0}, "", true},
	} {
		page := r.s.TaskPage(c.q)
		if got := idsOf(page.Tasks()); got != c.want || page.More != c.more {
			t.Errorf("%+v gives %s (more: %v), want %s", c.q, got, page.More, c.want)
		}
	}
	if got := idsOf(r.s.RecentTasks()); got != "t02 t02b t03 t04" {
		t.Errorf("recent are %s", got)
	}
	if got := idsOf(r.s.Tasks()); got != "t00 t01 t02 t02b t03 t04" {
		t.Errorf("all are %s", got)
	}
	if got, want := r.s.TaskCounts(), (map[wire.Status]int{wire.StatusCompleted: 5, wire.StatusPending: 1}); !reflect.DeepEqual(got, want) {
		t.Errorf("there are %v, want %v", got, want)
	}
}

func TestAPastTaskThatCannotBeReadIsToldAndNotMissing(t *testing.T) {
	r := history(t, 5)
	whole := string(snapshotOf(t, r.s))
	from := strings.Index(whole, `"packed":"`) + len(`"packed":"`)
	s, err := Restore(strings.NewReader(whole[:from] + "AAAA" + whole[from+4:]))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Task("t00"); got == nil || got.ID != "t00" || got.Status != wire.StatusCompleted || !strings.Contains(got.Problem, "cannot be read") {
		t.Errorf("it is %+v", got)
	}
	for name, lines := range map[string]string{
		"there twice":          packOf(`{"id":"t1","status":"failed"}`) + "\n" + strings.Replace(packOf(`{"id":"t1","status":"failed"}`), `{"tasks"`, `{"machine_id":"m2","tasks"`, 1),
		"past and current":     `{"kind":"machine","value":{"id":"m1","task_id":"t1"}}` + "\n" + `{"kind":"task","value":{"id":"t1","status":"failed","machine_id":"m1"}}` + "\n" + packOf(`{"id":"t1","status":"failed"}`),
		"is open":              packOf(`{"id":"t1","status":"approved"}`),
		"is nameless":          packOf(`{"status":"failed"}`),
		"is none":              packOf(`null`),
		"is in no order":       packOf(`{"id":"t2","status":"failed"},{"id":"t1","status":"failed"}`),
		"is one of too many":   packOf(strings.TrimSuffix(strings.Repeat(`{"id":"t1","status":"failed"},`, packSize+1), ",")),
		"is not there":         packOf(``),
		"is in half a pack":    packOf(`{"id":"t1","status":"failed"}`) + "\n" + packOf(`{"id":"t2","status":"failed"}`),
		"is packed as nothing": `{"kind":"past","value":{"tasks":[{"id":"t1","status":"failed"}]}}`,
		"is packed otherwise":  `{"kind":"past","value":{"tasks":[{"id":"t1","status":"failed"}],"packed":7}}`,
		"is packed wrongly":    `{"kind":"past","value":{"tasks":[{"id":"t1","status":"failed"}],"packed":"!"}}`,
	} {
		head := fmt.Sprintf(`{"format":"lpmos-fleet","version":2,"records":%d}`+"\n", strings.Count(lines, "\n")+1)
		if _, err := Restore(strings.NewReader(head + lines)); err == nil {
			t.Errorf("a past task that %s was taken", name)
		}
	}
}

// packOf is a record of past tasks of no machine, with nothing in it.
func packOf(tasks string) string {
	return `{"kind":"past","value":{"tasks":[` + tasks + `],"packed":""}}`
}

func TestTasksArePackedAlikeWhateverTheirOrder(t *testing.T) {
	var tasks []*Task
	for i := range 3*packSize + 3 {
		tasks = append(tasks, &Task{ID: fmt.Sprintf("t%02d", i), MachineID: fmt.Sprint("m", i%2), Status: wire.StatusFailed, Problem: fmt.Sprint(i)})
	}
	written := func(p *pastTasks) string {
		for i, at := range p.list {
			if want := i < len(p.list)-p.unpacked; (at.pack != nil) != want {
				t.Fatalf("task %s is packed: %v, want %v", at.ID, at.pack != nil, want)
			}
		}
		for _, at := range unpack(p.list) {
			if want := *tasks[slices.IndexFunc(tasks, func(o *Task) bool { return o.ID == at.ID })]; !reflect.DeepEqual(*at, want) {
				t.Fatalf("task %s is %+v, it was %+v", at.ID, *at, want)
			}
		}
		return asJSON(p.all())
	}
	inOrder := &pastTasks{unpacked: 3}
	for _, task := range tasks {
		inOrder.add(task)
	}
	want := written(inOrder)
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		mixed := &pastTasks{unpacked: 3}
		for _, i := range rng.Perm(len(tasks)) {
			mixed.add(tasks[i])
			if rng.IntN(3) == 0 { // out and in again
				other := mixed.list[rng.IntN(len(mixed.list))].full()
				mixed.remove(other.ID)
				mixed.add(other)
			}
		}
		if got := written(mixed); got != want {
			t.Fatalf("seed %d: packed are\n%s\nwant\n%s", seed, got, want)
		}
	}
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(len(tasks)) {
		inOrder.remove(tasks[i].ID)
		written(inOrder)
	}
	if len(inOrder.list) > 0 || len(inOrder.of) > 0 {
		t.Errorf("all were removed, and there are %d tasks and packs of %d machines", len(inOrder.list), len(inOrder.of))
	}
}

// A state of version 1 had no past tasks of their own.
func TestAnOldSnapshotOfManyTasksIsRestored(t *testing.T) {
	r := history(t, 5)
	var old bytes.Buffer
	old.WriteString(`{"format":"lpmos-fleet","version":1,"index":9,"records":6}` + "\n")
	for _, m := range r.s.Machines() {
		fmt.Fprintf(&old, `{"kind":"machine","value":%s}`+"\n", asJSON(m))
	}
	for _, task := range r.s.Tasks() {
		former := *task
		former.FormerPlan = task.Plan // which version 1 kept
		fmt.Fprintf(&old, `{"kind":"task","value":%s}`+"\n", asJSON(former))
	}
	s := NewState()
	s.past.unpacked = 2
	if _, err := restore(&old, s); err != nil {
		t.Fatal(err)
	}
	if got, want := asJSON(s.Tasks()), asJSON(r.s.Tasks()); got != want {
		t.Errorf("the tasks are\n%s\nwant\n%s", got, want)
	}
	if _, want, _ := strings.Cut(content(t, r.s), `{"kind":"task"`); !strings.Contains(content(t, s), want[:strings.Index(want, `{"kind":"audit"`)]) {
		t.Errorf("restored, it is written as\n%s\nwant\n%s", content(t, s), want)
	}
}
