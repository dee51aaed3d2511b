package doctor

import (
	"bytes"
	"context"
	"reflect"
	"strings"
	"testing"
)

// is makes a check that finds this.
func is(id string, v Verdict, under ...Check) Check {
	return Check{ID: id, Look: func(context.Context) Finding { return Finding{Verdict: v, Reason: id + " is " + string(v)} }, Under: under}
}

func TestTheTree(t *testing.T) {
	for _, c := range []struct {
		name    string
		checks  []Check
		told    string // the checks made, in their order, deeper ones with a dot each
		verdict Verdict
		cause   string
		exit    int
		hidden  int // below the first
	}{
		{"nothing", nil, "", OK, "", 0, 0},
		{"all well", []Check{is("a", OK, is("b", OK)), is("c", OK)}, "a .b c", OK, "", 0, 0},
		{"a warning hides nothing", []Check{is("a", Warn, is("b", OK))}, "a .b", Warn, "", 1, 0},
		{"a failure hides all below it", []Check{is("a", Fail, is("b", Fail, is("c", Fail)), is("d", OK)), is("e", OK)}, "a e", Fail, "a", 2, 3},
		{"what was skipped, too", []Check{is("a", Skip, is("b", Fail))}, "a", OK, "", 0, 1},
		{"the first failure is the cause", []Check{is("a", OK, is("b", OK, is("c", Fail))), is("d", Fail)}, "a .b ..c d", Fail, "c", 2, 0},
		{"a warning after a failure", []Check{is("a", Fail), is("b", Warn)}, "a b", Fail, "a", 2, 0},
		{"a failure after a warning", []Check{is("a", Warn), is("b", Fail)}, "a b", Fail, "b", 2, 0},
	} {
		var told []string
		r := Examine(t.Context(), c.checks, func(depth int, one Result) { told = append(told, strings.Repeat(".", depth)+one.ID) })
		cause := ""
		if r.Cause != nil {
			cause = r.Cause.ID
		}
		if got := strings.Join(told, " "); got != c.told || r.Verdict != c.verdict || cause != c.cause || r.Exit() != c.exit {
			t.Errorf("%s: %q, %s by %q, exit %d; want %q, %s by %q, exit %d", c.name, got, r.Verdict, cause, r.Exit(), c.told, c.verdict, c.cause, c.exit)
		}
		if len(r.Checks) > 0 && r.Checks[0].Hidden != c.hidden {
			t.Errorf("%s: %d are hidden, want %d", c.name, r.Checks[0].Hidden, c.hidden)
		}
	}
}

func TestAnEndEndsTheTree(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ending := Check{ID: "b", Look: func(context.Context) Finding { cancel(); return fail("", "it was ended") }}
	r := Examine(ctx, []Check{is("a", OK), ending, is("c", Fail)}, nil)
	if len(r.Checks) != 1 || r.Cause != nil {
		t.Errorf("%+v", r)
	}
}

// Every line has a sign and a word, and colour only where it is wanted.
func TestHowItIsPrinted(t *testing.T) {
	checks := []Check{
		is("configuration", OK, Check{ID: "link", Of: "eth0", Look: func(context.Context) Finding {
			return fail("sudo ip link set eth0 up", "it is switched off")
		}, Under: []Check{is("address", OK)}}),
		{ID: "clock", Look: func(context.Context) Finding { return warn("", "it is late") }},
		is("bmc", Skip),
	}
	print := func(p Printer) string {
		var b bytes.Buffer
		p.Out = &b
		p.End(Examine(t.Context(), checks, p.Line))
		return b.String()
	}
	const want = `✔ ok   configuration: configuration is ok
  ✘ FAIL eth0 link: it is switched off
         mend it: sudo ip link set eth0 up
         1 check below it not made
! warn clock: it is late
- skip bmc: bmc is skip

the cause: eth0 link: it is switched off
mend it:   sudo ip link set eth0 up
`
	if got := print(Printer{}); got != want {
		t.Errorf("it is printed\n%s", got)
	}
	coloured := print(Printer{Colour: true})
	for code, times := range map[string]int{"\x1b[32m": 1, "\x1b[31m": 1, "\x1b[33m": 1, "\x1b[2m": 1, "\x1b[0m": 4} {
		if n := strings.Count(coloured, code); n != times {
			t.Errorf("%q is there %d times", code, n)
		}
	}
	for _, code := range []string{"\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"} {
		coloured = strings.ReplaceAll(coloured, code, "")
	}
	if coloured != want {
		t.Errorf("with colour other things are said:\n%s", coloured)
	}
}

// Ids are what scripts hold on to: each is there once, or once for each interface.
func TestIDsAreNamesOfOneCheck(t *testing.T) {
	o := &Host{}
	seen := map[string]bool{}
	var walk func([]Check)
	walk = func(cs []Check) {
		for _, c := range cs {
			if seen[c.Of+" "+c.ID] {
				t.Errorf("%s %s is there twice", c.Of, c.ID)
			}
			seen[c.Of+" "+c.ID] = true
			walk(c.Under)
		}
	}
	walk(Checks(o))
	if len(seen) < 15 {
		t.Errorf("only %d checks", len(seen))
	}
}

func TestServiceOfAProcess(t *testing.T) {
	for cgroup, want := range map[string]string{
		"0::/system.slice/dnsmasq.service\n":                                     "dnsmasq.service",
		"0::/system.slice/system-getty.slice/getty@tty1.service\n":               "getty@tty1.service",
		"0::/system.slice/docker.service/inner\n":                                "docker.service",
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.service\n": "",
		"0::/\n": "",
		"":       "",
		"12:cpu:/system.slice/x.service\n0::/system.slice/evil;reboot.service\n": "",
	} {
		if got := serviceIn(cgroup); got != want {
			t.Errorf("%q is of %q, want %q", cgroup, got, want)
		}
	}
}

func TestSizesAreForPeople(t *testing.T) {
	got := []string{bytesText(0), bytesText(1023), bytesText(1024), bytesText(5 << 30), bytesText(3 << 40)}
	if want := []string{"0 B", "1023 B", "1.0 KiB", "5.0 GiB", "3.0 TiB"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
}
