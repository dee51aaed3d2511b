package netboot

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// wire is a real Ethernet: a bridge here with the server's address, and a
// second namespace in which machines live, joined by a veth pair.
type wire struct {
	t   testing.TB
	pid int
}

func newWire(t testing.TB) *wire {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root for a network namespace")
	}
	sleep := exec.Command("sleep", "infinity")
	sleep.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	w := &wire{t: t, pid: sleep.Process.Pid}
	t.Cleanup(func() {
		// Explicitly: with its namespace a veth goes too, but some time later.
		w.run("ip", "link", "del", "v0")
		w.run("ip", "link", "del", "br0")
		sleep.Process.Kill()
		sleep.Wait()
	})
	w.run("ip", "link", "set", "lo", "up")
	w.run("ip", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	w.run("ip", "address", "add", "10.77.0.1/24", "dev", "br0")
	w.run("ip", "link", "set", "br0", "up")
	w.run("ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1")
	w.run("ip", "link", "set", "v0", "master", "br0", "up")
	w.run("ip", "link", "set", "v1", "netns", strconv.Itoa(w.pid))
	w.inside("ip", "link", "set", "lo", "up")
	w.inside("ip", "link", "set", "v1", "up")
	return w
}

// run runs a command on the server's side.
func (w *wire) run(args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.WaitDelay = time.Second // a daemon left behind keeps the output open
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// inside runs a command on the machines' side.
func (w *wire) inside(args ...string) string {
	w.t.Helper()
	return w.run(append([]string{"nsenter", "-t", strconv.Itoa(w.pid), "-n", "--"}, args...)...)
}

// command is one to run on the machines' side.
func (w *wire) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(w.pid), "-n", "--"}, args...)...)
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// start runs the server on the wire until the test ends or stop is called, HTTP
// with it.
func (w *wire) start(s *setup) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-done:
		cancel()
		w.t.Fatalf("server did not start: %v", err)
	}
	ln, err := net.Listen("tcp", s.link.addr.String()+":80")
	if err != nil {
		cancel()
		w.t.Fatal(err)
	}
	handler := s.Handler()
	if s.web != nil {
		handler = s.web(handler)
	}
	web := &http.Server{Handler: handler}
	go web.Serve(ln)
	stop = sync.OnceFunc(func() {
		web.Close()
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("server ended with: %v", err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

// second makes another interface of this side on the same Ethernet, with an
// address of its own, as a second node has it.
func (w *wire) second(name, address string) {
	w.t.Helper()
	w.run("ip", "link", "add", name+"p", "type", "veth", "peer", "name", name)
	w.t.Cleanup(func() { w.run("ip", "link", "del", name) })
	w.run("ip", "link", "set", name+"p", "master", "br0", "up")
	w.run("ip", "address", "add", address, "dev", name)
	w.run("ip", "link", "set", name, "up")
	// Each interface answers for its own address only, and takes packets although
	// the way back leads over the other.
	for _, dev := range []string{"all", "br0", name} {
		for key, value := range map[string]string{"arp_ignore": "1", "rp_filter": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/"+key, []byte(value), 0o600); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// machine is what a process on the machines' side is told to be.
type machine struct {
	Shape pxeclient.Shape
	MAC   string
	Out   string
}

const machineEnv = "LPMOS_TEST_MACHINE"

// boot boots a machine on the wire from a process of its own.
func (w *wire) boot(shape pxeclient.Shape, mac string) (pxeclient.Result, error) {
	w.t.Helper()
	m := machine{Shape: shape, MAC: mac, Out: filepath.Join(w.t.TempDir(), "result.json")}
	spec, err := json.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := w.command(os.Args[0], "-test.run=^TestMachineProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), machineEnv+"="+string(spec))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return pxeclient.Result{}, fmt.Errorf("%w: %s", err, out)
	}
	b, err := os.ReadFile(m.Out)
	if err != nil {
		w.t.Fatal(err)
	}
	var res pxeclient.Result
	if err := json.Unmarshal(b, &res); err != nil {
		w.t.Fatal(err)
	}
	return res, nil
}

// TestMachineProcess is a machine on the wire, when boot starts it.
func TestMachineProcess(t *testing.T) {
	spec := os.Getenv(machineEnv)
	if spec == "" {
		t.Skip("started by other tests only")
	}
	var m machine
	if err := json.Unmarshal([]byte(spec), &m); err != nil {
		t.Fatal(err)
	}
	hw, err := net.ParseMAC(m.MAC)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	pw, err := pxeclient.OpenWire(ctx, "v1", func(_ context.Context, p netip.Prefix) error {
		return exec.Command("ip", "address", "replace", p.String(), "dev", "v1").Run()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	n := pw.Client()
	defer n.Close()
	c := pxeclient.Client{Shape: m.Shape, MAC: hw, UUID: testUUID, Net: n}
	res, err := c.Boot(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Out, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
