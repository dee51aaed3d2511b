package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// httpRounds is how often each server is measured, in turn with the others.
const httpRounds = 5

// httpResult is what the load reports, and what is seen of the server meanwhile.
type httpResult struct {
	Took    time.Duration `json:"took"`
	Bytes   int64         `json:"bytes"`
	Median  time.Duration `json:"median"` // of the clients, from their first byte sent to their last received
	Failed  string        `json:"failed"`
	LoadCPU time.Duration `json:"load_cpu"`

	cpu    time.Duration
	rss    int64
	others float64
}

func (r httpResult) rate() float64 { return float64(r.Bytes) / 1e6 / r.Took.Seconds() }
func (r httpResult) each() float64 {
	return float64(r.cpu.Microseconds()) / 1e3 / (float64(r.Bytes) / (1 << 20))
}

// httpServers are the servers of the initramfs at path.
func httpServers(dir, initrd string, o options) ([]server, error) {
	for _, name := range []string{"data", "nginx"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, err
		}
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, nginxConfig(filepath.Join(dir, "nginx"), serverAddress, filepath.Dir(initrd)), 0o644); err != nil {
		return nil, err
	}
	all := []server{
		{name: "lpmos", command: []string{filepath.Join(dir, "lpmos"), "up", "--data-dir", filepath.Join(dir, "data"), "--log-level", "warn", "--interface", serverDevice + ",mode=proxy"}},
		nginx(filepath.Join(dir, "nginx"), conf, o),
	}
	all = o.chosen(all)
	if !slices.ContainsFunc(all, func(s server) bool { return s.name == "lpmos" }) {
		return all, nil
	}
	// The files a node serves are in its binary, so it is one with this initramfs.
	replace, err := filepath.Abs("images/bootimage/assets/initrd")
	if err != nil {
		return nil, err
	}
	overlay := filepath.Join(dir, "overlay.json")
	b, err := json.Marshal(map[string]map[string]string{"Replace": {replace: initrd}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(overlay, b, 0o644); err != nil {
		return nil, err
	}
	build := exec.Command(cmp.Or(os.Getenv("GO"), "go"), "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-overlay", overlay, "-o", filepath.Join(dir, "lpmos"), "./cmd/lpmos")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build a node with that initramfs: %w: %s", err, out)
	}
	return all, nil
}

// nginx is that server with a configuration.
func nginx(own, conf string, o options) server {
	peers := filepath.Join(o.peers, "nginx")
	s := server{name: "nginx", forks: true, env: []string{"LD_LIBRARY_PATH=" + strings.Join(libraries(peers), ":")},
		command: []string{filepath.Join(peers, "usr/sbin/nginx"), "-e", "stderr", "-p", own, "-c", conf}}
	if err := unpack(peers, "nginx"); err != nil {
		s.missing = err.Error()
	}
	return s
}

// nginxConfig has nginx serve the files below root as a node does, with sendfile(2).
func nginxConfig(own, address, root string) []byte {
	return fmt.Appendf(nil, `daemon off; user root; worker_processes auto; error_log stderr crit; pid %[1]s/pid;
events { worker_connections 1024; }
http { access_log off; sendfile on; tcp_nopush on; default_type application/octet-stream;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  server { listen %[2]s:80; location /boot/ { alias %[3]s/; } } }
`, own, address, root)
}

// benchHTTP measures how fast a rack gets an initramfs.
func benchHTTP(w *wire, o options) error {
	dir, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "files", "initrd")
	if err := os.Mkdir(filepath.Dir(initrd), 0o755); err != nil {
		return err
	}
	b := make([]byte, o.mib<<20)
	if _, err := rand.NewChaCha8([32]byte{2}).Read(b); err != nil {
		return err
	}
	if err := os.WriteFile(initrd, b, 0o644); err != nil {
		return err
	}
	servers, err := httpServers(dir, initrd, o)
	if err != nil {
		return err
	}
	results := map[string][]httpResult{}
	for range max(httpRounds, o.rounds) {
		for _, s := range servers {
			r, err := measureHTTP(w, s, initrd, o.clients)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results[s.name] = append(results[s.name], r)
		}
	}
	fmt.Printf("\nHTTP, an initramfs of %d MiB to %d clients at once, the median of %d\n%-10s %8s %8s %12s %10s %12s %12s %8s\n", o.mib, o.clients, len(results["lpmos"]),
		"server", "MB/s", "lpmos x", "CPU ms/MiB", "RSS MB", "a client s", "load ms/MiB", "others %")
	var ours httpResult
	for _, s := range servers {
		all := results[s.name]
		slices.SortFunc(all, func(a, b httpResult) int { return cmp.Compare(a.Took, b.Took) })
		r := all[len(all)/2]
		if ours.Took == 0 {
			ours = r
		}
		fmt.Printf("%-10s %8.0f %8.2f %12.3f %10.1f %12.2f %12.3f %8.1f\n", s.name, r.rate(), ours.rate()/r.rate(), r.each(), float64(r.rss)/1e6, r.Median.Seconds(),
			float64(r.LoadCPU.Microseconds())/1e3/(float64(r.Bytes)/(1<<20)), r.others*100)
	}
	return nil
}

// measureHTTP starts a server, lets the load run against it, and ends it.
func measureHTTP(w *wire, s server, initrd string, clients int) (httpResult, error) {
	var r httpResult
	cmd, err := s.start()
	if err != nil {
		return r, err
	}
	said := cmd.Stderr.(*bytes.Buffer)
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	fetch := func(clients int) error {
		out, err := w.load("load-http", "-file", initrd, "-clients", strconv.Itoa(clients))
		if err == nil {
			r = httpResult{}
			err = json.Unmarshal(out, &r)
		}
		if err == nil && r.Failed != "" {
			err = errors.New(r.Failed)
		}
		return err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if err = fetch(1); err == nil {
			break
		}
		if time.Now().After(end) {
			return r, fmt.Errorf("it does not serve: %w: %s", err, said)
		}
	}
	machine, stop := busy(), watch(cmd.Process.Pid)
	err = fetch(clients)
	r.cpu, r.rss = stop()
	all := busy()
	r.others = max(0, float64(all.used-machine.used-r.cpu-r.LoadCPU)/float64(all.whole-machine.whole))
	return r, err
}

// loadHTTP is all clients, each with an address of its own.
func loadHTTP(args []string) error {
	f := flag.NewFlagSet("load-http", flag.ContinueOnError)
	file := f.String("file", "", "what is fetched, and compared with")
	clients := f.Int("clients", 1, "how many fetch it at once, each from an address of its own")
	if err := f.Parse(args); err != nil {
		return err
	}
	want, err := os.ReadFile(*file)
	if err != nil {
		return err
	}
	network, err := netip.ParsePrefix(clientNetwork)
	if err != nil {
		return err
	}
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		result httpResult
		took   []time.Duration
	)
	addr, begin := network.Addr(), time.Now()
	for range *clients {
		addr = addr.Next()
		from := addr
		wg.Go(func() {
			err := fetchHTTP(from, filepath.Base(*file), want)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begin))
			if err != nil {
				result.Failed = err.Error()
			}
		})
	}
	wg.Wait()
	result.Took = time.Since(begin)
	result.Bytes = int64(*clients) * int64(len(want))
	slices.Sort(took)
	result.Median = took[len(took)/2]
	result.LoadCPU = ownCPU()
	return json.NewEncoder(os.Stdout).Encode(result)
}

// fetchHTTP fetches a boot file and compares every byte.
func fetchHTTP(from netip.Addr, name string, want []byte) error {
	dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: 5 * time.Second}
	client := http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{DialContext: dialer.DialContext, DisableCompression: true, ReadBufferSize: 256 << 10}}
	defer client.CloseIdleConnections()
	res, err := client.Get("http://" + serverAddress + "/boot/" + name)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", name, res.Status)
	}
	buf := make([]byte, 256<<10)
	at := 0
	for {
		n, err := res.Body.Read(buf)
		if at+n > len(want) || !bytes.Equal(buf[:n], want[at:at+n]) {
			return fmt.Errorf("%s differs after %d bytes", name, at)
		}
		at += n
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s after %d bytes: %w", name, at, err)
		}
	}
	if at != len(want) {
		return fmt.Errorf("%s ended after %d bytes", name, at)
	}
	return nil
}
