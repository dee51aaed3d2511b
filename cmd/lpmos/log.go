package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Much of what is logged comes from machines that anybody can be, and is read on
// terminals and by programs that take a line for an event.

// How long a value of a line may be, in bytes. What we say ourselves may be longer,
// and where a panic came from most of all.
const (
	loggedValue = 256
	loggedError = 1000
	loggedStack = 8 << 10
)

// fitToLog makes the values of a line fit: of one line, without what steers a terminal
// or turns the order of letters, and not long.
func fitToLog(_ []string, a slog.Attr) slog.Attr {
	most := loggedValue
	switch a.Key {
	case slog.TimeKey, slog.LevelKey:
		return a
	case slog.MessageKey, "err", "error", "reason":
		most = loggedError
	case "stack":
		most = loggedStack
	}
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(shown(v.String(), most))
	case slog.KindAny:
		a.Value = slog.StringValue(shown(fmt.Sprint(v.Any()), most))
	}
	a.Key = shown(a.Key, loggedValue)
	return a
}

func shown(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}

const (
	calmSpan  = 10 * time.Second
	calmMost  = 100  // lines that say the same within it
	calmKinds = 1024 // sayings that are counted; they are ours, so there are not many
)

// calm passes lines on until too many say the same: what a stranger can make the node
// say must not fill its disk. It tells how many were left out.
type calm struct {
	slog.Handler
	said *sayings
}

type sayings struct {
	mu sync.Mutex
	by map[string]*saying
}

type saying struct {
	begun time.Time
	n     int
}

func newCalm(h slog.Handler) calm { return calm{h, &sayings{by: map[string]*saying{}}} }

// Handle passes a line on, or counts it.
func (c calm) Handle(ctx context.Context, r slog.Record) error {
	left, pass := c.said.count(r.Message, r.Time)
	if !pass {
		return nil
	}
	if left > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int("left_out_before", left))
	}
	return c.Handler.Handle(ctx, r)
}

// WithAttrs and WithGroup count with the others.
func (c calm) WithAttrs(attrs []slog.Attr) slog.Handler {
	return calm{c.Handler.WithAttrs(attrs), c.said}
}

func (c calm) WithGroup(name string) slog.Handler { return calm{c.Handler.WithGroup(name), c.said} }

// count reports whether a line passes, and how many like it did not before.
func (s *sayings) count(message string, at time.Time) (left int, pass bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.by[message]
	if k == nil {
		if len(s.by) >= calmKinds {
			clear(s.by)
		}
		k = &saying{begun: at}
		s.by[message] = k
	}
	if since := at.Sub(k.begun); since >= calmSpan || since < 0 {
		left = max(0, k.n-calmMost)
		k.begun, k.n = at, 0
	}
	k.n++
	return left, k.n <= calmMost
}
