package lab

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"time"
)

// maxLine bounds a console line in bytes; a longer one is cut into several.
const maxLine = 4096

// maxLines bounds the lines kept in memory; the oldest go first. The logs keep all.
const maxLines = 200_000

// Match is a line of a machine's console that fits a pattern.
type Match struct {
	Line    int       `json:"line"`    // counted from 0 over the rack's life; search on from Line+1
	Text    string    `json:"text"`    // without escape sequences; unfinished when it is a prompt
	At      time.Time `json:"at"`      // when the line's first byte came
	Elapsed float64   `json:"elapsed"` // the same in seconds since the rack was started
}

// console records a serial port: raw bytes to one file, lines with their time
// to another, and both are kept in memory for those who wait for a line.
// Lines are bare text: firmware paints its screens with cursor movements, and
// whoever looks for a word should not have to know.
type console struct {
	now   func() time.Time
	start time.Time
	raw   io.Writer
	timed io.Writer

	mu    sync.Mutex
	lines []Match       // in order, without a gap
	first int           // number of lines[0]
	grown chan struct{} // closed and replaced whenever lines change
	open  bool          // the last line is still being written
	text  []byte        // the text of that line
	state escapeState
}

type escapeState int

const (
	plain    escapeState = iota
	escape               // after ESC
	sequence             // after ESC [
)

func newConsole(raw, timed io.Writer, start time.Time, now func() time.Time) *console {
	return &console{now: now, start: start, raw: raw, timed: timed, grown: make(chan struct{})}
}

// Write takes what the machine said.
func (c *console) Write(p []byte) (int, error) {
	if _, err := c.raw.Write(p); err != nil {
		return 0, fmt.Errorf("serial log: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if err := c.feed(b); err != nil {
			return 0, fmt.Errorf("timed serial log: %w", err)
		}
	}
	if c.open {
		c.lines[len(c.lines)-1].Text = string(c.text)
	}
	close(c.grown)
	c.grown = make(chan struct{})
	return len(p), nil
}

func (c *console) feed(b byte) error {
	switch c.state {
	case escape:
		c.state = plain
		if b == '[' {
			c.state = sequence
		}
		return nil
	case sequence:
		// ECMA-48 5.4: parameters are 0x20 to 0x3f, a byte from 0x40 ends the sequence.
		if b >= 0x40 {
			c.state = plain
			if b == 'H' || b == 'J' { // cursor to a place, clear screen: what follows is another line
				return c.endLine()
			}
		}
		return nil
	}
	switch {
	case b == 0x1b:
		c.state = escape
	case b == '\n':
		if !c.open {
			c.beginLine()
		}
		return c.endLine()
	case b == '\t':
		return c.put(' ')
	case b >= 0x20 && b != 0x7f:
		return c.put(b)
	}
	return nil
}

func (c *console) put(b byte) error {
	if !c.open {
		c.beginLine()
	}
	c.text = append(c.text, b)
	if len(c.text) >= maxLine {
		return c.endLine()
	}
	return nil
}

func (c *console) beginLine() {
	if len(c.lines) >= maxLines {
		c.first += maxLines / 2
		c.lines = slices.Clone(c.lines[maxLines/2:])
	}
	now := c.now()
	c.lines = append(c.lines, Match{Line: c.first + len(c.lines), At: now, Elapsed: now.Sub(c.start).Seconds()})
	c.open = true
	c.text = c.text[:0]
}

func (c *console) endLine() error {
	if !c.open {
		return nil
	}
	last := &c.lines[len(c.lines)-1]
	last.Text = string(c.text)
	c.open = false
	_, err := fmt.Fprintf(c.timed, "[%9.3f] %s\n", last.Elapsed, last.Text)
	return err
}

// wait returns the first line from number `from` on that fits, as soon as
// there is one. An unfinished line counts: a login prompt never ends.
func (c *console) wait(ctx context.Context, pattern *regexp.Regexp, from int) (Match, error) {
	for {
		c.mu.Lock()
		grown := c.grown
		for from = max(from, c.first); from < c.first+len(c.lines); from++ {
			line := c.lines[from-c.first]
			if pattern.MatchString(line.Text) {
				c.mu.Unlock()
				return line, nil
			}
			if c.open && line.Line == c.first+len(c.lines)-1 {
				break // look at it again when it has grown
			}
		}
		c.mu.Unlock()
		select {
		case <-grown:
		case <-ctx.Done():
			return Match{}, fmt.Errorf("wait for %q on the console: %w", pattern, ctx.Err())
		}
	}
}

// count is the number of lines there have been.
func (c *console) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first + len(c.lines)
}
