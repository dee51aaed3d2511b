// Command bench measures netboot beside the servers that others use for it: on one
// machine, in one run, with the same clients that ask all of them for the same.
//
// The servers run one after the other in a network namespace of their own, the clients
// in another, joined by a veth pair. A table tells the speed, the processor time of the
// server and its memory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lpmos/lpmos/consensus"
)

// roles are what this program is when it is started by itself.
var roles = map[string]func(args []string) error{
	"run":       run,
	"serve":     serve,
	"load-tftp": loadTFTP,
	"load-http": loadHTTP,
}

func main() {
	role, args := "", os.Args[1:]
	if len(args) > 0 && roles[args[0]] != nil {
		role, args = args[0], args[1:]
	}
	do := isolate
	if role != "" {
		do = roles[role]
	}
	if err := do(args); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// isolate runs the rest in a network namespace.
func isolate(args []string) error {
	if os.Getuid() != 0 {
		return errors.New("only root may make network namespaces: run it with sudo")
	}
	cmd := self(append([]string{"run"}, args...)...)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNET
	cmd.SysProcAttr.Setsid = true // see run
	return cmd.Run()
}

// self is this program again.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// options are what can be asked for.
type options struct {
	clients int
	mib     int
	windows string
	only    string
	rounds  int
	peers   string
	parts   string
	seconds time.Duration
	rate    int
	node    string
	boots   int
}

// chosen are the servers that were asked for and can be measured.
func (o options) chosen(all []server) []server {
	if o.only != "" {
		only := strings.Split(o.only, ",")
		all = slices.DeleteFunc(all, func(s server) bool { return !slices.Contains(only, s.name) })
	}
	return slices.DeleteFunc(all, func(s server) bool {
		if s.missing != "" {
			fmt.Printf("%s is left out: %s\n", s.name, s.missing)
		}
		return s.missing != ""
	})
}

// parts are what can be measured.
var parts = []struct {
	name  string
	bench func(*wire, options) error
}{
	{"tftp", benchTFTP},
	{"dhcp", benchDHCP},
	{"http", benchHTTP},
	{"boot", benchBoot},
}

// run makes the wire and measures one part after the other.
func run(args []string) error {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.clients, "clients", 100, "TFTP clients that fetch at once")
	f.IntVar(&o.mib, "mib", 60, "MiB that each of them fetches")
	f.StringVar(&o.windows, "windows", "1,16", "windows to ask for, 1 for none (RFC 7440)")
	f.StringVar(&o.only, "only", "", "servers to measure, by name; all by default")
	f.IntVar(&o.rounds, "rounds", 1, "measurements of each, of which the median counts")
	f.StringVar(&o.parts, "parts", "", "what to measure, of tftp, dhcp, http and boot; all by default")
	f.DurationVar(&o.seconds, "seconds", 6*time.Second, "how long a run of the DHCP part takes")
	f.IntVar(&o.rate, "rate", 0, "leases a second that the DHCP part asks for, in place of looking for the most")
	f.IntVar(&o.boots, "boots", 3, "boots of each firmware off each server")
	f.StringVar(&o.node, "node", "bin/lpmos", "the node's binary")
	f.StringVar(&o.peers, "peers", "build/bench", "where Debian packages of peers are unpacked that are not to be installed")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	w, err := newWire(o.clients)
	if err != nil {
		return err
	}
	defer w.close()
	// What else the machine does is to disturb as little as it can. Processes of one
	// session are weighed against each other, and those of two as sessions (sched(7)).
	if err := os.WriteFile("/proc/self/autogroup", []byte("-20"), 0); err != nil {
		fmt.Println("the servers and the load run as any other process:", err)
	}
	// A node goes before others by itself, so the peers and the load do, too.
	if err := consensus.GoFirst(); err != nil {
		fmt.Println("a node goes before its peers:", err)
	}
	for _, part := range parts {
		if o.parts != "" && !slices.Contains(strings.Split(o.parts, ","), part.name) {
			continue
		}
		if err := part.bench(w, o); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// workDir is a directory on a disk, which others than root can enter.
func workDir() (string, error) {
	dir, err := os.MkdirTemp("/var/tmp", "lpmos-bench-")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// runAll runs commands without arguments that have spaces in them.
func runAll(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// The addresses: of the servers, and of the first client; the others follow.
const (
	serverAddress = "10.99.0.1"
	clientNetwork = "10.99.128.0/17"
	serverDevice  = "s0"
	clientCard    = "02:00:00:00:00:02"
)

// wire is where the clients are.
type wire struct {
	holder *exec.Cmd // its namespace
}

func newWire(clients int) (*wire, error) {
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		return nil, fmt.Errorf("a network namespace for clients: %w", err)
	}
	w := &wire{holder}
	pid := strconv.Itoa(holder.Process.Pid)
	if err := runAll(
		"ip link set lo up",
		"ip link add "+serverDevice+" type veth peer name c0 address "+clientCard+" netns "+pid,
		"ip address add "+serverAddress+"/16 dev "+serverDevice,
		"ip link set "+serverDevice+" up",
		"nsenter -t "+pid+" -n ip link set lo up",
		"nsenter -t "+pid+" -n ip address add 10.99.0.2/16 dev c0",
		"nsenter -t "+pid+" -n ip link set c0 up",
		"nsenter -t "+pid+" -n ip route add local "+clientNetwork+" dev lo", // all of them are this host
	); err != nil {
		return nil, errors.Join(err, w.close())
	}
	// All machines of a host share one table of neighbours, and it may be full.
	var known strings.Builder
	addr := netip.MustParsePrefix(clientNetwork).Addr()
	for range clients {
		addr = addr.Next()
		fmt.Fprintf(&known, "neighbour add %s lladdr %s dev %s nud permanent\n", addr, clientCard, serverDevice)
	}
	batch := exec.Command("ip", "-batch", "-")
	batch.Stdin = strings.NewReader(known.String())
	if out, err := batch.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("tell the server where the clients are: %w: %s", err, out), w.close())
	}
	return w, nil
}

func (w *wire) close() error {
	err := w.holder.Process.Kill()
	_ = w.holder.Wait() // it was killed
	return err
}

// load runs a role of this program among the clients and returns what it prints.
func (w *wire) load(args ...string) ([]byte, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := w.inside(append([]string{exe}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// process is what /proc/PID/stat says of one.
type process struct {
	parent int
	cpu    time.Duration
	rss    int64 // bytes
}

// tree reads the process and all below it: fields 4, 14, 15 and 24 of stat(5).
func tree(pid int) (map[int]process, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || len(f) < 22 {
			continue
		}
		number := func(field int) int64 { n, _ := strconv.ParseInt(f[field-3], 10, 64); return n }
		all[id] = process{int(number(4)), time.Duration(number(14)+number(15)) * 10 * time.Millisecond, number(24) * int64(os.Getpagesize())}
	}
	if _, ok := all[pid]; !ok {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	below := map[int]process{}
	for id, p := range all {
		for at := id; at > 1; at = all[at].parent {
			if at == pid {
				below[id] = p
				break
			}
		}
	}
	return below, nil
}

// watch notes what a process and those it starts use until stop is called: their
// processor time and the most memory they had. Nobody waits for the children of tftpd-hpa,
// so they are looked at while they live, and their last tenth of a second is not counted.
func watch(pid int) (stop func() (cpu time.Duration, rss int64)) {
	quit, done := make(chan struct{}), make(chan struct{})
	var before time.Duration
	var peak int64
	seen := map[int]time.Duration{}
	look := func() {
		all, err := tree(pid)
		if err != nil {
			return
		}
		var rss int64
		for id, p := range all {
			seen[id] = p.cpu
			rss += p.rss
		}
		peak = max(peak, rss)
	}
	look()
	for _, cpu := range seen {
		before += cpu
	}
	go func() {
		defer close(done)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				look()
			case <-quit:
				look()
				return
			}
		}
	}()
	return func() (time.Duration, int64) {
		close(quit)
		<-done
		cpu := -before
		for _, used := range seen {
			cpu += used
		}
		return cpu, peak
	}
}
