package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/images/bootimage"
)

const (
	inNamespace = "LPMOS_TEST_NAMESPACE"
	spoiled     = "LPMOS_TEST_SPOILED"
)

// The tests are root of network and mounts of their own, so that they may be a host
// in any state without touching the real one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "self-test" {
		files := bootFiles()
		if os.Getenv(spoiled) != "" && os.Args[2] == "machine" {
			files = madeUp(nil) // the machine knows others than the node hands out
		}
		if err := SelfTest(context.Background(), []string{"self-test"}, os.Args[2:], files, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	fuzzing := strings.Contains(strings.Join(os.Args, " "), "-test.fuzz")
	if os.Getenv(inNamespace) == "" && !fuzzing {
		runtime.LockOSThread()
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		if os.Getuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
		}
		err := cmd.Run()
		var ended *exec.ExitError
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &ended):
			os.Exit(ended.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "no network namespace, tests on a wire are skipped:", err)
	}
	os.Exit(m.Run())
}

// bootFiles are those of this binary, or stand-ins where they were not built.
func bootFiles() fs.FS {
	if bootimage.Check() == nil {
		return bootimage.Files()
	}
	return madeUp(nil)
}

// office is a host with a network: eth0 here, and behind the cable a second
// namespace for whoever else is there.
type office struct {
	t   *testing.T
	pid int // of the second namespace
	dir string
}

func newOffice(t *testing.T) *office {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs a network namespace")
	}
	there := exec.Command("cat") // it lives as long as its input is open, which ends with this process at the latest
	there.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	hold, err := there.StdinPipe()
	if err == nil {
		err = there.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	o := &office{t: t, pid: there.Process.Pid, dir: t.TempDir()}
	t.Cleanup(func() {
		o.run("ip", "link", "del", "eth0")
		hold.Close()
		there.Wait()
	})
	o.run("ip", "link", "set", "lo", "up")
	o.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0", "netns", strconv.Itoa(o.pid))
	o.run("ip", "address", "add", "10.77.0.1/24", "dev", "eth0")
	o.run("ip", "link", "set", "eth0", "up")
	o.there("ip", "link", "set", "lo", "up")
	o.there("ip", "address", "add", "10.77.0.2/24", "dev", "far0")
	o.there("ip", "link", "set", "far0", "up")
	o.carrier("eth0")
	return o
}

// carrier waits until an interface has one: the kernel tells it a moment later.
func (o *office) carrier(name string) {
	o.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(o.run("ip", "link", "show", name), "LOWER_UP") {
		select {
		case <-tick.C:
		case <-o.t.Context().Done():
			o.t.Fatalf("%s has no carrier", name)
		}
	}
}

// run runs a command here.
func (o *office) run(args ...string) string {
	o.t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		o.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// there runs a command behind the cable.
func (o *office) there(args ...string) {
	o.t.Helper()
	o.run(append(o.enter(), args...)...)
}

func (o *office) enter() []string { return []string{"nsenter", "-t", strconv.Itoa(o.pid), "-n", "--"} }

// dnsmasq runs one until the test ends, and waits until it has opened its ports.
func (o *office) dnsmasq(enter []string, flags ...string) (pid int) {
	o.t.Helper()
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		o.t.Skip("needs dnsmasq (./build-deps)")
	}
	args := append(enter, append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--group=root",
		"--log-facility=-", "--pid-file=", "--dhcp-leasefile=" + filepath.Join(o.dir, "leases"), "--leasefile-ro"}, flags...)...)
	cmd := exec.Command(args[0], args[1:]...)
	said, err := cmd.StderrPipe()
	if err != nil {
		o.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	lines := bufio.NewScanner(said)
	var all []string
	for lines.Scan() {
		all = append(all, lines.Text())
		if strings.Contains(lines.Text(), "DHCP, IP range") || strings.Contains(lines.Text(), "TFTP root is") {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd.Process.Pid
		}
	}
	o.t.Fatalf("dnsmasq ended:\n%s", strings.Join(all, "\n"))
	return 0
}

// host is one on which a node would serve eth0.
func (o *office) host(i config.Interface) *Host {
	o.t.Helper()
	cfg, _, err := config.Load("", func(string) string { return "" }, map[string]string{
		"data_dir": filepath.Join(o.dir, "data"), "user": "0", "interfaces": i.String()})
	if err != nil {
		o.t.Fatal(err)
	}
	return &Host{Config: cfg, Version: "dev", BootFiles: bootFiles(), Now: func() time.Time { return time.Date(2027, 1, 1, 12, 0, 0, 0, time.UTC) },
		Inner: []string{"self-test"}, Listen: 200 * time.Millisecond, CheckDir: func(string) error { return nil }}
}

// examine makes the checks and shows them in the test's log.
func examine(t *testing.T, h *Host) Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := Examine(ctx, Checks(h), Printer{Out: t.Output()}.Line)
	Printer{Out: t.Output()}.End(r)
	if ctx.Err() != nil {
		t.Fatal("it did not end")
	}
	return r
}

// find gives one result by its id.
func find(r Report, id string) (found Result, ok bool) {
	var walk func([]Result)
	walk = func(rs []Result) {
		for _, one := range rs {
			if one.ID == id && !ok {
				found, ok = one, true
			}
			walk(one.Under)
		}
	}
	walk(r.Checks)
	return found, ok
}
