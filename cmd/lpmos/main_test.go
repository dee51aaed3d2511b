package main

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts run this test's own binary under the names of these commands.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 && filepath.Base(os.Args[0]) != "lpmos" && filepath.Base(os.Args[0]) != "agent" {
		os.Exit(asRoot())
	}
	testscript.Main(m, map[string]func(){
		"lpmos": func() {
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
			code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
			stop()
			os.Exit(code)
		},
		"agent": agentCommand,
	})
}

// asRoot runs the tests once more, as root of a user namespace: each script wants
// a network of its own.
func asRoot() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Run(); cmd.ProcessState == nil {
		os.Stderr.WriteString("run the tests as root of a user namespace: " + err.Error() + "\n")
		return 1
	}
	return cmd.ProcessState.ExitCode()
}
