package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/ui/api/client"
)

// Exit codes. Scripts may rely on them.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitNotFound = 3
	exitDenied   = 4
	exitConflict = 5
)

// usageError is a command that was not written as it has to be.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// conflictError is a command that does not fit to how things are.
type conflictError struct{ err error }

func (e *conflictError) Error() string { return e.err.Error() }
func (e *conflictError) Unwrap() error { return e.err }

// hinted adds what to do next to an error.
type hinted struct {
	err  error
	hint string
}

func (e *hinted) Error() string { return e.err.Error() }
func (e *hinted) Unwrap() error { return e.err }

// report prints an error the way all of them are printed and returns the exit
// code: "error:" with what failed, then "hint:" with what to do, if known.
func report(w io.Writer, err error) int {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "error: interrupted")
		return exitError
	}
	var f *found
	if errors.As(err, &f) {
		return f.code
	}
	fmt.Fprintf(w, "error: %s\n", strings.TrimSpace(err.Error()))
	var h *hinted
	var clash *conflictError
	var c *config.Error
	var p *client.Error
	var u *usageError
	switch {
	case errors.As(err, &h):
		fmt.Fprintf(w, "hint: %s\n", h.hint)
	case errors.As(err, &c) && c.Hint != "":
		fmt.Fprintf(w, "hint: %s\n", c.Hint)
	case errors.As(err, &u):
		fmt.Fprintln(w, "hint: lpmos help shows the commands, --help after one its flags")
	}
	if errors.As(err, &p) {
		switch p.Status {
		case http.StatusNotFound:
			return exitNotFound
		case http.StatusUnauthorized, http.StatusForbidden:
			return exitDenied
		case http.StatusConflict, http.StatusPreconditionFailed:
			return exitConflict
		case http.StatusBadRequest:
			return exitUsage
		}
	}
	if errors.As(err, &clash) {
		return exitConflict
	}
	if errors.As(err, &u) || errors.As(err, &c) {
		return exitUsage
	}
	return exitError
}
