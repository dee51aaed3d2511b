package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pin/tftp/v3"
)

// tftpRelay stands between clients and the server and loses, doubles and delays what
// goes through.
type tftpRelay struct {
	t     *testing.T
	front *net.UDPConn // to which clients send their requests
	to    netip.AddrPort

	mu   sync.Mutex
	rng  *rand.Rand
	ill  float64 // part of the packets that each of it happens to
	seen int     // packets
	wg   sync.WaitGroup
}

func newTFTPRelay(r *tftpRig, ill float64) *tftpRelay {
	p := &tftpRelay{t: r.t, front: r.client("127.0.0.1"), to: r.port, rng: rand.New(rand.NewPCG(1, 2)), ill: ill}
	p.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, client, err := p.front.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p.carry(r, client, bytes.Clone(buf[:n]))
		}
	})
	r.t.Cleanup(func() { p.front.Close(); p.wg.Wait() })
	return p
}

// carry relays one transfer, from its request on.
func (p *tftpRelay) carry(r *tftpRig, client netip.AddrPort, request []byte) {
	near, far := r.client("127.0.0.1"), r.client("127.0.0.7") // to the client, to the server
	var mu sync.Mutex
	server := p.to
	pass := func(from, to *net.UDPConn, where func(netip.AddrPort) netip.AddrPort) {
		buf := make([]byte, 2048)
		for {
			n, sender, err := from.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p.travel(bytes.Clone(buf[:n]), to, where(sender))
		}
	}
	p.wg.Go(func() {
		pass(near, far, func(netip.AddrPort) netip.AddrPort { mu.Lock(); defer mu.Unlock(); return server })
	})
	p.wg.Go(func() {
		pass(far, near, func(sender netip.AddrPort) netip.AddrPort {
			mu.Lock()
			defer mu.Unlock()
			server = sender
			return client
		})
	})
	if _, err := far.WriteToUDPAddrPort(request, p.to); err != nil {
		p.t.Error(err)
	}
}

// travel is what happens to a packet on its way.
func (p *tftpRelay) travel(b []byte, from *net.UDPConn, to netip.AddrPort) {
	p.mu.Lock()
	lost, twice, late := p.rng.Float64() < p.ill, p.rng.Float64() < p.ill, p.rng.Float64() < p.ill
	p.seen++
	p.mu.Unlock()
	send := func() { _, _ = from.WriteToUDPAddrPort(b, to) } // the client may be gone
	switch {
	case lost:
		return
	case twice:
		send()
	case late:
		time.AfterFunc(3*time.Millisecond, send)
		return
	}
	send()
}

// tftpClients are what people have, as commands with HOST, PORT, FILE and OUT.
var tftpClients = map[string][]string{
	"atftp with a window":  {"atftp", "--option", "blksize 1468", "--option", "windowsize 16", "-g", "-r", "FILE", "-l", "OUT", "HOST", "PORT"},
	"atftp":                {"atftp", "-g", "-r", "FILE", "-l", "OUT", "HOST", "PORT"},
	"curl without options": {"curl", "-s", "--tftp-no-options", "-o", "OUT", "tftp://HOST:PORT/FILE"},
	"curl":                 {"curl", "-s", "--tftp-blksize", "1468", "-o", "OUT", "tftp://HOST:PORT/FILE"},
	"tftp-hpa":             {"tftp", "-m", "binary", "HOST", "PORT", "-c", "get", "FILE", "OUT"},
	"busybox":              {"busybox", "tftp", "-g", "-b", "1468", "-r", "FILE", "-l", "OUT", "HOST", "PORT"},
}

// fetch has a client fetch a file.
func fetch(t *testing.T, command []string, from netip.AddrPort, file string) ([]byte, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	fill := strings.NewReplacer("HOST", from.Addr().String(), "PORT", strconv.Itoa(int(from.Port())), "FILE", file, "OUT", out)
	var args []string
	for _, word := range command {
		args = append(args, fill.Replace(word))
	}
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%v: %w: %s", args, err, said)
	}
	return os.ReadFile(out)
}

// Clients of RFC 7440, and those that take a block at a time, get the file over a path
// that loses, doubles and reorders.
func TestTFTPOverABadPath(t *testing.T) {
	for _, name := range []string{"atftp with a window", "curl without options"} { // with them curl asks for a timeout of 6 s, and gets it
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(tftpClients[name][0]); err != nil {
				t.Skip(err)
			}
			r := newTFTPRig(t)
			r.timePasses()
			p := newTFTPRelay(r, 0.02)
			got, err := fetch(t, tftpClients[name], p.front.LocalAddr().(*net.UDPAddr).AddrPort(), LoaderUEFI)
			if err != nil || !bytes.Equal(got, testFiles[LoaderUEFI].Data) {
				t.Errorf("%d bytes: %v", len(got), err)
			}
			// The last acknowledgement may be lost as well, and who sent it is gone.
			r.until("the server has an end", func() bool { st := r.Stats(); return st["tftp.sent"]+st["tftp.failed"] == 1 })
			p.mu.Lock()
			defer p.mu.Unlock()
			if least := len(testFiles[LoaderUEFI].Data) / 1468; p.seen < least || p.seen > 10*least {
				t.Errorf("the file took %d packets", p.seen)
			}
		})
	}
}

// A file of more than 65535 blocks, whose numbers begin again at 0, arrives whole.
func TestTFTPMoreBlocksThanNumbers(t *testing.T) {
	long := make([]byte, 66_000*8)
	for i := range long {
		long[i] = byte(i * i >> 7)
	}
	r := newTFTPRigWith(t, func(s *setup) {
		files := testFilesWithout(LoaderUEFI)
		files[LoaderUEFI] = &fstest.MapFile{Data: long}
		var err error
		if s.cfg.Files, err = LoadFiles(files); err != nil {
			t.Fatal(err)
		}
	})
	r.timePasses()
	for _, command := range [][]string{
		{"atftp", "--option", "blksize 8", "--option", "windowsize 64", "-g", "-r", "FILE", "-l", "OUT", "HOST", "PORT"},
		{"curl", "-s", "--tftp-blksize", "8", "-o", "OUT", "tftp://HOST:PORT/FILE"},
	} {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("%s is not installed", command[0])
			continue
		}
		if got, err := fetch(t, command, r.port, LoaderUEFI); err != nil || !bytes.Equal(got, long) {
			t.Errorf("%s: %d bytes of %d: %v", command[0], len(got), len(long), err)
		}
	}
}

// In the mode for firewalls everything leaves from the port that was asked, and every
// client gets its own file all the same, several at once.
func TestTFTPFromASinglePort(t *testing.T) {
	r := newTFTPRigOf(t, true)
	r.timePasses()
	for name, command := range tftpClients {
		if _, err := exec.LookPath(command[0]); err != nil {
			t.Logf("%s is not installed", command[0])
			continue
		}
		got, err := fetch(t, command, r.port, LoaderUEFI)
		if err != nil || !bytes.Equal(got, testFiles[LoaderUEFI].Data) {
			t.Errorf("%s: %d bytes: %v", name, len(got), err)
		}
	}
	var wg sync.WaitGroup
	for i := range transfersEach {
		wg.Go(func() {
			file := []string{LoaderUEFI, LoaderBIOS, LoaderUEFIAll}[i%3]
			c, err := tftp.NewClient(r.port.String())
			if err != nil {
				t.Error(err)
				return
			}
			c.SetBlockSize(1468)
			var b bytes.Buffer
			from, err := c.Receive(file, "octet")
			if err == nil {
				_, err = from.WriteTo(&b)
			}
			if err != nil || !bytes.Equal(b.Bytes(), testFiles[file].Data) {
				t.Errorf("%s: %d bytes: %v", file, b.Len(), err)
			}
		})
	}
	wg.Wait()

	c, stranger := r.client("127.0.0.7"), r.client("127.0.0.7")
	r.send(c, rrq("snponly.efi", "octet", "windowsize", "2"))
	if got, from := r.hear(c, 10*time.Second); from != r.port || string(got) != "\x00\x06windowsize\x002\x00" {
		t.Errorf("%q from %v", got, from)
	}
	// Nobody else moves it, and what a stranger says is no request.
	for _, b := range [][]byte{{0, tftpAck, 0, 0}, {0, tftpError, 0, 0, 0}, append([]byte{0, tftpAck, 0, 0}, make([]byte, 1400)...)} {
		r.send(stranger, b)
	}
	r.send(c, []byte{0, tftpAck, 0, 0})
	for block := range 2 {
		if got, from := r.hear(c, 10*time.Second); from != r.port || !bytes.HasPrefix(got, []byte{0, tftpData, 0, byte(block + 1)}) {
			t.Errorf("%.20q from %v", got, from)
		}
	}
	if got, _ := r.hear(stranger, time.Millisecond); got != nil {
		t.Errorf("a stranger was told %q", got)
	}
	if st := r.Stats(); st["tftp.panic"] != 0 || st["tftp.refused.malformed"] != 3 {
		t.Errorf("stats: %v", st)
	}
}

// A request that comes twice is one transfer; one for something else from the same port
// ends what was under way, and so does the same after the client has fallen silent.
func TestTFTPRequestTwice(t *testing.T) {
	for _, single := range []bool{false, true} {
		r := newTFTPRigOf(t, single)
		c := r.client("127.0.0.7")
		ask := rrq("snponly.efi", "octet", "blksize", "1024", "windowsize", "4")
		r.send(c, ask)
		got, at := r.hear(c, 10*time.Second)
		if inOrder(got) != "\x00\x06blksize\x001024\x00windowsize\x004\x00" {
			t.Fatalf("%q", got)
		}
		r.send(c, ask)
		r.until("it joins", func() bool { return r.Stats()["tftp.joined"] == 1 })
		if _, err := c.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 0}, at); err != nil {
			t.Fatal(err)
		}
		if got, from := r.hear(c, 10*time.Second); from != at || !bytes.HasPrefix(got, []byte{0, tftpData, 0, 1}) {
			t.Fatalf("a second transfer was begun: %.20q from %v, the first is at %v", got, from, at)
		}
		r.pass(time.Second)
		r.send(c, rrq("ipxe.efi", "octet"))
		for {
			got, _ := r.hear(c, 10*time.Second)
			if got == nil {
				t.Fatal("the other file does not come")
			}
			if string(got) == "\x00\x03\x00\x01all" {
				break
			}
		}
		if st := r.Stats(); st["tftp.failed"] != 1 || st["tftp.sent"] != 0 {
			t.Errorf("stats: %v", st)
		}
	}
}

// A path that long blocks do not pass is recognised and told, and the machine that asks
// again gets what passes anywhere.
func TestTFTPBlockThatDoesNotPass(t *testing.T) {
	r := newTFTPRig(t)
	const mac = "52:54:00:12:34:56"
	r.sightings.holds(mac, netip.MustParseAddr("127.0.0.7"))
	c := r.client("127.0.0.7")
	ask := rrq("snponly.efi", "octet", "blksize", "1468")
	r.send(c, ask)
	got, at := r.hear(c, 10*time.Second)
	if string(got) != "\x00\x06blksize\x001468\x00" {
		t.Fatalf("%q", got)
	}
	if _, err := c.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 0}, at); err != nil {
		t.Fatal(err)
	}
	for range 2 { // block 1, which does not get here, twice
		if got, _ := r.hear(c, 10*time.Second); len(got) != 4+1468 {
			t.Fatalf("%d bytes", len(got))
		}
	}
	r.pass(time.Second)
	r.send(c, ask)
	for binary.BigEndian.Uint16(append(got, 0, 0)) != tftpOACK || string(got) == "\x00\x06blksize\x001468\x00" {
		if got, _ = r.hear(c, 10*time.Second); got == nil {
			t.Fatal("no answer")
		}
	}
	if string(got) != "\x00\x06blksize\x00512\x00" {
		t.Errorf("it is offered %q again", got)
	}
	seen := r.transfers(mac)
	if len(seen) != 1 || seen[0].Text != "stopped fetching snponly.efi over TFTP at block 1: a 1468-byte block does not pass this path" {
		t.Fatalf("it is told as %+v", seen)
	}
	how := *seen[0].TFTP
	want := TFTPTransfer{File: "snponly.efi", Size: 200000, Block: 1468, Window: 1, Answered: true, Tries: how.Tries, End: TFTPAnother}
	if how != want || how.Tries < 2 {
		t.Errorf("it is %+v, want %+v", how, want)
	}
}

// transfers are those of a machine that are over.
func (r *tftpRig) transfers(mac string) (over []Sighting) {
	for _, s := range r.sightings.Of(mac) {
		if s.TFTP != nil {
			over = append(over, s)
		}
	}
	return over
}

// A client that is gone is given up when the kernel says so, and not when it has been
// silent for long; one that has gone with the last acknowledgement has everything.
func TestTFTPClientThatIsGone(t *testing.T) {
	for _, single := range []bool{false, true} {
		for _, c := range []struct {
			name, file string
			end        TFTPEnd
		}{{"in the middle", "snponly.efi", TFTPRefused}, {"at the end", "ipxe.efi", TFTPSent}} {
			r := newTFTPRigOf(t, single)
			const mac = "52:54:00:12:34:56"
			r.sightings.holds(mac, netip.MustParseAddr("127.0.0.7"))
			conn := r.client("127.0.0.7")
			r.send(conn, rrq(c.file, "octet", "windowsize", "2"))
			_, at := r.hear(conn, 10*time.Second)
			if _, err := conn.WriteToUDPAddrPort([]byte{0, tftpAck, 0, 0}, at); err != nil {
				t.Fatal(err)
			}
			if got, _ := r.hear(conn, 10*time.Second); !bytes.HasPrefix(got, []byte{0, tftpData, 0, 1}) {
				t.Fatalf("%.20q", got)
			}
			conn.Close()
			r.until("it is noticed", func() bool { return len(r.transfers(mac)) == 1 })
			if how := r.transfers(mac)[0].TFTP; how.End != c.end {
				t.Errorf("single port %v, %s: it is %+v", single, c.name, *how)
			}
		}
	}
}

// When the link takes no more what its blocks were made for, or the card no windows, they
// go one by one.
func TestTFTPBlockByBlock(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		t.Skip("changes the loopback interface")
	}
	mtu := func(n string) {
		t.Helper()
		if out, err := exec.Command("ip", "link", "set", "lo", "mtu", n).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	r := newTFTPRig(t)
	defer mtu("65536")
	c := r.client("127.0.0.7")
	r.send(c, rrq("snponly.efi", "octet", "windowsize", "16", "blksize", "1468"))
	_, at := r.hear(c, 10*time.Second)
	var file []byte
	ack := byte(0)
	for range 3 {
		if _, err := c.WriteToUDPAddrPort([]byte{0, tftpAck, 0, ack}, at); err != nil {
			t.Fatal(err)
		}
		for range 16 {
			got, _ := r.hear(c, 10*time.Second)
			if ack++; !bytes.HasPrefix(got, []byte{0, tftpData, 0, ack}) {
				t.Fatalf("%.20q, want block %d", got, ack)
			}
			file = append(file, got[4:]...)
		}
		mtu("1000")
	}
	if !bytes.HasPrefix(testFiles[LoaderUEFI].Data, file) {
		t.Error("it is another file")
	}
}

// How a transfer went, as words.
func TestTFTPTransferIsTold(t *testing.T) {
	long := TFTPTransfer{File: "snponly.efi", Size: 200000, Block: 1468, Window: 4, Answered: true}
	for _, c := range []struct {
		change func(*TFTPTransfer)
		want   string
	}{
		{func(x *TFTPTransfer) { x.End, x.Bytes = TFTPSent, x.Size }, "fetched snponly.efi over TFTP (200000 bytes)"},
		{func(x *TFTPTransfer) { x.End = TFTPSilent }, "stopped fetching snponly.efi over TFTP at block 1: a 1468-byte block does not pass this path"},
		{func(x *TFTPTransfer) { x.End, x.Block = TFTPSilent, 512 }, "stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: it answered no more"},
		{func(x *TFTPTransfer) { x.End, x.Size = TFTPSilent, 900 }, "stopped fetching snponly.efi over TFTP after 0 of 900 bytes: it answered no more"},
		{func(x *TFTPTransfer) { x.End, x.Answered = TFTPSilent, false }, "stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: it never answered"},
		{func(x *TFTPTransfer) { x.End, x.Blocks, x.Bytes = TFTPSilent, 4, 5872 }, "stopped fetching snponly.efi over TFTP after 5872 of 200000 bytes: it answered no more"},
		{func(x *TFTPTransfer) { x.End, x.Code, x.Said = TFTPHungUp, 3, "disk full" }, `stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: it hung up with error 3, "disk full"`},
		{func(x *TFTPTransfer) { x.End, x.Code, x.Tries = TFTPHungUp, 0, 3 }, "stopped fetching snponly.efi over TFTP at block 1: a 1468-byte block does not pass this path"},
		{func(x *TFTPTransfer) { x.End, x.Blocks, x.Bytes, x.Tries = TFTPRefused, 1, 1468, 5 }, "stopped fetching snponly.efi over TFTP after 1468 of 200000 bytes: it had closed its port"},
		{func(x *TFTPTransfer) { x.End = TFTPRefused }, "stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: it had closed its port"},
		{func(x *TFTPTransfer) { x.End = TFTPStopped }, "stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: this node stopped it"},
		{func(x *TFTPTransfer) { x.End = TFTPFailed }, "stopped fetching snponly.efi over TFTP after 0 of 200000 bytes: this node failed"},
	} {
		x := long
		c.change(&x)
		if got := x.String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// On a wire that drops long frames, without a word to anybody, a real client fails once,
// the timeline says why, and the next time it gets its file.
func TestTFTPWireOfShortFrames(t *testing.T) {
	if _, err := exec.LookPath("busybox"); err != nil {
		t.Skip(err)
	}
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	s.timePasses()
	w.start(s)
	const mac = "52:54:00:12:34:56"
	s.sightings.holds(mac, netip.MustParseAddr("10.77.0.120"))
	w.inside("ip", "address", "add", "10.77.0.120/24", "dev", "v1")
	w.inside("ip", "link", "set", "v1", "mtu", "1000")
	out := filepath.Join(t.TempDir(), "out")
	get := []string{"busybox", "tftp", "-g", "-b", "1468", "-r", LoaderUEFI, "-l", out, "10.77.0.1"}
	if said, err := w.command(get...).CombinedOutput(); err == nil {
		t.Fatalf("a block of 1468 bytes passed a wire of 1000: %s", said)
	}
	if err := eventually(t.Context(), func() error {
		seen := s.sightings.Of(mac)
		if len(seen) == 0 || !strings.HasSuffix(seen[len(seen)-1].Text, "over TFTP at block 1: a 1468-byte block does not pass this path") {
			return fmt.Errorf("it is told as %+v", seen)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.inside(get...)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, testFiles[LoaderUEFI].Data) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}
