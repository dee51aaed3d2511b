package systemd

import (
	"context"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTheUnitIsClosedIn checks each setting that security was promised by.
func TestTheUnitIsClosedIn(t *testing.T) {
	got := map[string][]string{}
	for line := range strings.Lines(Unit) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' || line[0] == '[' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			t.Errorf("no setting: %s", line)
		}
		got[name] = append(got[name], value)
	}
	for _, want := range strings.Fields(`Type=notify WatchdogSec=60 User=lpmos StateDirectory=lpmos StateDirectoryMode=0700 UMask=0077 NoNewPrivileges=yes
		ProtectSystem=strict PrivateTmp=yes PrivateDevices=yes ProtectHome=yes ProtectClock=yes ProtectKernelTunables=yes ProtectKernelModules=yes
		ProtectKernelLogs=yes ProtectControlGroups=yes ProtectHostname=yes ProtectProc=invisible RestrictNamespaces=yes RestrictRealtime=yes RestrictSUIDSGID=yes
		LockPersonality=yes MemoryDenyWriteExecute=yes SystemCallArchitectures=native LimitNOFILE=65536 LimitCORE=0 MemoryMax=1G`) {
		name, value, _ := strings.Cut(want, "=")
		if !slices.Equal(got[name], []string{value}) {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
	for name, want := range map[string][]string{
		"AmbientCapabilities":     {"CAP_NET_BIND_SERVICE CAP_NET_RAW"},
		"CapabilityBoundingSet":   {"CAP_NET_BIND_SERVICE CAP_NET_RAW"},
		"RestrictAddressFamilies": {"AF_INET AF_INET6 AF_UNIX AF_PACKET AF_NETLINK"},
		"SystemCallFilter":        {"@system-service seccomp", "~@privileged @mount"},
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

// manager is a service manager that writes down what it is told.
func manager(t *testing.T) (socket string, told func() string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return socket, func() string {
		t.Helper()
		b := make([]byte, 256)
		c.SetReadDeadline(time.Now().Add(30 * time.Second)) //nolint:errcheck // the read says it
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
}

func teller(t *testing.T, env map[string]string) Teller {
	t.Helper()
	out, err := NewTeller(func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestANodeTellsHowItIs(t *testing.T) {
	socket, told := manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	asked := make(chan struct{}, 1000)
	node := teller(t, map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "20000"})
	go func() { ended <- node.Run(ctx, ready, func() { asked <- struct{}{} }) }()
	close(ready)
	if got := told(); got != "READY=1" {
		t.Errorf("first it told %s", got)
	}
	for range 3 {
		if got := told(); got != "WATCHDOG=1" {
			t.Errorf("then it told %s", got)
		}
		<-asked
	}
	cancel()
	last := told()
	for last == "WATCHDOG=1" {
		last = told()
	}
	if err := <-ended; last != "STOPPING=1" || err != nil {
		t.Errorf("at the end it told %s: %v", last, err)
	}
}

// A node that hangs has to fall silent, or nobody starts it anew.
func TestANodeThatHangsIsSilent(t *testing.T) {
	socket, told := manager(t)
	ctx, cancel := context.WithCancel(t.Context())
	ready, hang, hangs, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	node := teller(t, map[string]string{"NOTIFY_SOCKET": socket, "WATCHDOG_USEC": "2000"})
	go func() { ended <- node.Run(ctx, ready, func() { close(hangs); <-hang }) }()
	close(ready)
	told()
	<-hangs
	cancel()
	close(hang)
	// Nothing was told while it hung: the next is what came after.
	if got := told(); got != "WATCHDOG=1" && got != "STOPPING=1" {
		t.Errorf("it told %s", got)
	}
	<-ended
}

func TestNobodyWantsToKnow(t *testing.T) {
	if err := teller(t, map[string]string{"WATCHDOG_USEC": "20000"}).Run(t.Context(), nil, nil); err != nil {
		t.Error(err)
	}
	if got := teller(t, map[string]string{"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}); got.every != 0 {
		t.Error("another process is watched, and it beats")
	}
	if _, err := NewTeller(func(k string) string { return map[string]string{"WATCHDOG_USEC": "soon"}[k] }); err == nil {
		t.Error("soon is a number of microseconds")
	}
}
