package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
)

// A simulated fleet is one process at the end of a cable of its own: this binary, run
// as "lab fleet". What it says goes to who asked for it, and it ends with them.

// errFleet is one fleet too many, or a rack without room for one.
var errFleet = errors.New("there is no room for a fleet")

// fleetPort is the near end of a fleet's cable.
const fleetPort = "fleet0"

// fleetCard is the hardware address of every fleet's own card.
const fleetCard = "52:54:02:77:00:02"

// endTrailer says how the fleet's process ended, behind all it has said.
const endTrailer = "Lab-Fleet-End"

// simulate runs the fleet that the request's body describes.
func (r *rack) simulate(w http.ResponseWriter, req *http.Request) {
	plan, err := io.ReadAll(io.LimitReader(req.Body, maxRequest))
	switch {
	case err != nil:
		reply(w, nil, badRequest{err})
		return
	case !r.Simulated:
		reply(w, nil, fmt.Errorf("%w: its network has a hundred addresses; lpmos lab sim makes a rack of its own", errFleet))
		return
	case !r.fleet.TryLock():
		reply(w, nil, fmt.Errorf("%w: another is on the wire", errFleet))
		return
	}
	defer r.fleet.Unlock()
	cable, err := plug(fleetPort, fleetPrefix)
	if err != nil {
		reply(w, nil, err)
		return
	}
	// The kernel takes it away some time after the namespace; the next fleet plugs in now.
	defer func() { _ = ip([]string{"link del " + fleetPort}) }()
	// The nodes remember the card of the fleet before this one.
	err = cable.inside(func() error { return ip([]string{"link set " + cableEnd + " address " + fleetCard}) })
	if err != nil {
		cable.ns.Close()
		reply(w, nil, err)
		return
	}
	var complaint strings.Builder
	cmd := exec.CommandContext(req.Context(), r.Binary, "lab", "fleet")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = termLimit
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(plan), flushed{w}, &complaint
	cmd.SysProcAttr = dieWithParent()
	w.Header().Set("Trailer", endTrailer)
	gone := make(chan error, 1)
	err = cable.start(cmd, func(err error) { gone <- err })
	cable.ns.Close() // the process holds it
	if err == nil {
		err = <-gone
	}
	if err != nil {
		said := strings.TrimPrefix(strings.TrimSpace(complaint.String()), "error: ")
		w.Header().Set(endTrailer, strings.ReplaceAll(orElse(said, err.Error()), "\n", "; "))
	}
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// flushed sends every line on as it comes.
type flushed struct{ w http.ResponseWriter }

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err == nil {
		err = http.NewResponseController(f.w).Flush()
	}
	return n, err
}

// Simulate has a fleet of simulated machines boot on the rack's wire: this binary's
// "lab fleet" in a network namespace of its own, with plan on its standard input. What
// it prints goes to out. The error is its own; it ends when ctx does.
func (c *Client) Simulate(ctx context.Context, plan []byte, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://rack/simulate", bytes.NewReader(plan))
	if err != nil {
		return fmt.Errorf("rack: %w", err)
	}
	resp, err := c.do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("rack: the fleet is lost: %w", err)
	}
	if said := resp.Trailer.Get(endTrailer); said != "" {
		return errors.New(said)
	}
	return nil
}
