package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// clearLine takes a line that was not ended away from a terminal (ECMA-48 EL).
const clearLine = "\r\x1b[K"

// isTerminal says whether a person sits behind a file; /dev/null is none.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	return err == nil
}

// terminal is w if a person sees it, or else nil.
func terminal(w io.Writer) io.Writer {
	if isTerminal(w) {
		return w
	}
	return nil
}

// confirmErase makes sure that the person knows which disk dies. It never waits
// for an answer that cannot come.
func confirmErase(cmd *cobra.Command, t api.Task) error {
	if !isTerminal(cmd.InOrStdin()) {
		return &hinted{&usageError{errors.New("there is no terminal to ask on; nothing was approved")},
			"give --yes, with --expect-serial or --plan-hash"}
	}
	disk := t.Plan.Erase.String()
	if err := (&nodeFlags{}).print(cmd.ErrOrStderr(), nil, func(w io.Writer) { showPlan(w, t.Plan, t.PlanHash) }); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "\nType the serial of the disk to erase (%s): ", disk)
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if ctxErr := cmd.Context().Err(); ctxErr != nil {
		fmt.Fprintln(cmd.ErrOrStderr())
		return ctxErr
	}
	if err != nil || answer != disk {
		return errors.New("that is not its serial; nothing was approved")
	}
	return nil
}

// readLine waits for a line, but no longer than ctx. What reads then goes on
// waiting until the process ends, which it is about to do.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type result struct {
		line string
		err  error
	}
	read := make(chan result, 1)
	go func() {
		line, err := bufio.NewReader(in).ReadString('\n')
		read <- result{strings.TrimSpace(line), err}
	}()
	select {
	case r := <-read:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// upload is an image on its way, told about on a terminal.
type upload struct {
	file        *os.File
	total, sent int64
	out         io.Writer
	now         func() time.Time
	last        time.Time
}

// Stat lets the client tell the node how much will come.
func (u *upload) Stat() (fs.FileInfo, error) { return u.file.Stat() }

// Read reads the file and says, five times a second, how far it is.
func (u *upload) Read(b []byte) (int, error) {
	n, err := u.file.Read(b)
	u.sent += int64(n)
	if now := u.now(); now.Sub(u.last) >= 200*time.Millisecond {
		u.last = now
		fmt.Fprintf(u.out, "%s%s of %s sent", clearLine, size(uint64(u.sent)), size(uint64(u.total)))
	}
	return n, err
}
