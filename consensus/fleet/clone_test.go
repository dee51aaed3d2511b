package fleet

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func TestACloneGoesItsOwnWay(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRig(t)
		r.s.past.unpacked = 1
		r.must(debian())
		steps := func() {
			for range rapid.IntRange(1, 25).Draw(rt, "steps") {
				r.do(anyBody(rt, r)) //nolint:errcheck // a refusal is a step like another
			}
		}
		steps()
		s := r.s
		was := content(t, s)
		clone := s.Clone()
		if got := content(t, clone); got != was {
			rt.Fatalf("the clone is\n%s\nits original\n%s", got, was)
		}
		checkInvariants(rt, clone)
		r.s = clone
		steps()
		if got := content(t, s); got != was {
			rt.Fatalf("the clone was changed, and the original with it:\n%s\nit was\n%s", got, was)
		}
		checkInvariants(rt, s)
		r.s = s
		is := content(t, clone)
		steps()
		if got := content(t, clone); got != is {
			rt.Fatalf("the original was changed, and the clone with it:\n%s\nit was\n%s", got, is)
		}
	})
}

// TestACloneSharesNothingThatChanges finds maps and lists of the state that
// somebody has added and Clone does not know.
func TestACloneSharesNothingThatChanges(t *testing.T) {
	s := history(t, 5).s
	a, b := reflect.ValueOf(s).Elem(), reflect.ValueOf(s.Clone()).Elem()
	var compare func(name string, a, b reflect.Value)
	compare = func(name string, a, b reflect.Value) {
		switch a.Kind() {
		case reflect.Map, reflect.Slice:
			if a.Len() > 0 && a.Pointer() == b.Pointer() {
				t.Errorf("%s is shared with the clone", name)
			}
		case reflect.Struct:
			for i := range a.NumField() {
				compare(name+"."+a.Type().Field(i).Name, a.Field(i), b.Field(i))
			}
		}
	}
	compare("State", a, b)
}
