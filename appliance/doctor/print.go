package doctor

import (
	"fmt"
	"io"
	"strings"
)

// Printer writes the tree as it grows: a sign and a word, never colour alone.
type Printer struct {
	Out    io.Writer
	Colour bool // the signs are coloured too
}

// signs are what a line begins with.
var signs = map[Verdict]struct{ sign, word, colour string }{
	OK:   {"✔", "ok  ", "\x1b[32m"},
	Warn: {"!", "warn", "\x1b[33m"},
	Fail: {"✘", "FAIL", "\x1b[31m"},
	Skip: {"-", "skip", "\x1b[2m"},
}

// Line prints one result.
func (p Printer) Line(depth int, r Result) {
	s := signs[r.Verdict]
	start := s.sign + " " + s.word
	if p.Colour {
		start = s.colour + start + "\x1b[0m"
	}
	indent := strings.Repeat("  ", depth)
	fmt.Fprintf(p.Out, "%s%s %s: %s\n", indent, start, r.title(), r.Reason)
	if r.Fix != "" && r.Verdict != OK {
		fmt.Fprintf(p.Out, "%s       mend it: %s\n", indent, r.Fix)
	}
	if r.Hidden > 0 && r.Verdict == Fail {
		fmt.Fprintf(p.Out, "%s       %s below it not made\n", indent, plural(r.Hidden, "check"))
	}
}

func (r Result) title() string {
	if r.Of == "" {
		return r.ID
	}
	return r.Of + " " + r.ID
}

// End prints what it comes to.
func (p Printer) End(r Report) {
	fmt.Fprintln(p.Out)
	fails, warns := r.tally()
	switch {
	case r.Cause != nil:
		name := Result{ID: r.Cause.ID, Of: r.Cause.Of}.title()
		fmt.Fprintf(p.Out, "the cause: %s: %s\n", name, r.Cause.Reason)
		if r.Cause.Fix != "" {
			fmt.Fprintf(p.Out, "mend it:   %s\n", r.Cause.Fix)
		}
		if fails > 1 {
			fmt.Fprintf(p.Out, "then look again: %s in all\n", plural(fails, "failure"))
		}
	case warns > 0:
		fmt.Fprintf(p.Out, "nothing fails; %s to look at\n", plural(warns, "warning"))
	default:
		fmt.Fprintln(p.Out, "all is well")
	}
}

func (r Report) tally() (fails, warns int) {
	var walk func([]Result)
	walk = func(rs []Result) {
		for _, one := range rs {
			switch one.Verdict {
			case Fail:
				fails++
			case Warn:
				warns++
			}
			walk(one.Under)
		}
	}
	walk(r.Checks)
	return fails, warns
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
