package main

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
)

// The scripts in testdata run the real command line against a real node, each in
// a network of its own, so that all of them may use the same ports. Beside
// testscript's own commands they have:
//
//	up FLAGS…         start a node; go on when it is ready
//	up stop              tell it to end, which it has to do well
//	exits CODE PROG …    run a program that has to end with this code
//	disk FILE [SEED]     make a disk image with a partition table
//	backup FILE SECRET   make a backup of a cluster that is gone (backup_test.go)
//	member DIR ADDRESS   make the directory of a node of two (backup_test.go)
//	up log PATTERN NAME  put what the pattern's group found in what the node said into $NAME
//	certificate NAME IP  make NAME.pem, which signs itself, and NAME.key
//	keep NAME PATTERN    put what the pattern's group found in stdout into $NAME
//	watch NAME FLAGS…    let "lpmos task watch FLAGS…" run, once it has printed a line
//	watch-machine NAME … let "lpmos watch" run, in the same way
//	watched NAME PATTERN wait until it has printed a line like this
//	fleet …              a fleet in memory with a cluster of three (fleet_test.go)
//	agent report …       be the agent of a machine (agent_test.go)
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setUp,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"up":    up,
			"exits": exits,
			"disk":  disk,
			"keep":  keep,
			"fleet": fleetCommand,

			"certificate": makeCertificate,

			"backup": makeBackup,
			"member": makeMember,

			"watch":         startWatch,
			"watch-machine": startWatchMachine,
			"watched":       watched,
		},
		Condition: func(c string) (bool, error) {
			if c == "bootimage" {
				return bootimage.Check() == nil, nil
			}
			return false, fmt.Errorf("there is no condition %q", c)
		},
	})
}

func setUp(e *testscript.Env) error {
	e.Values[nodeKey{}] = &testNode{}
	e.Values[fleetKey{}] = apitest.NewNode()
	e.Values[watchersKey{}] = map[string]*watcher{}
	e.Setenv("LPMOS_USER", "root") // a script's directory is closed to others
	// Where the commands look for a node's own socket.
	e.Setenv("LPMOS_DATA_DIR", "data")
	e.Setenv("LPMOS_CONFIG", "") // and not the file of a node of this host
	// This thread, and with it every process it starts, moves into a new network
	// in which there is lo alone. It is never unlocked: it ends with the script.
	runtime.LockOSThread()
	if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network for the script: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	// An address that is no loopback one, for what a node does differently there.
	elsewhere, err := netlink.ParseAddr("10.9.0.1/32")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(lo, elsewhere)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGS…]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var ended *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &ended) {
		code = ended.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("it ended with %d, want %d", code, want)
	}
}

func keep(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: keep NAME PATTERN")
	}
	found := regexp.MustCompile(`(?m)` + args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if len(found) != 2 {
		ts.Fatalf("stdout has nothing like %s", args[1])
	}
	ts.Setenv(args[0], found[1])
}
