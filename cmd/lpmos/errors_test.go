package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
)

func TestErrorsAreToldAndExitCodesKept(t *testing.T) {
	refusal := func(status int, changed ...string) error {
		e := &client.Error{Problem: *api.NewProblem(status, "no")}
		e.Changed = changed
		return e
	}
	usage := "hint: lpmos help shows the commands, --help after one its flags\n"
	for _, c := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"anything", errors.New("it broke"), exitError, "error: it broke\n"},
		{"a hint", &hinted{errors.New("it broke"), "mend it"}, exitError, "error: it broke\nhint: mend it\n"},
		{"usage", &usageError{errors.New("which one?")}, exitUsage, "error: which one?\n" + usage},
		{"usage with a hint of its own", &hinted{&usageError{errors.New("which one?")}, "that one"}, exitUsage, "error: which one?\nhint: that one\n"},
		{"configuration", &config.Error{Where: "a.yaml:1:2", Text: "no", Hint: "yes"}, exitUsage, "error: a.yaml:1:2: no\nhint: yes\n"},
		{"what does not fit", fmt.Errorf("approve: %w", &conflictError{errors.New("other disk")}), exitConflict, "error: approve: other disk\n"},
		{"interrupted", fmt.Errorf("read: %w", context.Canceled), exitError, "error: interrupted\n"},
		{"refused as wrong", refusal(http.StatusBadRequest), exitUsage, "error: no\n"},
		{"not logged in", refusal(http.StatusUnauthorized), exitDenied, "error: no\n"},
		{"not allowed", refusal(http.StatusForbidden), exitDenied, "error: no\n"},
		{"not there", refusal(http.StatusNotFound), exitNotFound, "error: no\n"},
		{"not now", refusal(http.StatusConflict), exitConflict, "error: no\n"},
		{"changed since", refusal(http.StatusPreconditionFailed, "disk", "image"), exitConflict, "error: no: disk; image\n"},
		{"no space", refusal(http.StatusInsufficientStorage), exitError, "error: no\n"},
	} {
		var out bytes.Buffer
		if code := report(&out, c.err); code != c.code || out.String() != c.want {
			t.Errorf("%s: exit code %d and %q, want %d and %q", c.name, code, out.String(), c.code, c.want)
		}
	}
}
