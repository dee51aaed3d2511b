package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tftpBlock is the block all clients ask for: what fits an Ethernet frame.
const tftpBlock = 1468

// server is one that is measured.
type server struct {
	name    string
	command []string
	env     []string
	missing string // why it cannot be measured
	first   int    // rate of leases that is tried first
	forks   bool   // it has children that do not end with it
}

// tftpServers are the servers of the files in dir.
func tftpServers(dir string, o options) ([]server, error) {
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, err
	}
	root := filepath.Join(dir, "files")
	peers := server{}
	if err := unpack(o.peers, "tftpd-hpa", "atftpd", "libwrap0"); err != nil {
		peers.missing = err.Error()
	}
	peers.env = []string{"LD_LIBRARY_PATH=" + strings.Join(libraries(o.peers), ":")}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	sbin := filepath.Join(o.peers, "usr/sbin")
	all := []server{
		{name: "lpmos", command: []string{exe, "serve", root, data}},
		{name: "tftpd-hpa", env: peers.env, missing: peers.missing,
			command: []string{filepath.Join(sbin, "in.tftpd"), "-L", "-4", "-a", serverAddress + ":69", "-u", "root", "-s", root}},
		{name: "atftpd", env: peers.env, missing: peers.missing,
			command: []string{filepath.Join(sbin, "atftpd"), "--daemon", "--no-fork", "--bind-address", serverAddress, "--maxthread", "1000",
				"--user", "root", "--group", "root", "--logfile", "/dev/null", "--verbose=0", root}},
		{name: "dnsmasq",
			command: []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=" + serverDevice, "--bind-interfaces",
				"--enable-tftp", "--tftp-root=" + root, "--tftp-max=1000", "--user=root", "--pid-file", "--log-facility=/dev/null"}},
	}
	if _, err := exec.LookPath("dnsmasq"); err != nil {
		all[3].missing = "not installed: apt install dnsmasq-base"
	}
	return o.chosen(all), nil
}

// unpack takes Debian packages apart, which would start as servers of the host or get in
// each other's way if they were installed.
func unpack(dir string, packages ...string) error {
	if _, err := os.Stat(filepath.Join(dir, "unpacked")); err == nil {
		return nil
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// It runs where the network is.
	fetch := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(os.Getppid()), "-n", "--", "apt-get", "download", "-qq"}, packages...)...)
	fetch.Dir = dir
	if out, err := fetch.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download %s: %w: %s", strings.Join(packages, " "), err, out)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w: %s", deb, err, out)
		}
	}
	return os.WriteFile(filepath.Join(dir, "unpacked"), nil, 0o644)
}

// libraries are the directories of shared libraries below dir.
func libraries(dir string) []string {
	found, err := filepath.Glob(filepath.Join(dir, "usr/lib/*-linux-gnu*"))
	if err != nil {
		return nil
	}
	return found
}

// tftpResult is what the load reports, and what is seen of the server meanwhile.
type tftpResult struct {
	Took    time.Duration `json:"took"`
	Bytes   int64         `json:"bytes"`
	Resent  int           `json:"resent"` // by the clients, when nothing came
	Window  int           `json:"window"` // granted
	Failed  string        `json:"failed"`
	LoadCPU time.Duration `json:"load_cpu"`

	cpu time.Duration
	rss int64
}

func (r tftpResult) rate() float64 { return float64(r.Bytes) / 1e6 / r.Took.Seconds() }
func (r tftpResult) each() float64 {
	return float64(r.cpu.Microseconds()) / 1e3 / (float64(r.Bytes) / (1 << 20))
}

// benchTFTP measures what a far machine waits for its loader, and what a server can do
// for a rack that fetches large files.
func benchTFTP(w *wire, o options) error {
	dir, err := os.MkdirTemp("", "lpmos-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root := filepath.Join(dir, "files")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	// Names of boot files, for netboot gives no others.
	random := rand.NewChaCha8([32]byte{1})
	for name, size := range map[string]int{"undionly.kpxe": 1 << 20, "snponly.efi": o.mib << 20} {
		b := make([]byte, size)
		if _, err := random.Read(b); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(root, name), b, 0o644); err != nil {
			return err
		}
	}
	servers, err := tftpServers(dir, o)
	if err != nil {
		return err
	}

	grants := map[string]int{} // of a window of 16
	far := []string{"-file", filepath.Join(root, "undionly.kpxe"), "-clients", "1", "-delay", "30ms", "-window", "16"}
	fmt.Printf("\nTFTP, 1 MiB over a path of 30 ms, a window of 16 asked for\n%-10s %9s %8s %9s\n", "server", "seconds", "window", "x lpmos")
	if err := compare(w, o, servers, far, func(s server, r, ours tftpResult) {
		grants[s.name] = r.Window
		fmt.Printf("%-10s %9.2f %8d %9.2f\n", s.name, r.Took.Seconds(), r.Window, r.Took.Seconds()/ours.Took.Seconds())
	}); err != nil {
		return err
	}
	for window := range strings.SplitSeq(o.windows, ",") {
		rack := []string{"-file", filepath.Join(root, "snponly.efi"), "-clients", strconv.Itoa(o.clients), "-window", window}
		fmt.Printf("\nTFTP, %d clients of %d MiB each, a window of %s asked for\n%-10s %8s %7s %8s %12s %10s %8s %12s\n",
			o.clients, o.mib, window, "server", "MB/s", "lpmos x", "window", "CPU ms/MiB", "RSS MB", "resent", "load ms/MiB")
		grant := slices.DeleteFunc(slices.Clone(servers), func(s server) bool {
			none := window != "1" && grants[s.name] == 1
			if none {
				fmt.Printf("%-10s grants no windows: as without\n", s.name)
			}
			return none
		})
		if err := compare(w, o, grant, rack, func(s server, r, ours tftpResult) {
			fmt.Printf("%-10s %8.1f %7.2f %8d %12.2f %10.1f %8d %12.2f\n", s.name, r.rate(), ours.rate()/r.rate(), r.Window, r.each(), float64(r.rss)/1e6,
				r.Resent, float64(r.LoadCPU.Microseconds())/1e3/(float64(r.Bytes)/(1<<20)))
		}); err != nil {
			return err
		}
	}
	fmt.Println("\nThe file lpmos sends is mapped into its memory, as the boot files of a node are, and counts in its RSS.")
	return nil
}

// compare measures each server and prints its median beside ours.
func compare(w *wire, o options, servers []server, load []string, print func(s server, r, ours tftpResult)) error {
	var ours tftpResult
	for _, s := range servers {
		var all []tftpResult
		for range max(1, o.rounds) {
			r, err := measureTFTP(w, s, load)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			all = append(all, r)
		}
		slices.SortFunc(all, func(a, b tftpResult) int { return cmp.Compare(a.Took, b.Took) })
		r := all[len(all)/2]
		if ours.Took == 0 {
			ours = r
		}
		if r.Failed != "" {
			fmt.Printf("%-10s failed: %s\n", s.name, r.Failed)
			continue
		}
		print(s, r, ours)
	}
	return nil
}

// measureTFTP starts a server, lets the load run against it, and ends it.
func measureTFTP(w *wire, s server, load []string) (tftpResult, error) {
	var r tftpResult
	cmd, err := s.start()
	if err != nil {
		return r, err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	// A file is fetched before, so that the server is up and has read what it reads once.
	warm := []string{"load-tftp", "-file", filepath.Join(filepath.Dir(load[1]), "undionly.kpxe"), "-clients", "1", "-patience", "10s"}
	out, err := w.load(warm...)
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err == nil && r.Failed != "" {
		err = errors.New(r.Failed)
	}
	if err != nil {
		return r, fmt.Errorf("it does not serve: %w", err)
	}
	stop := watch(cmd.Process.Pid)
	r = tftpResult{}
	out, err = w.load(append([]string{"load-tftp"}, load...)...)
	r.cpu, r.rss = stop()
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(out, &r)
}
