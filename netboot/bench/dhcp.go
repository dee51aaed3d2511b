package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The machines of the DHCP part are behind a relay, which is the load generator: so
// are those of most who have a thousand, and so no server asks the wire first who has
// an address.
const (
	relayAddress = "10.98.255.2"
	relayNetwork = "10.98.0.0/16"
	relayFirst   = "10.98.1.0"
	relayLast    = "10.98.250.255"
)

// What a server has to keep to at a rate.
const (
	dropsMost = 0.01
	waitMost  = 20 * time.Millisecond // 99 of 100 answers, to DISCOVER and to REQUEST
)

// leases are the rates that are tried, as far as a server goes.
var leaseRates = []int{100, 200, 300, 400, 600, 800, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000, 12000, 14000, 16000, 20000}

// dhcpServers are the servers that keep their leases in dir. First is the rate each is
// tried at first.
func dhcpServers(dir string, o options) ([]server, error) {
	node, err := filepath.Abs(o.node)
	if err != nil {
		return nil, err
	}
	kea := filepath.Join(dir, "kea.json")
	if err := os.WriteFile(kea, fmt.Appendf(nil, `{"Dhcp4": {"interfaces-config": {"interfaces": [%q], "dhcp-socket-type": "udp"},
		"multi-threading": {"enable-multi-threading": true, "thread-pool-size": 2},
		"lease-database": {"type": "memfile", "persist": true, "name": %q, "lfc-interval": 0}, "valid-lifetime": 3600,
		"subnet4": [{"subnet": %q, "pools": [{"pool": "%s - %s"}]}],
		"loggers": [{"name": "kea-dhcp4", "output_options": [{"output": "/dev/null"}], "severity": "ERROR"}]}}`,
		serverDevice, filepath.Join(dir, "data", "kea.csv"), relayNetwork, relayFirst, relayLast), 0o644); err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	all := []server{
		{name: "lpmos", first: 2000, command: []string{node, "up", "--data-dir", data, "--log-level", "warn", "--interface",
			serverDevice + ",mode=dhcp,no_probe=true,range=10.99.0.100-10.99.0.200,network=" + relayNetwork + ",range=" + relayFirst + "-" + relayLast}},
		{name: "Kea", first: 2000, env: []string{"KEA_PIDFILE_DIR=" + data, "KEA_LOCKFILE_DIR=" + data}, command: []string{"kea-dhcp4", "-c", kea}},
		{name: "dnsmasq", first: 200,
			command: []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=" + serverDevice, "--bind-interfaces",
				"--dhcp-range=" + relayFirst + "," + relayLast + ",255.255.0.0,1h", "--dhcp-lease-max=100000", "--no-ping",
				"--dhcp-leasefile=" + filepath.Join(data, "dnsmasq.leases"), "--user=root", "--pid-file", "--quiet-dhcp", "--dhcp-authoritative", "--log-facility=/dev/null"}},
	}
	for i, pkg := range []string{"", "kea-dhcp4-server", "dnsmasq-base"} {
		if _, err := exec.LookPath(all[i].command[0]); err != nil {
			if pkg == "" {
				return nil, fmt.Errorf("%w: make build", err)
			}
			all[i].missing = "not installed: apt install " + pkg
		}
	}
	if _, err := exec.LookPath("perfdhcp"); err != nil {
		return nil, errors.New("perfdhcp is not installed: apt install kea-admin")
	}
	return o.chosen(all), nil
}

// dhcpResult is one run of perfdhcp, and what is seen of the server meanwhile.
type dhcpResult struct {
	rate   int           // asked for
	sent   int           // DISCOVERs
	done   int           // ACKs
	drops  float64       // the larger part of the two
	offer  time.Duration // the wait of 99 of 100
	ack    time.Duration
	span   time.Duration
	cpu    time.Duration
	rss    int64
	others float64 // part of all processors that went to processes of others
}

func (r dhcpResult) each() float64 { return float64(r.cpu.Microseconds()) / float64(max(1, r.done)) }

// good says whether the server keeps up.
func (r dhcpResult) good() bool { return r.drops < dropsMost && r.offer < waitMost && r.ack < waitMost }

// starved says whether perfdhcp did not get to send what it was to.
func (r dhcpResult) starved() bool {
	return float64(r.sent) < 0.97*float64(r.rate)*r.span.Seconds()
}

// benchDHCP looks for the most leases a second that each server gives without losing or
// delaying any.
func benchDHCP(w *wire, o options) error {
	if err := w.behindRelay(); err != nil {
		return err
	}
	dir, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	servers, err := dhcpServers(dir, o)
	if err != nil {
		return err
	}
	fmt.Printf("\nDHCP through a relay, a new machine each exchange, %v a run; kept up: < %.0f %% drops, 99 of 100 answers < %v\n%-10s %8s %8s %8s %8s %8s %12s %8s %8s\n",
		o.seconds, dropsMost*100, waitMost, "server", "asked/s", "leases/s", "drops %", "p99 D-O", "p99 R-A", "CPU us/lease", "RSS MB", "others %")
	best := map[string]dhcpResult{}
	at := map[string]map[int]dhcpResult{}
	for _, s := range servers {
		at[s.name] = map[int]dhcpResult{}
		try := func(rate int) (bool, error) {
			var r dhcpResult
			for range 2 { // a moment of somebody else's is no answer
				var err error
				if r, err = measureDHCP(w, s, dir, rate, o.seconds); err != nil {
					return false, fmt.Errorf("%s: %w", s.name, err)
				}
				fmt.Printf("%-10s %8d %8.0f %8.2f %8.1f %8.1f %12.0f %8.1f %8.1f%s\n", s.name, rate, float64(r.done)/r.span.Seconds(), r.drops*100,
					millis(r.offer), millis(r.ack), r.each(), float64(r.rss)/1e6, r.others*100, map[bool]string{true: "", false: "  no"}[r.good() && !r.starved()])
				if r.good() && !r.starved() {
					break
				}
			}
			if r.good() && !r.starved() {
				at[s.name][rate] = r
				if rate > best[s.name].rate {
					best[s.name] = r
				}
				return true, nil
			}
			return false, nil
		}
		if o.rate != 0 {
			if _, err := try(o.rate); err != nil {
				return err
			}
			continue
		}
		if err := climb(s.first, try); err != nil {
			return err
		}
	}
	fmt.Printf("\n%-10s %8s %8s\n", "server", "leases/s", "lpmos x")
	for _, s := range servers {
		fmt.Printf("%-10s %8d %8.2f\n", s.name, best[s.name].rate, float64(best["lpmos"].rate)/float64(best[s.name].rate))
	}
	for _, rate := range leaseRates {
		ours, ok := at["lpmos"][rate]
		if kea, both := at["Kea"][rate]; ok && both {
			fmt.Printf("at %d/s a lease costs lpmos %.0f us of a processor and Kea %.0f: x %.2f\n", rate, ours.each(), kea.each(), ours.each()/kea.each())
		}
	}
	return nil
}

// climb tries rates from first on upwards until one is too much, or downwards until one
// is not.
func climb(first int, try func(rate int) (bool, error)) error {
	i := slices.Index(leaseRates, first)
	good, err := try(leaseRates[i])
	if err != nil {
		return err
	}
	up := good
	for err == nil && good == up {
		if up {
			i++
		} else {
			i--
		}
		if i < 0 || i == len(leaseRates) {
			return nil
		}
		good, err = try(leaseRates[i])
	}
	return err
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// behindRelay gives the load the address of a relay.
func (w *wire) behindRelay() error {
	pid := strconv.Itoa(w.holder.Process.Pid)
	return runAll(
		"nsenter -t "+pid+" -n ip address replace "+relayAddress+"/16 dev c0",
		"ip route replace "+relayNetwork+" dev "+serverDevice)
}

// measureDHCP starts a server without leases, has perfdhcp ask it, and ends it.
func measureDHCP(w *wire, s server, dir string, rate int, span time.Duration) (dhcpResult, error) {
	r := dhcpResult{rate: rate, span: span}
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.RemoveAll(data), os.Mkdir(data, 0o755)); err != nil {
		return r, err
	}
	cmd, err := s.start()
	if err != nil {
		return r, err
	}
	said := cmd.Stderr.(*bytes.Buffer)
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	for end := time.Now().Add(20 * time.Second); ; {
		// A machine that gets its lease says that the server is up.
		if out, err := w.perfdhcp(20, 1, time.Second).Output(); err == nil && new(dhcpResult).read(out) == nil {
			break
		}
		if time.Now().After(end) {
			return r, fmt.Errorf("it does not serve: %s", said)
		}
	}
	load := w.perfdhcp(rate, 1<<20, span)
	machine, stop := busy(), watch(cmd.Process.Pid)
	out, err := load.Output()
	r.cpu, r.rss = stop()
	if state := load.ProcessState; state != nil {
		all := busy()
		r.others = max(0, float64(all.used-machine.used-r.cpu-state.UserTime()-state.SystemTime())/float64(all.whole-machine.whole))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) { // it ends with an error when something was lost
		return r, err
	}
	return r, r.read(out)
}

// read takes in what perfdhcp says at its end.
func (r *dhcpResult) read(out []byte) error {
	var waits [2][]time.Duration
	var sent, received [2]int
	at := -1
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "***Statistics for: DISCOVER-OFFER"), strings.HasPrefix(line, "***Timestamps for packets: DISCOVER-OFFER"):
			at = 0
		case strings.HasPrefix(line, "***Statistics for: REQUEST-ACK"), strings.HasPrefix(line, "***Timestamps for packets: REQUEST-ACK"):
			at = 1
		case at < 0:
		case strings.HasPrefix(line, "sent packets: "):
			sent[at], _ = strconv.Atoi(line[len("sent packets: "):])
		case strings.HasPrefix(line, "received packets: "):
			received[at], _ = strconv.Atoi(line[len("received packets: "):])
		case strings.HasPrefix(line, "sent / received: "):
			from, to, _ := strings.Cut(line[len("sent / received: "):], " / ")
			a, err := strconv.ParseFloat(from, 64)
			b, err2 := strconv.ParseFloat(to, 64)
			if err == nil && err2 == nil {
				waits[at] = append(waits[at], time.Duration((b-a)*1e9))
			}
		}
	}
	if sent[0] == 0 || len(waits[0]) == 0 || len(waits[1]) == 0 {
		return fmt.Errorf("perfdhcp got no answers:\n%.2000s", out)
	}
	r.sent, r.done = sent[0], received[1]
	for i := range 2 {
		r.drops = max(r.drops, 1-float64(received[i])/float64(max(1, sent[i])))
		slices.Sort(waits[i])
	}
	r.offer, r.ack = waits[0][len(waits[0])*99/100], waits[1][len(waits[1])*99/100]
	return nil
}

// perfdhcp asks for so many leases a second for a time, as so many machines.
func (w *wire) perfdhcp(rate, machines int, span time.Duration) *exec.Cmd {
	return w.inside("perfdhcp", "-4", "-l", relayAddress, "-r", strconv.Itoa(rate), "-R", strconv.Itoa(machines), "-p", strconv.Itoa(int(span.Seconds())),
		"-d", "1", "-W", "1000000", "-x", "t", serverAddress)
}

// inside is a command among the clients.
func (w *wire) inside(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(w.holder.Process.Pid), "-n", "--"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts a server.
func (s server) start() (*exec.Cmd, error) {
	cmd := exec.Command(s.command[0], s.command[1:]...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stderr = &bytes.Buffer{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.forks {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID // all of which ends with its first process
	}
	return cmd, cmd.Start()
}

// machineTime is what all processors of this machine have done. Interrupts are nobody's:
// most are packets of the load.
type machineTime struct{ used, whole time.Duration }

func busy() machineTime {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return machineTime{}
	}
	line, _, _ := strings.Cut(string(b), "\n")
	var m machineTime
	for i, f := range strings.Fields(line)[1:] {
		n, _ := strconv.ParseInt(f, 10, 64)
		d := time.Duration(n) * 10 * time.Millisecond
		if i < 8 {
			m.whole += d
		}
		if i < 3 { // user, nice, system
			m.used += d
		}
	}
	return m
}
