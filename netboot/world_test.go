package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// The tests run in a network namespace of their own, so that they may make
// interfaces and be a DHCP server without touching the host. Without the right
// to make one, those that need a wire are skipped.
const inNamespace = "LPMOS_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	fuzzing := strings.Contains(strings.Join(os.Args, " "), "-test.fuzz")
	if os.Getenv(inNamespace) == "" && !fuzzing && os.Getuid() == 0 {
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "no network namespace, tests on a wire are skipped:", err)
	}
	os.Exit(m.Run())
}

// testFleet is a Fleet made of maps.
type testFleet struct {
	mu     sync.Mutex
	agents map[string]Decision
	fixed  map[string]netip.Addr
	served []Decision
	held   chan struct{} // what BootServed waits for, if it is there
}

// boots says what a machine is told to boot; servers that run already may ask.
func (f *testFleet) boots(mac string, d Decision) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.agents[mac] = d
}

// keeps gives a machine an address for ever.
func (f *testFleet) keeps(mac string, a netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fixed[mac] = a
}

// told are the decisions that machines have fetched.
func (f *testFleet) told() []Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.served)
}

func (f *testFleet) Decide(_ context.Context, m Machine) Decision {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d, ok := f.agents[m.MAC]; ok {
		d.Counted = true
		return d
	}
	return Decision{Action: BootAgent, Reason: "it is new here"}
}

func (f *testFleet) BootServed(ctx context.Context, _ Machine, d Decision) error {
	if f.held != nil {
		select {
		case <-f.held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.served = append(f.served, d)
	return nil
}

func (f *testFleet) Address(mac string) (netip.Addr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.fixed[mac]
	return a, ok
}

func (f *testFleet) Taken(a netip.Addr) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.fixed {
		if t == a {
			return true
		}
	}
	return false
}

// setup is a server of one link, its clock and its fleet.
type setup struct {
	*Server
	fleet *testFleet
	link  link
	mu    sync.Mutex
	time  time.Time
	began time.Time // when time began to pass; else it stands still

	probing func(context.Context, netip.Addr) string // who uses an address, for tests without a wire
	echoing func(context.Context, netip.Addr) string // and behind relays
	quiet   func() string                            // why nothing is lent to new machines
	web     func(http.Handler) http.Handler          // in the way of what is asked for over HTTP
}

func (s *setup) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began.IsZero() {
		return s.time
	}
	return s.time.Add(time.Since(s.began))
}

func (s *setup) timePasses() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = time.Now()
}

func (s *setup) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.time = s.time.Add(d)
}

var testFiles = fstest.MapFS{
	LoaderBIOS:    {Data: bytes.Repeat([]byte("bios"), 20000)},
	LoaderUEFI:    {Data: bytes.Repeat([]byte("uefi"), 50000)},
	LoaderUEFIAll: {Data: []byte("all")},
	LoaderShim:    {Data: []byte("shim")},
	LoaderGRUB:    {Data: []byte("grub")},
	FileKernel:    {Data: bytes.Repeat([]byte("kernel"), 100000)},
	FileInitrd:    {Data: bytes.Repeat([]byte("initrd"), 300000)},

	LoaderShimARM64: {Data: []byte("shim for arm64")},
	LoaderGRUBARM64: {Data: []byte("grub for arm64")},
	FileKernelARM64: {Data: []byte("kernel for arm64")},
	FileInitrdARM64: {Data: []byte("initrd for arm64")},
}

func testFilesWithout(names ...string) fstest.MapFS {
	fsys := maps.Clone(testFiles)
	for _, n := range names {
		delete(fsys, n)
	}
	return fsys
}

func testInterface(mode Mode) Interface {
	return Interface{
		Name: "br0", Mode: mode,
		Range:  Range{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199")},
		Router: netip.MustParseAddr("10.77.0.1"),
		DNS:    []netip.Addr{netip.MustParseAddr("10.77.0.53")},
	}
}

// newSetup makes a server without sockets.
func newSetup(t testing.TB, mode Mode) *setup {
	t.Helper()
	return newSetupAt(t, testInterface(mode), "10.77.0.1/24", nil)
}

// testPin and testClaim stand for what the node's keys make.
const testPin = "ab12"

func testClaim(mac string, addr netip.Addr) (string, error) {
	return "claim-" + strings.ReplaceAll(mac, ":", "") + "-" + strings.ReplaceAll(addr.String(), ".", "-"), nil
}

// path is the path of a boot of the machine at 10.77.0.120.
func (s *setup) path(mac string) string {
	return s.paths().new(mac, netip.MustParseAddr("10.77.0.120"))
}

// newSetupAt makes one with an interface and an address of its own, and with other
// nodes beside it.
func newSetupAt(t testing.TB, in Interface, own string, neighbours Neighbours) *setup {
	t.Helper()
	files, err := LoadFiles(testFiles)
	if err != nil {
		t.Fatal(err)
	}
	s := &setup{fleet: &testFleet{agents: map[string]Decision{}, fixed: map[string]netip.Addr{}}, time: time.Unix(1700000000, 0)}
	s.Server, err = New(Config{
		Interfaces: []Interface{in}, DataDir: t.TempDir(), BootPort: 80, Files: files, Fleet: s.fleet, Neighbours: neighbours,
		Pin: testPin, Claim: testClaim, PathKey: [32]byte{1, 2, 3}, look: -1,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: s.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.link, err = newLink(in, 1, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParsePrefix(own))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// simNet is a wire of function calls: it delivers what addressReply says.
type simNet struct {
	s    *setup
	mac  net.HardwareAddr
	in   chan []byte
	addr netip.Addr
}

func (s *setup) sim(mac string) *simNet {
	hw, _ := net.ParseMAC(mac)
	return &simNet{s: s, mac: hw, in: make(chan []byte, 16)}
}

func (n *simNet) SendDHCP(ctx context.Context, packet []byte, to netip.AddrPort) error {
	from := netip.AddrPortFrom(netip.IPv4Unspecified(), 68)
	if n.addr.IsValid() {
		from = netip.AddrPortFrom(n.addr, 68)
	}
	req, drop := parseRequest(packet, from)
	if drop != "" {
		return nil
	}
	req.unicast = to.Addr() == n.s.link.addr
	r := n.s.responder(n.s.link)
	answer := r.answer
	switch {
	case n.s.link.Mode == ModeProxy && to.Port() == proxyServerPort:
		answer = r.proxyBoot
	case n.s.link.Mode == ModeProxy:
		answer = r.proxyOffer
	}
	out, ok := answer(ctx, req)
	if !ok {
		return nil
	}
	everyone := out.to.addr.Addr() == everybody
	if everyone || bytes.Equal(out.to.hw, n.mac) || n.addr.IsValid() && out.to.addr == netip.AddrPortFrom(n.addr, 68) {
		n.in <- out.packet
	}
	return nil
}

func (n *simNet) ReceiveDHCP(ctx context.Context) ([]byte, error) {
	select {
	case b := <-n.in:
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (n *simNet) Configure(_ context.Context, p netip.Prefix) error {
	n.addr = p.Addr()
	return nil
}

func (n *simNet) TFTP(_ context.Context, server netip.Addr, name string) ([]byte, error) {
	if server != n.s.link.addr {
		return nil, fmt.Errorf("TFTP from %s", server)
	}
	file, _, ok := n.s.tftp(n.s.link).find(name, n.addr)
	if !ok {
		return nil, errTFTPNoFile
	}
	return io.ReadAll(file)
}

func (n *simNet) HTTP(ctx context.Context, url string) ([]byte, error) {
	local, err := net.ResolveTCPAddr("tcp", n.s.link.addr.String()+":80")
	if err != nil {
		return nil, err
	}
	req := httptest.NewRequestWithContext(context.WithValue(ctx, http.LocalAddrContextKey, local), http.MethodGet, url, nil)
	req.RemoteAddr = netip.AddrPortFrom(n.addr, 4000).String()
	w := httptest.NewRecorder()
	n.s.Handler().ServeHTTP(w, req)
	if w.Code != 200 {
		return nil, fmt.Errorf("GET %s: %d", url, w.Code)
	}
	return io.ReadAll(w.Body)
}

var testUUID = [16]byte{0x78, 0x56, 0x34, 0x12, 0xcd, 0xab, 0xef, 0xcd, 1, 2, 3, 4, 5, 6, 7, 8}
