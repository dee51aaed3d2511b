package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
}

// tftpRig is the TFTP server of a node on the loopback interface, where a client
// may have any address of 127.0.0.0/8. The network served is 127.0.0.0/24.
type tftpRig struct {
	*setup
	t    *testing.T
	port netip.AddrPort
	log  *lines
}

func newTFTPRig(t *testing.T) *tftpRig {
	t.Helper()
	return newTFTPRigWith(t, func(*setup) {})
}

// newTFTPRigOf makes one whose replies leave from a port for each transfer, or from
// the one that requests come to.
func newTFTPRigOf(t *testing.T, singlePort bool) *tftpRig {
	t.Helper()
	return newTFTPRigWith(t, func(s *setup) { s.cfg.TFTPSinglePort = singlePort })
}

func newTFTPRigWith(t *testing.T, change func(*setup)) *tftpRig {
	t.Helper()
	loopback(t)
	in := Interface{Name: "lo", Mode: ModeProxy}
	r := &tftpRig{setup: newSetupAt(t, in, "127.0.0.1/24", nil), t: t, log: &lines{}}
	r.cfg.Log = slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	change(r.setup)
	ctx, cancel := context.WithCancel(context.Background())
	conn, err := listenUDP(ctx, "lo", 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := onlyFrom(conn, r.link.subnet); err != nil {
		t.Fatal(err)
	}
	r.port = netip.AddrPortFrom(r.link.addr, uint16(conn.LocalAddr().(*net.UDPAddr).Port))
	done := make(chan error, 1)
	go func() { done <- r.tftp(r.link).serve(ctx, conn) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	return r
}

// loopback makes 127.0.0.1 work in the tests' own namespace.
func loopback(t *testing.T) {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

// client is a socket with an address of the loopback network.
func (r *tftpRig) client(addr string) *net.UDPConn {
	r.t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr+":0")))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func (r *tftpRig) send(c *net.UDPConn, b []byte) {
	r.t.Helper()
	if _, err := c.WriteToUDPAddrPort(b, r.port); err != nil {
		r.t.Fatal(err)
	}
}

// hear waits for the next packet; nil when none came in time.
func (r *tftpRig) hear(c *net.UDPConn, wait time.Duration) ([]byte, netip.AddrPort) {
	r.t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
		r.t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		return nil, from
	}
	return buf[:n], from
}

// until waits for something the server does.
func (r *tftpRig) until(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			r.t.Fatalf("never: %s; %v", what, r.Stats())
		}
	}
}

func rrq(fields ...string) []byte {
	return append([]byte{0, tftpRead}, strings.Join(fields, "\x00")+"\x00"...)
}

// S17: a name is looked up in a table, so none walks out of anywhere, and none
// writes a second line into the log.
func TestS17_TFTPTraversal(t *testing.T) {
	r := newTFTPRig(t)
	c := r.client("127.0.0.7")
	names := []string{"../../../../etc/shadow", "/etc/shadow", `..\..\x`, "a/./b/../../c", "%2e%2e/x", "mac/../../raft.db", "leases.db", "/proc/self/environ",
		"x\n{\"level\":\"ERROR\"}", "\x1b[2Jx", "\x1b]0;x\x07", "\r\n", "\u202egpj", "\xff\xfe", strings.Repeat("a", 600), strings.Repeat("../", 300), "", "boot/vmlinuz", "boot/x/52:54:00:00:00:0a///grub.cfg", "boot/../../grub.cfg"}
	for _, name := range names {
		r.pass(time.Second)
		r.send(c, rrq(name, "octet"))
		got, _ := r.hear(c, 10*time.Second)
		if !bytes.HasPrefix(got, []byte{0, tftpError, 0, 1}) || bytes.Contains(got, []byte("etc")) {
			t.Errorf("%.40q was answered %q", name, got)
		}
	}
	// A NUL ends the name; what follows is not the name's.
	r.send(c, rrq("undionly.kpxe\x00/../../etc/shadow", "octet"))
	if got, _ := r.hear(c, 10*time.Second); !bytes.HasPrefix(got, []byte{0, tftpError}) {
		t.Errorf("a name with a NUL was answered %q", got)
	}
	told := r.log.all()
	if len(told) != len(names) {
		t.Errorf("%d requests made %d lines", len(names), len(told))
	}
	for _, line := range told {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil || event["level"] != "DEBUG" || len(line) > 2048 || strings.ContainsAny(line, "\x1b\u202e") {
			t.Errorf("a line of the log is %q", line)
		}
	}
	if st := r.Stats(); st["tftp.sent"] != 0 || st["tftp.panic"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// S18: nothing can be written.
func TestS18_TFTPWrite(t *testing.T) {
	r := newTFTPRig(t)
	c := r.client("127.0.0.7")
	before := tree(t, r.cfg.DataDir)
	for _, name := range []string{"x", "undionly.kpxe", "../../x", "leases.db"} {
		for _, mode := range []string{"octet", "netascii", "mail"} {
			r.pass(time.Second)
			r.send(c, append([]byte{0, tftpWrite}, name+"\x00"+mode+"\x00"...))
			got, from := r.hear(c, 10*time.Second)
			if !bytes.HasPrefix(got, []byte{0, tftpError, 0, 2}) {
				t.Errorf("writing %q was answered %q", name, got)
			}
			if _, err := c.WriteToUDPAddrPort([]byte("\x00\x03\x00\x01#!/bin/sh\n"), from); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.pass(time.Second)
	r.send(c, rrq("nothing", "octet")) // what was sent before has been looked at when this is answered
	if got, _ := r.hear(c, 10*time.Second); !bytes.HasPrefix(got, []byte{0, tftpError, 0, 1}) {
		t.Errorf("data without a transfer was answered, or nothing is any more: %q", got)
	}
	if after := tree(t, r.cfg.DataDir); !slices.Equal(before, after) {
		t.Errorf("the directory held %v and holds %v", before, after)
	}
}

// tree is every file below a directory, with its size.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, e := d.Info()
			if e != nil {
				return e
			}
			out = append(out, fmt.Sprint(path, " ", info.Size()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// S19: a forged request makes the node send little to whoever is named in it, and
// nothing at all out of the network.
func TestS19_TFTPReflection(t *testing.T) {
	t.Run("outside", func(t *testing.T) {
		r := newTFTPRig(t)
		victim, c := r.client("127.0.9.9"), r.client("127.0.0.7")
		for range 50 {
			r.send(victim, rrq("snponly.efi", "octet", "blksize", "1468"))
			r.send(victim, rrq("nothing", "octet"))
			r.send(victim, append([]byte{0, tftpWrite}, "x\x00octet\x00"...))
		}
		r.send(c, rrq("nothing", "octet"))
		if got, _ := r.hear(c, 10*time.Second); got == nil {
			t.Fatal("a client of the network is not answered")
		}
		if got, _ := r.hear(victim, time.Millisecond); got != nil {
			t.Errorf("a stranger was sent %d bytes", len(got))
		}
		if st := r.Stats(); st["tftp.refused.no such file"] != 1 || st["tftp.refused.write"] != 0 {
			t.Errorf("a stranger's request was looked at: %v", st)
		}
	})
	t.Run("nobody answers", func(t *testing.T) {
		for _, single := range []bool{false, true} {
			r := newTFTPRigOf(t, single)
			plain, window := r.client("127.0.0.8"), r.client("127.0.0.9")
			r.send(plain, rrq("snponly.efi", "octet"))
			r.send(window, rrq("snponly.efi", "octet", "windowsize", "64", "blksize", "1468", "timeout", "255"))
			r.until("the transfers are given up", func() bool { return r.Stats()["tftp.failed"] == 2 })
			for victim, want := range map[*net.UDPConn]string{plain: "\x00\x03\x00\x01uefi", window: "\x00\x06"} {
				packets := 0
				for got, _ := r.hear(victim, 50*time.Millisecond); got != nil; got, _ = r.hear(victim, 50*time.Millisecond) {
					packets++
					if !strings.HasPrefix(string(got), want) {
						t.Errorf("somebody who never said a word was sent %.20q", got)
					}
				}
				if packets == 0 || packets > 3 {
					t.Errorf("%d packets were sent to somebody who never said a word, want 1 to 3", packets)
				}
			}
		}
	})
	t.Run("a flood", func(t *testing.T) {
		r := newTFTPRig(t)
		victim := r.client("127.0.0.8")
		looked := func() uint64 {
			st := r.Stats()
			return st["tftp.refused.no such file"] + st["tftp.refused.too often"]
		}
		answers := 0
		for i := range uint64(1000) {
			r.send(victim, rrq("nothing", "octet"))
			r.until("the request is looked at", func() bool { return looked() == i+1 })
			for {
				got, _ := r.hear(victim, time.Microsecond)
				if got == nil {
					break
				}
				answers++
			}
		}
		if st := r.Stats(); answers > requestsEach || st["tftp.refused.too often"] != 1000-requestsEach {
			t.Errorf("1000 requests of one second were answered %d times: %v", answers, st)
		}
		other := r.client("127.0.0.9")
		r.send(other, rrq("nothing", "octet"))
		if got, _ := r.hear(other, 10*time.Second); got == nil {
			t.Error("another client has to wait for it")
		}
		for { // what was answered late
			if got, _ := r.hear(victim, time.Microsecond); got == nil {
				break
			}
		}
		r.pass(time.Second)
		r.send(victim, rrq("nothing", "octet"))
		if got, _ := r.hear(victim, 10*time.Second); got == nil {
			t.Error("a second later it is still not answered")
		}
	})
}

// S20: options are clamped, left out or refused; each transfer is one socket, and
// only who asked can move it on.
func TestS20_TFTPOptions(t *testing.T) {
	r := newTFTPRig(t)
	began := uint64(0)
	many := []string{"snponly.efi", "octet"}
	for i := range 300 {
		many = append(many, string(rune('a'+i%26)), "1")
	}
	for _, c := range []struct {
		name string
		send []byte
		want string // what the answer begins with; empty: none
	}{
		{"a long name and no value", rrq(strings.Repeat("n", 512), "octet", "blksize"), "\x00\x05\x00\x08"},
		{"no value", rrq("snponly.efi", "octet", "blksize"), "\x00\x05\x00\x08"},
		{"blocks of 0", rrq("snponly.efi", "octet", "blksize", "0"), "\x00\x03\x00\x01uefi"},
		{"blocks of 7", rrq("snponly.efi", "octet", "blksize", "7"), "\x00\x03\x00\x01uefi"},
		{"blocks of 8", rrq("snponly.efi", "octet", "blksize", "8"), "\x00\x06blksize\x008\x00"},
		{"blocks of 511", rrq("snponly.efi", "octet", "BlkSize", "511"), "\x00\x06blksize\x00511\x00"},
		{"blocks of 512", rrq("snponly.efi", "octet", "blksize", "512"), "\x00\x06blksize\x00512\x00"},
		{"blocks of 65464", rrq("snponly.efi", "octet", "blksize", "65464"), "\x00\x06blksize\x001468\x00"},
		{"blocks of 65465", rrq("snponly.efi", "octet", "blksize", "65465"), "\x00\x03\x00\x01uefi"},
		{"blocks of -1", rrq("snponly.efi", "octet", "blksize", "-1"), "\x00\x03\x00\x01uefi"},
		{"blocks of 500 digits", rrq("snponly.efi", "octet", "blksize", strings.Repeat("9", 500)), "\x00\x03\x00\x01uefi"},
		{"blocks of 480 noughts", rrq("ipxe.efi", "octet", "blksize", strings.Repeat("0", 480)+"512", "tsize", "0"), "\x00\x06blksize\x00512\x00tsize\x003\x00"},
		{"blocks twice", rrq("snponly.efi", "octet", "blksize", "1024", "BLKSIZE", "65464"), "\x00\x06blksize\x001024\x00"},
		{"a size of 500 digits", rrq("snponly.efi", "octet", "tsize", strings.Repeat("9", 500)), "\x00\x06tsize\x00200000\x00"},
		{"a window of 4", rrq("snponly.efi", "octet", "WindowSize", "4"), "\x00\x06windowsize\x004\x00"},
		{"a window of 65535", rrq("snponly.efi", "octet", "windowsize", "65535"), "\x00\x06windowsize\x0064\x00"},
		{"a window of 65536", rrq("snponly.efi", "octet", "windowsize", "65536"), "\x00\x03\x00\x01uefi"},
		{"a window of 0", rrq("snponly.efi", "octet", "windowsize", "0"), "\x00\x03\x00\x01uefi"},
		{"a window of -1", rrq("snponly.efi", "octet", "windowsize", "-1", "tsize", "0"), "\x00\x06tsize\x00200000\x00"},
		{"a timeout of 255", rrq("snponly.efi", "octet", "timeout", "255"), "\x00\x06timeout\x00255\x00"},
		{"a timeout of 256", rrq("snponly.efi", "octet", "timeout", "256"), "\x00\x03\x00\x01uefi"},
		{"a timeout of 0", rrq("snponly.efi", "octet", "timeout", "0"), "\x00\x03\x00\x01uefi"},
		{"everything", rrq("snponly.efi", "octet", "windowsize", "16", "timeout", "3", "multicast", "", "tsize", "0", "blksize", "9000"), "\x00\x06blksize\x001468\x00timeout\x003\x00tsize\x00200000\x00windowsize\x0016\x00"},
		{"300 options", rrq(many...), "\x00\x03\x00\x01uefi"},
		{"mail", rrq("snponly.efi", "mail"), "\x00\x05\x00\x04"},
		{"netascii", rrq("snponly.efi", "netascii"), "\x00\x05\x00\x04"},
		{"no mode", rrq("snponly.efi"), ""},
		{"no final NUL", []byte("\x00\x01snponly.efi\x00octet"), ""},
		{"no final NUL behind an option", []byte("\x00\x01snponly.efi\x00octet\x00blksize\x00512"), ""},
		{"noughts", make([]byte, 1500), ""},
		{"longer than a frame", append(rrq("snponly.efi", "octet"), make([]byte, 5000)...), ""},
		{"an error", []byte("\x00\x05\x00\x01no\x00"), ""},
		{"an acknowledgement", []byte("\x00\x04\x00\x01"), ""},
		{"data", []byte("\x00\x03\x00\x01x"), ""},
		{"an OACK", []byte("\x00\x06blksize\x00512\x00"), ""},
	} {
		r.pass(time.Second)
		conn := r.client("127.0.0.7")
		r.send(conn, c.send)
		if c.want == "" {
			r.send(conn, rrq("nothing", "octet")) // answered when the other has been looked at
			c.want = "\x00\x05\x00\x01file not found"
		}
		got, from := r.hear(conn, 10*time.Second)
		if !strings.HasPrefix(inOrder(got), c.want) {
			t.Errorf("%s: %.60q, want %q", c.name, got, c.want)
		}
		if op := binary.BigEndian.Uint16(append(got, 0, 0)); op == tftpData || op == tftpOACK {
			began++
			if _, err := conn.WriteToUDPAddrPort([]byte("\x00\x05\x00\x00enough\x00"), from); err != nil {
				t.Fatal(err)
			}
		}
	}
	ended := func() uint64 { st := r.Stats(); return st["tftp.probe"] + st["tftp.failed"] }
	r.until("every transfer has ended", func() bool { return ended() == began })

	r.pass(time.Second)
	before := sockets(t)
	owner, thief := r.client("127.0.0.7"), r.client("127.0.0.7")
	owners := []*net.UDPConn{owner}
	for len(owners) < transfersEach {
		owners = append(owners, r.client("127.0.0.7"))
	}
	for _, c := range slices.Backward(owners) {
		r.send(c, rrq("undionly.kpxe", "octet"))
	}
	_, at := r.hear(owner, 10*time.Second)
	if n := sockets(t) - before; n != 2*transfersEach+1 {
		t.Errorf("%d transfers to as many clients and a thief took %d sockets", transfersEach, n)
	}
	more := r.client("127.0.0.7")
	r.send(more, rrq("undionly.kpxe", "octet"))
	if got, _ := r.hear(more, 10*time.Second); !bytes.HasPrefix(got, []byte{0, tftpError, 0, 0}) {
		t.Fatalf("one transfer too many was answered %.60q", got)
	}
	// Another's acknowledgement moves nothing, the owner's does.
	if _, err := thief.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 1}, at); err != nil {
		t.Fatal(err)
	}
	if _, err := owner.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 1}, at); err != nil {
		t.Fatal(err)
	}
	for {
		got, from := r.hear(owner, 10*time.Second)
		if got == nil {
			t.Fatal("the owner's acknowledgement was not taken")
		}
		if from == at && bytes.HasPrefix(got, []byte{0, tftpData, 0, 2}) {
			break
		}
	}
	if got, _ := r.hear(thief, time.Millisecond); got != nil {
		t.Errorf("a thief was sent %d bytes", len(got))
	}
	if st := r.Stats(); st["tftp.panic"] != 0 || st["tftp.sent"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// inOrder is a packet with the options that are confirmed in the order of their names:
// no order means anything (RFC 2347).
func inOrder(b []byte) string {
	rest, ok := strings.CutPrefix(string(b), "\x00\x06")
	if !ok {
		return string(b)
	}
	fields := strings.Split(strings.TrimSuffix(rest, "\x00"), "\x00")
	var options []string
	for pair := range slices.Chunk(fields, 2) {
		options = append(options, strings.Join(pair, "\x00")+"\x00")
	}
	slices.Sort(options)
	return "\x00\x06" + strings.Join(options, "")
}

// sockets is how many this process has open.
func sockets(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// FuzzTFTPRequest: whatever comes, what is taken is a name and what can be served, and
// what is answered is no longer than what was asked and a little.
func FuzzTFTPRequest(f *testing.F) {
	f.Add(rrq("undionly.kpxe", "octet", "tsize", "0", "blksize", "1468"))
	f.Add(rrq("snponly.efi", "OCTET", "blksize", "65464", "windowsize", "4", "timeout", "1"))
	f.Add(rrq("snponly.efi", "octet", "WINDOWSIZE", "65535", "windowsize", "0", "timeout", "255", "multicast", ""))
	f.Add(rrq("x", "mail"))
	f.Add([]byte("\x00\x02x\x00octet\x00"))
	f.Add([]byte("\x00\x01\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		req, err := parseTFTP(b)
		if err != nil {
			fault, ok := err.(tftpFault)
			if !ok || !fault.silent && len(fault.packet()) > 64 {
				t.Fatalf("%v", err)
			}
			return
		}
		if strings.Contains(req.name, "\x00") || len(req.name) > len(b) {
			t.Fatalf("%+v", req)
		}
		if again, err := parseTFTP(req.packet()); err != nil || again != req {
			t.Fatalf("%+v became %+v, %v", req, again, err)
		}
		got := req.limit(tftpBlock)
		if got.block != 0 && got.block < 8 || got.block > min(req.block, tftpBlock) || got.window > min(req.window, tftpWindow) ||
			got.wait > 255*time.Second || (got.block == 0) != (req.block == 0) || (got.window == 0) != (req.window == 0) {
			t.Fatalf("%+v is granted %+v", req, got)
		}
		if answer := got.answer(math.MaxInt64); len(answer) > len(b)+32 {
			t.Fatalf("%d bytes are answered with %q", len(b), answer)
		}
	})
}

// FuzzTFTPAnswer: whatever a client sends during a transfer, nothing but its own file's
// blocks are sent, an error ends it without an answer, and nothing panics.
func FuzzTFTPAnswer(f *testing.F) {
	f.Add([]byte("\x00\x04\x00\x00"), []byte("\x00\x04\x00\x02"))
	f.Add([]byte("\x00\x05\x00\x08User aborted\x00"), []byte("\x00\x05\x00\x00"))
	f.Add([]byte("\x00\x04\x00\x02"), []byte("\x00\x05"))
	f.Add(make([]byte, tftpLargest), []byte("\x00\x06blksize\x008\x00"))
	s := newSetup(f, ModeDHCP)
	null, err := unix.Open("/dev/null", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { unix.Close(null) })
	f.Fuzz(func(t *testing.T, a, b []byte) {
		fd, err := unix.Dup(null)
		if err != nil {
			t.Fatal(err)
		}
		tf := s.tftp(s.link)
		l := &tftpLoop{t: tf, clients: map[netip.AddrPort]*tftpTransfer{}, sockets: map[int32]*tftpTransfer{}}
		file, _, _ := tf.find(LoaderUEFI, s.link.addr)
		req := tftpRequest{name: LoaderUEFI, block: 1468, window: 16}
		x := &tftpTransfer{tftpSender: newTFTPSender(file.Size(), 1468, 16, true, 0), client: netip.MustParseAddrPort("10.77.0.9:70"), asked: req, req: req,
			file: file, oack: req.answer(file.Size()), block: 1468, fd: fd, whole: true}
		tf.begin(x.client.Addr())
		l.clients[x.client], l.sockets[int32(fd)] = x, x
		now := time.Unix(1700000000, 0)
		l.send(x, x.start(now))
		for _, came := range [][]byte{a, b, a, b} {
			before := *x.tftpSender
			now = now.Add(time.Millisecond)
			l.take(x, came, now)
			ended := l.clients[x.client] == nil
			if hungUp := len(came) >= 4 && came[0] == 0 && came[1] == tftpError; ended != hungUp {
				t.Fatalf("after %q it is over: %v", came, ended)
			}
			if ended {
				if *x.tftpSender != before {
					t.Fatalf("an error was answered: %+v", *x.tftpSender)
				}
				return
			}
		}
		l.end(x, errTFTPStop)
	})
}

// Packets that are longer than any, that are doubled, that come after the end, or that
// are about nothing harm no transfer.
func TestTFTPClientsThatSayTooMuch(t *testing.T) {
	for _, single := range []bool{false, true} {
		clientsThatSayTooMuch(t, newTFTPRigOf(t, single))
	}
}

func clientsThatSayTooMuch(t *testing.T, r *tftpRig) {
	long := append([]byte{0, tftpAck, 0, 9}, make([]byte, 1200)...)
	var wg sync.WaitGroup
	const clients, each = 8, 60
	for i := range clients {
		c := r.client(fmt.Sprintf("127.0.0.%d", 10+i))
		wg.Go(func() {
			for range each {
				r.pass(time.Second)
				r.send(c, rrq("ipxe.efi", "octet")) // one block
				var at netip.AddrPort
				for {
					got, from := r.hear(c, 10*time.Second)
					if got == nil {
						t.Error("no answer")
						return
					}
					if bytes.HasPrefix(got, []byte{0, tftpData, 0, 1}) {
						at = from
						break
					}
				}
				for _, b := range [][]byte{long, {0, tftpAck, 0, 7}, {0, tftpAck, 0, 1}, {0, tftpAck, 0, 1}, {0, tftpError, 0, 0, 0}, {0, tftpAck, 0, 1}} {
					if _, err := c.WriteToUDPAddrPort(b, at); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	r.until("every transfer has ended", func() bool { return r.Stats()["tftp.sent"] == clients*each })
	if st := r.Stats(); st["tftp.panic"] != 0 || st["tftp.failed"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// An error is not answered (RFC 1350), and who hangs up hears nothing more.
func TestTFTPHungUp(t *testing.T) {
	r := newTFTPRig(t)
	c := r.client("127.0.0.7")
	r.send(c, rrq("snponly.efi", "octet", "tsize", "0"))
	got, at := r.hear(c, 10*time.Second)
	if inOrder(got) != "\x00\x06tsize\x00200000\x00" {
		t.Fatalf("%q", got)
	}
	if _, err := c.WriteToUDPAddrPort([]byte("\x00\x05\x00\x08User aborted the transfer\x00"), at); err != nil {
		t.Fatal(err)
	}
	r.until("the transfer has ended", func() bool { return r.Stats()["tftp.probe"] == 1 })
	if got, _ := r.hear(c, time.Millisecond); got != nil {
		t.Errorf("an error was answered %q", got)
	}
	if st := r.Stats(); st["tftp.failed"] != 0 || st["tftp.sent"] != 0 {
		t.Errorf("stats: %v", st)
	}
}

// Nothing stays behind when the server ends, with transfers under way
// and without, and a transfer under way is given its time and no more.
func TestTFTPLeavesNothingBehind(t *testing.T) {
	before := sockets(t)
	s := newSetupAt(t, Interface{Name: "lo", Mode: ModeProxy}, "127.0.0.1/24", nil)
	for _, transfers := range []int{0, 3} {
		ctx, cancel := context.WithCancel(context.Background())
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.link.addr, 0)))
		if err != nil {
			t.Fatal(err)
		}
		client, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.link.addr, 0)))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		tf := s.tftp(s.link)
		to := conn.LocalAddr()
		go func() { done <- tf.serve(ctx, conn) }()
		for range transfers {
			if _, err := client.WriteTo(rrq("snponly.efi", "octet"), to); err != nil {
				t.Fatal(err)
			}
			if err := client.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := client.ReadFrom(make([]byte, 2048)); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the server ended with: %v", err)
		}
		took := time.Since(begin)
		if transfers == 0 && took > tftpTimeout/2 || took > tftpDrain+tftpTimeout {
			t.Errorf("with %d transfers it took %v", transfers, took)
		}
		client.Close()
		if n := len(tf.running); n != 0 {
			t.Errorf("%d addresses still have transfers", n)
		}
	}
	if after := sockets(t); after != before {
		t.Errorf("%d sockets before, %d after", before, after)
	}
	var stacks bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		t.Fatal(err)
	}
	for _, of := range []string{"tftpLoop", "tftpServer"} {
		if strings.Contains(stacks.String(), of) {
			t.Errorf("left behind, of %s:\n%s", of, stacks.String())
		}
	}
}

// Requests cost nothing to forge. What goes wrong with thousands of them is counted,
// and does not fill the log.
func TestForgedRequestsDoNotFillTheLog(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	log := &lines{}
	s.cfg.Log = slog.New(slog.NewJSONHandler(log, nil))
	for i := range 3000 {
		from := netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)})
		tftp := s.tftp(s.link)
		tftp.over(&tftpTransfer{client: netip.AddrPortFrom(from, 2000), file: ofText("script"), tftpSender: newTFTPSender(6, 512, 1, false, 0),
			req: tftpRequest{name: LoaderUEFI}}, errTFTPSilent)
		_, _, _ = tftp.take(tftpRequest{name: "boot/" + strings.Repeat("a", 32) + "/" + macA + "///grub.cfg"}, from)
	}
	said := func() (fetched, scripts int) {
		all := strings.Join(log.all(), "\n")
		return strings.Count(all, "TFTP transfer failed"), strings.Count(all, "a boot script was asked for")
	}
	if a, b := said(); a != complaintsEach || b != complaintsEach || s.Stats()["tftp.failed"] != 3000 || s.Stats()["script.wrong path"] != 3000 {
		t.Errorf("%d and %d lines, want %d of each; counted %v", a, b, complaintsEach, s.Stats())
	}
	s.pass(10 * time.Second)
	s.tftp(s.link).warnFailed()
	if a, _ := said(); a != complaintsEach+1 {
		t.Errorf("after 10 s there are %d lines, want one more", a)
	}
}

// Requests that nobody is behind take no place from a machine, and it keeps the one it has.
func TestForgedTFTPRequestsKeepNoMachineFromItsFile(t *testing.T) {
	r := newTFTPRig(t)
	forge := func(n int) {
		t.Helper()
		c := r.client(fmt.Sprintf("127.0.0.%d", 10+n/transfersEach))
		r.send(c, rrq("undionly.kpxe", "octet", "blksize", "1024"))
		if got, _ := r.hear(c, 10*time.Second); binary.BigEndian.Uint16(append(got, 0, 0)) != tftpOACK {
			t.Fatalf("request %d was answered %.60q", n, got)
		}
	}
	machine := func(addr string) (c *net.UDPConn, at netip.AddrPort) {
		t.Helper()
		c = r.client(addr)
		r.send(c, rrq("undionly.kpxe", "octet"))
		got, at := r.hear(c, 10*time.Second)
		if binary.BigEndian.Uint16(append(got, 0, 0)) != tftpData {
			t.Fatalf("a machine was answered %.60q", got)
		}
		return c, at
	}
	next := func(c *net.UDPConn, at netip.AddrPort, block byte) {
		t.Helper()
		if _, err := c.WriteToUDPAddrPort([]byte{0, tftpAck, 0, block}, at); err != nil {
			t.Fatal(err)
		}
		for { // what was sent again before that may come first
			got, _ := r.hear(c, 10*time.Second)
			if len(got) < 4 || got[3] > block+1 || binary.BigEndian.Uint16(got) != tftpData {
				t.Fatalf("after block %d came %.60q", block, got)
			}
			if got[3] == block+1 {
				return
			}
		}
	}
	early, earlyAt := machine("127.0.0.7")
	next(early, earlyAt, 1)
	for n := range transfersOverall - 1 {
		forge(n)
	}
	late, lateAt := machine("127.0.0.8")
	next(late, lateAt, 1)
	for n := range 100 {
		forge(transfersOverall + n)
	}
	next(early, earlyAt, 2)
	next(late, lateAt, 2)
	st := r.Stats()
	if st["tftp.refused.too many"] != 0 {
		t.Errorf("stats: %v", st)
	}
	if st["tftp.made room"] == 0 { // each is given up after three seconds
		t.Log("this computer was too slow to have so many at once")
	}
}
