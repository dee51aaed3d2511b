package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/lab/sim"
)

func TestWhenANodeIsKilledIsRead(t *testing.T) {
	for _, c := range []struct {
		in, node string
		part     float64
		after    time.Duration
	}{
		{"50%", "n1", 0.5, 0}, {"n2@12.5%", "n2", 0.125, 0}, {"20s", "n1", 0, 20 * time.Second}, {"n3@1m", "n3", 0, time.Minute},
		{"", "", 0, 0}, {"0%", "", 0, 0}, {"100%", "", 0, 0}, {"-1s", "", 0, 0}, {"@50%", "", 0, 0}, {"n1", "", 0, 0},
	} {
		node, part, after, err := parseKill(c.in)
		if node != c.node || part != c.part || after != c.after || (err == nil) != (c.node != "") {
			t.Errorf("%q: %q, %v, %s, %v", c.in, node, part, after, err)
		}
	}
}

// The fleet's lines come in pieces.
func TestTheFleetsLinesAreToldAndItsResultIsKept(t *testing.T) {
	var out bytes.Buffer
	f := &fleetRun{out: &out, begun: time.Now()}
	for _, piece := range []string{`{"say":"half `, "of them\"}\n{\"result\":{\"machines\":3,", `"seconds":1.5}}` + "\n"} {
		if n, err := f.Write([]byte(piece)); err != nil || n != len(piece) {
			t.Fatal(n, err)
		}
	}
	if want := "     0.0s  fleet half of them\n"; out.String() != want || f.result == nil || f.result.Machines != 3 {
		t.Errorf("%q, %+v", out.String(), f.result)
	}
	if _, err := f.Write([]byte("panic\n")); err == nil {
		t.Error("what is no line of the fleet is taken")
	}
	out.Reset()
	f = &fleetRun{out: &out, json: true, begun: time.Now(), result: &sim.Result{}}
	if _, err := f.Write([]byte(`{"say":"x"}` + "\n")); err != nil || out.Len() > 0 {
		t.Errorf("%v, %q beside JSON", err, out.String())
	}
}
