package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Limits of the lines kept for the node.
const (
	maxKeptLines = 1000
	maxSentLines = 100
	logEvery     = time.Second
	lastLogTime  = 2 * time.Second
)

// Console writes what happens for people before the machine, one line an event
// with the seconds since the start, and keeps the lines for the node. It may be
// used by several goroutines.
type Console struct {
	now   func() time.Time
	start time.Time

	mu     sync.Mutex
	out    io.Writer
	task   string
	lines  []string // not yet sent
	missed int
}

// NewConsole starts the count of seconds.
func NewConsole(out io.Writer, now func() time.Time) *Console {
	return &Console{now: now, start: now(), out: out}
}

// Printf writes one line.
func (c *Console) Printf(format string, args ...any) {
	text := strings.TrimRight(fmt.Sprintf(format, args...), " \r\n")
	c.mu.Lock()
	defer c.mu.Unlock()
	line := fmt.Sprintf("[%7.1fs] %s", c.now().Sub(c.start).Seconds(), text)
	_, _ = fmt.Fprintf(c.out, "%s\r\n", line)
	if len(c.lines) == maxKeptLines {
		c.lines = c.lines[1:]
		c.missed++
	}
	c.lines = append(c.lines, line)
}

// Banner says who this machine is, so that a person standing before it finds it
// again on the screen.
func (c *Console) Banner(rows ...[2]string) {
	var b strings.Builder
	rule := strings.Repeat("=", 64)
	b.WriteString("\r\n" + rule + "\r\n  LPMOS agent\r\n")
	for _, r := range rows {
		if r[1] != "" {
			fmt.Fprintf(&b, "  %-10s %s\r\n", r[0], r[1])
		}
	}
	b.WriteString(rule + "\r\n")
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = io.WriteString(c.out, b.String())
}

// setTask names the task later lines belong to.
func (c *Console) setTask(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.task = id
}

// takeLines removes the oldest lines.
func (c *Console) takeLines() wire.LogRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := min(len(c.lines), maxSentLines)
	req := wire.LogRequest{TaskID: c.task, Lines: c.lines[:n:n]}
	c.lines = c.lines[n:]
	if c.missed > 0 {
		req.Lines = append([]string{fmt.Sprintf("(%d lines before this were lost)", c.missed)}, req.Lines...)
		c.missed = 0
	}
	return req
}

// putBack takes lines back that were not sent.
func (c *Console) putBack(req wire.LogRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(req.Lines, c.lines...)
}

// logger takes lines to the node.
type logger interface {
	log(ctx context.Context, req wire.LogRequest) error
}

// ship sends lines now and then until ctx ends, and then the last ones. Lines that do not arrive are
// lost: they are for reading along, not for the record.
func (c *Console) ship(ctx context.Context, to logger, sleep func(context.Context, time.Duration) error) {
	for sleep(ctx, logEvery) == nil {
		if req := c.takeLines(); len(req.Lines) > 0 {
			if to.log(ctx, req) != nil && ctx.Err() != nil {
				c.putBack(req) // the end came while they were on their way
			}
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLogTime)
	defer cancel()
	if req := c.takeLines(); len(req.Lines) > 0 {
		_ = to.log(last, req)
	}
}
