package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
)

// testConsole has a clock that goes on by a second each time it is read.
func testConsole() (*console, *bytes.Buffer, *bytes.Buffer) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := start
	clock := func() time.Time { now = now.Add(time.Second); return now }
	var raw, timed bytes.Buffer
	return newConsole(&raw, &timed, start, clock), &raw, &timed
}

func TestConsoleLines(t *testing.T) {
	tests := map[string]struct {
		said string
		want []string
	}{
		"plain":               {"one\r\ntwo\r\n", []string{"one", "two"}},
		"empty lines count":   {"a\n\nb\n", []string{"a", "", "b"}},
		"a prompt":            {"host login: ", []string{"host login: "}},
		"colours go":          {"\x1b[1;37mStart\x1b[0m PXE\n", []string{"Start PXE"}},
		"a painted screen":    {"\x1b[2J\x1b[01;01Htop\x1b[02;01Hbottom\n", []string{"top", "bottom"}},
		"terminal settings":   {"\x1b=\x1b[?25lword\n", []string{"word"}},
		"control bytes":       {"a\x00\x07\tb\x7f\n", []string{"a b"}},
		"an endless line":     {strings.Repeat("x", maxLine+1), []string{strings.Repeat("x", maxLine), "x"}},
		"cut escape sequence": {"a\x1b[", []string{"a"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, raw, _ := testConsole()
			for _, b := range []byte(tt.said) { // the worst way it can arrive
				if _, err := c.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			for _, l := range c.lines {
				got = append(got, l.Text)
			}
			if diff := differ(got, tt.want); diff != "" {
				t.Error(diff)
			}
			if raw.String() != tt.said {
				t.Errorf("raw log is %q, want every byte of %q", raw, tt.said)
			}
		})
	}
}

func TestConsoleKeepsTheTime(t *testing.T) {
	c, _, timed := testConsole()
	io.WriteString(c, "first\nsec")
	io.WriteString(c, "ond\nunfinished")
	if want := "[    1.000] first\n[    2.000] second\n"; timed.String() != want {
		t.Errorf("timed log\n%swant\n%s", timed, want)
	}
	m, err := c.wait(t.Context(), regexp.MustCompile("sec.nd"), 0)
	if err != nil || m.Line != 1 || m.Elapsed != 2 {
		t.Errorf("match %+v, %v, want line 1 at 2 s", m, err)
	}
}

// Who waits hears of the line when it comes, also when it comes in pieces and
// never ends; lines before the given one do not count.
func TestWaitForALineToCome(t *testing.T) {
	c, _, _ := testConsole()
	io.WriteString(c, "login: \nlo")
	got := make(chan Match)
	go func() {
		m, err := c.wait(t.Context(), regexp.MustCompile(`login: $`), 1)
		if err != nil {
			t.Error(err)
		}
		got <- m
	}()
	io.WriteString(c, "gin")
	io.WriteString(c, ": ")
	if m := <-got; m.Line != 1 || m.Text != "login: " {
		t.Errorf("match %+v, want the second login", m)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	c, _, _ := testConsole()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.wait(ctx, regexp.MustCompile("never"), 0); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "never") {
		t.Errorf("error %v, want a cancelled wait that says for what", err)
	}
}

// Memory is bounded, and numbers stay what they were.
func TestOldLinesAreForgotten(t *testing.T) {
	c, _, _ := testConsole()
	for range maxLines {
		io.WriteString(c, "old\n")
	}
	io.WriteString(c, "new\n")
	if len(c.lines) > maxLines {
		t.Errorf("%d lines in memory, want %d at most", len(c.lines), maxLines)
	}
	m, err := c.wait(t.Context(), regexp.MustCompile("new"), 0)
	if err != nil || m.Line != maxLines || c.count() != maxLines+1 {
		t.Errorf("match %+v of %d lines, %v; want line %d", m, c.count(), err, maxLines)
	}
	if m, err := c.wait(t.Context(), regexp.MustCompile("old"), 0); err != nil || m.Line != maxLines/2 {
		t.Errorf("oldest line is %+v, %v; want %d", m, err, maxLines/2)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestFullDiskIsReported(t *testing.T) {
	c := newConsole(fullDisk{}, io.Discard, time.Now(), time.Now)
	if _, err := io.WriteString(c, "x"); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("error %v, want the log's", err)
	}
}

// Whatever a guest sends, lines are bare text of bounded length in order, the
// raw log is exact, and how the bytes were cut makes no difference.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("\x1b[2J\x1b[1;1HSeaBIOS (version 1.16)\r\nlogin: "), 3)
	f.Add([]byte("\x1b\x1b[[H\x1b[\n"), 1)
	f.Add(bytes.Repeat([]byte("\t"), 2*maxLine+1), 1)
	f.Fuzz(func(t *testing.T, said []byte, cut int) {
		c, raw, timed := testConsole()
		cut = min(max(cut, 0), len(said))
		c.Write(said[:cut])
		c.Write(said[cut:])
		whole, _, _ := testConsole()
		whole.Write(said)
		if !bytes.Equal(raw.Bytes(), said) {
			t.Errorf("raw log %q of %q", raw, said)
		}
		if len(c.lines) != len(whole.lines) {
			t.Fatalf("%d lines when cut at %d, %d in one piece", len(c.lines), cut, len(whole.lines))
		}
		for i, l := range c.lines {
			if l.Line != i || len(l.Text) > maxLine || l.Text != whole.lines[i].Text {
				t.Errorf("line %d: %+v, in one piece %+v", i, l, whole.lines[i])
			}
			for _, b := range []byte(l.Text) {
				if b < unicode.MaxASCII && unicode.IsControl(rune(b)) {
					t.Errorf("control byte in %q", l.Text)
				}
			}
		}
		if done := bytes.Count(timed.Bytes(), []byte("\n")); done != len(c.lines) && done != len(c.lines)-1 {
			t.Errorf("%d timed lines of %d", done, len(c.lines))
		}
	})
}
