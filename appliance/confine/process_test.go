package confine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lpmos/lpmos/appliance/confine"
	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// The tests of a whole node run it as root does, in a network namespace of this
// test's own.
const inNamespace = "LPMOS_TEST_NAMESPACE"

func TestMain(m *testing.M) {
	if what := os.Getenv(asChild); what != "" {
		children[what]()
		os.Exit(0)
	}
	if os.Getenv(inNamespace) == "" && os.Getuid() == 0 {
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
		fmt.Fprintln(os.Stderr, "no network namespace, tests of a whole node are skipped:", err)
	}
	code := m.Run()
	os.RemoveAll(programDir)
	os.Exit(code)
}

// programDir is where the program lies, once a test wanted it.
var programDir string

// program builds the node as it is shipped: what Go does for every thread, it
// cannot do in a binary with C code, as go test -race makes.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "lpmos-confine")
	if err != nil {
		return "", err
	}
	programDir = dir
	file := filepath.Join(dir, "lpmos")
	build := exec.Command("go", "build", "-o", file, "../../cmd/lpmos")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the node: %w\n%s", err, out)
	}
	return file, nil
})

// process is a node that runs.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string // its data directory
	log  *lockedBuffer
	gone chan struct{}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// room is a directory that other users may pass through, which those of a test
// are not.
func room(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lpmos-confine")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// up starts a node with an open umask, and waits until it is ready.
func up(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	return startWith(t, "", dir, args...)
}

// startWith does so with something to read from standard input.
func startWith(t *testing.T, in, dir string, args ...string) *process {
	t.Helper()
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, for a network namespace and to see a node give up root")
	}
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(link)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: dir, log: &lockedBuffer{}, gone: make(chan struct{})}
	p.cmd = exec.Command("sh", append([]string{"-c", `umask 000; exec "$@"`, "sh", file, "up", "--data-dir", dir}, args...)...)
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = strings.NewReader(in), p.log, p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the log says why
		close(p.gone)
	}()
	t.Cleanup(p.stop)
	for deadline := time.Now().Add(time.Minute); !strings.Contains(p.log.String(), "node is ready"); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.gone:
			t.Fatalf("the node ended:\n%s", p.log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("the node is not ready:\n%s", p.log)
		}
	}
	return p
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case <-p.gone:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.gone
		p.t.Errorf("the node did not end when it was told to:\n%s", p.log)
	}
}

// rights are those of one thread, as proc(5) has them.
func rights(t *testing.T, status string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(status)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		out[name] = strings.TrimSpace(value)
	}
	return out
}

// wired joins this namespace to one of its own, in which a machine stands at the
// end of the interface m0. What do does, it does there.
func wired(t *testing.T) (do func(func() error)) {
	t.Helper()
	work, done := make(chan func() error), make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no use elsewhere
		err := syscall.Unshare(syscall.CLONE_NEWNET)
		done <- err
		for f := range work {
			done <- f()
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	do = func(f func() error) {
		t.Helper()
		work <- f
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	var there *os.File
	do(func() (err error) {
		there, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	defer there.Close()
	t.Cleanup(func() { close(work) })
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "n0"}, PeerName: "m0", PeerNamespace: netlink.NsFd(int(there.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) }) // goes with the namespace else
	own, err := netlink.ParseAddr("10.77.0.1/24")
	if err := errors.Join(err, netlink.AddrAdd(veth, own), netlink.LinkSetUp(veth)); err != nil {
		t.Fatal(err)
	}
	do(func() error {
		m0, err := netlink.LinkByName("m0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(m0)
	})
	return do
}

// TestS54_ANodeGivesUpRoot starts a node as root does, and looks at what the
// kernel says of each of its threads; and it still does what takes rights.
func TestS54_ANodeGivesUpRoot(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, for a network namespace and to see a node give up root")
	}
	machine := wired(t)
	want, err := confine.Find("")
	if err != nil {
		t.Fatal(err)
	}
	p := up(t, filepath.Join(room(t), "made", "by", "it"), "--listen", "127.0.0.1:443", "--interface", "n0,mode=dhcp,range=10.77.0.100-10.77.0.110")

	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil || len(threads) < 3 {
		t.Fatalf("it has threads %v: %v", threads, err)
	}
	id := strconv.Itoa(want.UID)
	for _, thread := range append(threads, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid)) {
		is := rights(t, thread)
		for name, wanted := range map[string]string{
			"Uid": strings.Join([]string{id, id, id, id}, "\t"), "Groups": "",
			"CapEff": "0000000000002400", "CapPrm": "0000000000002400", "CapBnd": "0000000000002400", // NET_BIND_SERVICE and NET_RAW
			"CapInh": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Umask": "0077",
		} {
			if is[name] != wanted {
				t.Errorf("%s: %s is %q, want %q", thread, name, is[name], wanted)
			}
		}
	}

	machine(func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		wire, err := pxeclient.OpenWire(ctx, "m0", func(_ context.Context, given netip.Prefix) error {
			m0, err := netlink.LinkByName("m0")
			if err != nil {
				return err
			}
			return netlink.AddrReplace(m0, &netlink.Addr{IPNet: &net.IPNet{IP: given.Addr().AsSlice(), Mask: net.CIDRMask(given.Bits(), 32)}})
		})
		if err != nil {
			return err
		}
		defer wire.Close()
		on := wire.Client()
		defer on.Close()
		client := pxeclient.Client{Shape: pxeclient.BIOS, MAC: net.HardwareAddr{0x52, 0x54, 0, 0x54, 0x54, 1}, UUID: [16]byte{1}, Net: on}
		lease, err := client.DHCP(ctx)
		if err != nil {
			return fmt.Errorf("an address: %w", err)
		}
		loader, err := on.TFTP(ctx, lease.Next, lease.File)
		if err != nil || len(loader) < 10_000 {
			return fmt.Errorf("the loader %s has %d bytes: %w", lease.File, len(loader), err)
		}
		return nil
	})
	checkModes(t, p.dir, uint32(want.UID))

	// And once more, over what the first has left, and with something of root's in it.
	p.stop()
	stray := filepath.Join(p.dir, "raft", "of-root")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	up(t, p.dir, "--listen", "127.0.0.1:443")
	checkModes(t, p.dir, uint32(want.UID))
}

// TestS48_ADataDirectoryIsItsUsersAlone looks at what a node leaves in its data
// directory that was started where files are made open to everybody.
func TestS48_ADataDirectoryIsItsUsersAlone(t *testing.T) {
	for user, uid := range map[string]uint32{"root": 0, "65528": 65528} {
		t.Run(user, func(t *testing.T) {
			dir := filepath.Join(room(t), "data")
			p := up(t, dir, "--user", user, "--listen", "127.0.0.1:8080", "--cluster-listen", "127.0.0.1:4747")
			image := filepath.Join(room(t), "image.raw")
			if err := os.WriteFile(image, disk(), 0o644); err != nil {
				t.Fatal(err)
			}
			p.lpmos("image", "import", image, "--name", "tiny-1")
			checkModes(t, dir, uid)
			p.stop()
			checkModes(t, dir, uid)
		})
	}
}

// disk is a small image with a partition table.
func disk() []byte {
	b := bytes.Repeat([]byte("disk"), 1<<20)
	clear(b[:512])
	copy(b[446:], []byte{0x80, 0, 2, 0, 0x83, 0xff, 0xff, 0xff, 8, 0, 0, 0, 0, 16, 0, 0})
	b[510], b[511] = 0x55, 0xaa
	return b
}

// lpmos runs the command line against the node.
func (p *process) lpmos(args ...string) string {
	p.t.Helper()
	out, err := p.run(args)
	if err != nil {
		p.t.Fatalf("lpmos %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// fails runs one that has to fail.
func (p *process) fails(args ...string) string {
	p.t.Helper()
	out, err := p.run(args)
	if err == nil {
		p.t.Fatalf("lpmos %s did not fail\n%s", strings.Join(args, " "), out)
	}
	return out
}

func (p *process) run(args []string) (string, error) {
	p.t.Helper()
	file, err := program()
	if err != nil {
		p.t.Fatal(err)
	}
	cmd := exec.Command(file, args...)
	cmd.Env = append(os.Environ(), "LPMOS_DATA_DIR="+p.dir) // by the node's own socket
	var text, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &told
	err = cmd.Run()
	return text.String() + told.String(), err
}

// refused starts a node that has to end with an error, and gives what it said.
func refused(t *testing.T, in, dir string, args ...string) string {
	t.Helper()
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(file, append([]string{"up", "--data-dir", dir}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Fatalf("lpmos up %s did not fail\n%s", strings.Join(args, " "), out)
	}
	return string(out)
}

// A second node on a directory is refused, and leaves the first its files.
func TestASecondNodeTakesNothingAway(t *testing.T) {
	dir := filepath.Join(room(t), "data")
	up(t, dir, "--listen", "127.0.0.1:8080", "--user", "61234")
	if said := refused(t, "", dir, "--listen", "127.0.0.1:8081", "--user", "61235"); !strings.Contains(said, "in use") {
		t.Errorf("it was told %s", said)
	}
	info, err := os.Stat(filepath.Join(dir, "raft"))
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 61234 {
		t.Errorf("the node's files are %d's now", owner)
	}
}

// checkModes walks a data directory.
func checkModes(t *testing.T, dir string, uid uint32) {
	t.Helper()
	seen := map[bool]int{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the node is at work
		}
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %04o, want %04o", path, got, want)
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uid {
			t.Errorf("%s is user %d's, want %d", path, owner, uid)
		}
		seen[d.IsDir()]++
		return nil
	})
	if err != nil || seen[true] < 5 || seen[false] < 8 {
		t.Errorf("%s has %d directories and %d files: the test looks at the wrong place: %v", dir, seen[true], seen[false], err)
	}
}

// What root restores into the directory of an unprivileged node is that node's.
func TestARestoreStaysTheNodes(t *testing.T) {
	dir, passphrase := filepath.Join(room(t), "data"), filepath.Join(room(t), "passphrase")
	if err := os.WriteFile(passphrase, []byte("four words that rhyme\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := up(t, dir, "--listen", "127.0.0.1:8080")
	kept := filepath.Join(room(t), "kept")
	p.lpmos("backup", kept, "--passphrase-file", passphrase)
	p.stop()
	if err := os.RemoveAll(filepath.Join(dir, "raft")); err != nil {
		t.Fatal(err)
	}
	p.lpmos("restore", kept, "--data-dir", dir, "--passphrase-file", passphrase)
	owner, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	uid := owner.Sys().(*syscall.Stat_t).Uid
	if uid == 0 {
		t.Error("the directory is root's")
	}
	checkModes(t, dir, uid)
}

func TestWhatCannotBeHandedOver(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("needs root, to see a node give up root")
	}
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(room(t), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	papers := filepath.Join(room(t), "papers")
	if err := errors.Join(os.Mkdir(papers, 0o755), os.WriteFile(filepath.Join(papers, "thesis"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	linked := filepath.Join(room(t), "linked")
	other := filepath.Join(filepath.Dir(linked), "shadow")
	if err := errors.Join(os.MkdirAll(filepath.Join(linked, "raft"), 0o700), os.WriteFile(other, nil, 0o600), os.Link(other, filepath.Join(linked, "raft", "members"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a closed way", []string{"--data-dir", filepath.Join(closed, "data")}, "may not pass through " + closed + ": open that (chmod o+x " + closed + "), or choose another data_dir"},
		{"somebody's papers", []string{"--data-dir", papers}, `is not empty, and no node's: it holds "thesis"`},
		{"a file with another name", []string{"--data-dir", linked}, "raft/members is not the user's, and has another name somewhere"},
		{"nobody", []string{"--data-dir", filepath.Join(room(t), "data"), "--user", "no-such-user"}, `there is no user "no-such-user" on this host`},
	} {
		out, err := exec.Command(file, append([]string{"up", "--listen", "127.0.0.1:0"}, c.args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v\n%s", c.name, err, out)
		}
	}
	for path, mode := range map[string]fs.FileMode{papers: 0o755, other: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != mode || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Errorf("%s was changed: %v %v", path, info.Mode(), err)
		}
	}
}

// asChild names what this test's binary is to do in a process of its own: what is
// forbidden there stays forbidden.
const asChild = "LPMOS_TEST_CHILD"

var children = map[string]func(){"forbid": tryToExec}

// tryToExec tries to start a program in every way, on threads that were there
// before and that came after, and says what came of it.
func tryToExec() {
	try := func() {
		for name, call := range map[string]func() error{
			"execve":   func() error { return syscall.Exec("/bin/true", []string{"true"}, nil) },
			"fork":     func() error { return exec.Command("/bin/true").Run() },
			"execveat": execveat,
		} {
			fmt.Println(name, errors.Is(call(), syscall.EPERM))
		}
	}
	there, forbidden, tried := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(there)
		<-forbidden
		try()
		close(tried)
	}()
	<-there
	if err := exec.Command("/bin/true").Run(); err != nil {
		fmt.Println("could not start a program to begin with:", err)
	}
	if err := confine.ForbidExec(); err != nil {
		fmt.Println(err)
	}
	close(forbidden)
	<-tried
	tried = make(chan struct{})
	go func() {
		runtime.LockOSThread()
		try()
		close(tried)
	}()
	<-tried
}

func execveat() error {
	path, argv := []byte("/bin/true\x00"), make([]*byte, 1)
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, 0, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&argv[0])), 0, 0)
	return errno
}

func TestNothingCanBeStarted(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asChild+"=forbid")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for line := range strings.Lines(string(out)) {
		got[strings.TrimSpace(line)]++
	}
	if want := map[string]int{"execve true": 2, "fork true": 2, "execveat true": 2}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
