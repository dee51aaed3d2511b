package fleet

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func oneItem(change func(*AdvanceItem)) Advance {
	it := AdvanceItem{TaskID: "t-01", Generation: 3, Progress: wire.Progress{Stage: wire.StageDownloading, Percentage: 33.25, Message: "chunk 4 of 9",
		Details: wire.ProgressDetails{BytesDownloaded: 1 << 33, BytesTotal: 1 << 34, BytesWritten: 7, SpeedMbps: 941.5}}}
	if change != nil {
		change(&it)
	}
	return Advance{Items: []AdvanceItem{it}}
}

// What is written and read the short way is what encoding/json writes and reads;
// what looks unusual goes the long way and arrives all the same.
func TestQuickAdvance(t *testing.T) {
	for _, c := range []struct {
		name  string
		quick bool
		is    Advance
	}{
		{"ordinary", true, oneItem(nil)},
		{"several", true, Advance{Items: append(oneItem(nil).Items, oneItem(func(it *AdvanceItem) { it.TaskID = "t-02" }).Items...)}},
		{"nothing but zeros", true, Advance{Items: []AdvanceItem{{}}}},
		{"a stage nobody knows", true, oneItem(func(it *AdvanceItem) { it.Progress.Stage = "polishing" })},
		{"less than nothing", true, oneItem(func(it *AdvanceItem) { it.Progress.Percentage = -1.5 })},
		{"largest generation of 19 digits", true, oneItem(func(it *AdvanceItem) { it.Generation = 9_999_999_999_999_999_999 })},
		{"no items", false, Advance{Items: []AdvanceItem{}}},
		{"nil items", false, Advance{}},
		{"20 digits", false, oneItem(func(it *AdvanceItem) { it.Generation = math.MaxUint64 })},
		{"exponent", false, oneItem(func(it *AdvanceItem) { it.Progress.Details.SpeedMbps = 1e-9 })},
		{"quotes", false, oneItem(func(it *AdvanceItem) { it.Progress.Message = `wrote "a"` })},
		{"what HTML minds", false, oneItem(func(it *AdvanceItem) { it.Progress.Message = "a<b" })},
		{"letters beyond ASCII", false, oneItem(func(it *AdvanceItem) { it.Progress.Message = "größer" })},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, err := json.Marshal(c.is)
			if err != nil {
				t.Fatal(err)
			}
			got, err := encodeBody(c.is)
			if err != nil || !bytes.Equal(got, want) {
				t.Fatalf("written as\n%s (%v), not as\n%s", got, err, want)
			}
			if _, ok := decodeAdvance(want); ok != c.quick {
				t.Errorf("read the short way: %v", ok)
			}
			back, err := bodies["advance"](want)
			if err != nil || !reflect.DeepEqual(back, c.is) {
				t.Errorf("read as %+v (%v), not as %+v", back, err, c.is)
			}
		})
	}
}

// A field that is added to progress some day must not be lost on the short way.
func TestQuickAdvanceKnowsEveryField(t *testing.T) {
	var it AdvanceItem
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.Struct:
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.String:
			v.SetString("x")
		case reflect.Uint64:
			v.SetUint(7)
		case reflect.Float64:
			v.SetFloat(1.5)
		default:
			t.Fatalf("this test cannot fill a %s yet, nor can the quick way write it", v.Kind())
		}
	}
	fill(reflect.ValueOf(&it).Elem())
	a := Advance{Items: []AdvanceItem{it}}
	want, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := encodeAdvance(a); !ok || !bytes.Equal(got, want) {
		t.Errorf("written as\n%s (%v), not as\n%s", got, ok, want)
	}
	if got, ok := decodeAdvance(want); !ok || !reflect.DeepEqual(got, a) {
		t.Errorf("read as %+v (%v), not as %+v", got, ok, a)
	}
}

// Whatever is read the short way is read the same the long way.
func FuzzQuickAdvance(f *testing.F) {
	for _, a := range []Advance{oneItem(nil), {Items: []AdvanceItem{{}, {}}}, oneItem(func(it *AdvanceItem) { it.Progress.Message = "größer" })} {
		b, err := json.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(bytes.ReplaceAll(b, []byte("3"), []byte("03")))
		f.Add(bytes.ReplaceAll(b, []byte(`"message"`), []byte(`"Message"`)))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if quick, ok := decodeAdvance(b); ok {
			var slow Advance
			if err := json.Unmarshal(b, &slow); err != nil || !reflect.DeepEqual(quick, slow) {
				t.Fatalf("%q read as %+v, not as %+v (%v)", b, quick, slow, err)
			}
		}
		var a Advance
		if json.Unmarshal(b, &a) != nil {
			return
		}
		want, err := json.Marshal(a)
		if err != nil {
			return
		}
		if got, ok := encodeAdvance(a); ok && !bytes.Equal(got, want) {
			t.Fatalf("written as\n%s, not as\n%s", got, want)
		}
	})
}

func BenchmarkDecodeEntry(b *testing.B) {
	c := Command{ID: "01k", At: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), Body: oneItem(nil)}
	one, err := c.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEntry(one); err != nil {
			b.Fatal(err)
		}
	}
}
