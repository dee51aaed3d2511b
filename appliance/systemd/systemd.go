// Package systemd is what a node has to do with systemd: its unit, and telling
// how it is to whoever has started it.
package systemd

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// Unit is a node as a service, closed in as far as it can be.
//
//go:embed lpmos.service
var Unit string

// Teller tells the service manager how this process is (sd_notify(3)). Without
// one that wants to know, it does nothing.
type Teller struct {
	socket string        // empty: nobody wants to know
	every  time.Duration // zero: nobody watches
}

// NewTeller reads from the environment who wants to know, and how often.
func NewTeller(getenv func(string) string) (Teller, error) {
	t := Teller{socket: getenv("NOTIFY_SOCKET")}
	limit, pid := getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID")
	if limit == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return t, nil
	}
	n, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || n <= 0 {
		return t, fmt.Errorf("WATCHDOG_USEC: %q is no number of microseconds", limit)
	}
	t.every = time.Duration(n) * time.Microsecond / 2 // as sd_watchdog_enabled(3) advises
	return t, nil
}

// Run says when the node is ready, from then on now and then that it is alive,
// and when it is about to stop. alive returns only if it is: what hangs there is
// heard of by the silence.
func (t Teller) Run(ctx context.Context, ready <-chan struct{}, alive func()) error {
	if t.socket == "" {
		return nil
	}
	select {
	case <-ready:
		if err := t.tell("READY=1"); err != nil {
			return err
		}
	case <-ctx.Done():
		return t.tell("STOPPING=1")
	}
	var beat <-chan time.Time
	if t.every > 0 {
		ticker := time.NewTicker(t.every)
		defer ticker.Stop()
		beat = ticker.C
	}
	for {
		select {
		case <-beat:
			alive()
			if err := t.tell("WATCHDOG=1"); err != nil {
				return err
			}
		case <-ctx.Done():
			return t.tell("STOPPING=1")
		}
	}
}

func (t Teller) tell(what string) error {
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: t.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("tell systemd %s: %w", what, err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(what)); err != nil {
		return fmt.Errorf("tell systemd %s: %w", what, err)
	}
	return nil
}
