// Package doctor says why a node does not, or would not, boot machines: a tree of
// checks in the order in which one thing rests on another. A check that fails hides
// those below it, so that the first failure is the cause and not what follows from
// it. It changes nothing on the host, and sends packets only on interfaces that the
// configuration names.
package doctor

import "context"

// Verdict is what a check found.
type Verdict string

// The verdicts.
const (
	OK   Verdict = "ok"
	Warn Verdict = "warn" // it works, and may not for long, or not well
	Fail Verdict = "fail" // machines do not boot with this
	Skip Verdict = "skip" // it could not be looked at, or there is nothing to look at
)

// Finding is a verdict with its reason in plain words.
type Finding struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"`
	Fix     string  `json:"fix,omitempty"` // the command that mends it, or what to change where
}

// Check is one thing to look at, with what makes sense to look at only if it is well.
type Check struct {
	ID    string // the same on every host
	Of    string // which of several: the name of an interface
	Look  func(context.Context) Finding
	Under []Check
}

// Result is what came of a check.
type Result struct {
	ID string `json:"id"`
	Of string `json:"of,omitempty"`
	Finding
	Hidden int      `json:"hidden,omitempty"` // checks below that were not made, because of this one
	Under  []Result `json:"under,omitempty"`
}

// Report is the whole tree.
type Report struct {
	Verdict Verdict  `json:"verdict"`         // the worst
	Cause   *Cause   `json:"cause,omitempty"` // the first check that failed
	Checks  []Result `json:"checks"`
}

// Cause names a check.
type Cause struct {
	ID string `json:"id"`
	Of string `json:"of,omitempty"`
	Finding
}

// Exit is the code a command ends with: 0 if all is well, 1 with warnings, 2 if
// something fails.
func (r Report) Exit() int {
	switch r.Verdict {
	case Fail:
		return 2
	case Warn:
		return 1
	}
	return 0
}

// Examine makes the checks one after the other. told, if it is set, hears of each as
// it is done, before those under it. When ctx ends the rest is left out.
func Examine(ctx context.Context, checks []Check, told func(depth int, r Result)) Report {
	report := Report{Verdict: OK}
	if told == nil {
		told = func(int, Result) {}
	}
	report.Checks = report.examine(ctx, checks, 0, told)
	return report
}

func (r *Report) examine(ctx context.Context, checks []Check, depth int, told func(int, Result)) []Result {
	var out []Result
	for _, c := range checks {
		if ctx.Err() != nil {
			return out
		}
		one := Result{ID: c.ID, Of: c.Of, Finding: c.Look(ctx)}
		if ctx.Err() != nil {
			return out // it was not looked at to the end
		}
		hides := one.Verdict == Fail || one.Verdict == Skip
		if hides {
			one.Hidden = count(c.Under)
		}
		r.note(one)
		told(depth, one)
		if !hides {
			one.Under = r.examine(ctx, c.Under, depth+1, told)
		}
		out = append(out, one)
	}
	return out
}

// note keeps the worst verdict and the first failure.
func (r *Report) note(one Result) {
	switch {
	case one.Verdict == Fail && r.Cause == nil:
		r.Verdict, r.Cause = Fail, &Cause{one.ID, one.Of, one.Finding}
	case one.Verdict == Warn && r.Verdict == OK:
		r.Verdict = Warn
	}
}

func count(checks []Check) int {
	n := len(checks)
	for _, c := range checks {
		n += count(c.Under)
	}
	return n
}
