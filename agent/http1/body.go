package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// body1 is the body of one reply: it ends where the head said, refuses to end
// sooner, and gives its connection back once.
type body1 struct {
	c      *Client
	conn   *conn
	ctx    context.Context
	stop   func() bool
	src    io.Reader
	length int64 // stated; -1 when not
	got    int64
	keep   bool
	done   bool
	err    error
}

// Read reads the body. An end before the stated length is io.ErrUnexpectedEOF.
func (b *body1) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.got += int64(n)
	if errors.Is(err, io.EOF) && b.length >= 0 && b.got < b.length {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && b.length >= 0 && b.got == b.length {
		err = io.EOF
	}
	if err != nil {
		if !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
			err = b.ctx.Err()
		}
		b.err = err
		b.release(errors.Is(err, io.EOF))
	}
	return n, err
}

// Close ends the body. Bytes not read cost the connection.
func (b *body1) Close() error {
	if b.length == 0 && b.err == nil {
		b.err = io.EOF
		b.release(true)
	}
	b.release(false)
	if b.err == nil {
		b.err = errors.New("reply: read after close")
	}
	return nil
}

// release gives the connection back when the body is complete, or closes it.
func (b *body1) release(complete bool) {
	if b.done {
		return
	}
	b.done = true
	// stop reports false when the context has ended: then the connection is
	// closed, or about to be.
	if b.stop() && complete && b.keep {
		b.c.keep(b.conn)
		return
	}
	_ = b.conn.Close()
}

// chunked reads the chunked coding (RFC 9112, section 7.1).
type chunked struct {
	r     *bufio.Reader
	left  uint64
	begun bool
	end   bool
}

func newChunked(r *bufio.Reader) *chunked { return &chunked{r: r} }

// Read reads across chunks; the trailer is read and dropped.
func (c *chunked) Read(p []byte) (int, error) {
	if c.end {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
		if c.end {
			return 0, io.EOF
		}
	}
	if uint64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.r.Read(p)
	c.left -= uint64(n)
	return n, noEOF(err)
}

// next reads the line that opens a chunk, and the trailer after the last.
func (c *chunked) next() error {
	budget := maxHeaderBytes
	if c.begun {
		line, err := readLine(c.r, &budget)
		if err != nil {
			return err
		}
		if line != "" {
			return errors.New("reply: a chunk is longer than it said")
		}
	}
	c.begun = true
	line, err := readLine(c.r, &budget)
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(strings.TrimSpace(size), 16, 62)
	if err != nil {
		return fmt.Errorf("reply: %.40q is not a chunk size", line)
	}
	if c.left = n; n > 0 {
		return nil
	}
	for {
		line, err := readLine(c.r, &budget)
		if err != nil {
			return err
		}
		if line == "" {
			c.end = true
			return nil
		}
	}
}
