package netboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestS17_TFTPGivesItsTableAndNothingElse(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	tf := s.tftp(s.link)
	for name, want := range map[string]bool{
		"undionly.kpxe": true, "/undionly.kpxe": true, "//snponly.efi": true, "ipxe.efi": true, "autoexec.ipxe": true,
		"shimx64.efi": true, "//grubx64.efi": true, "/grub/x86_64-efi/grub.cfg": true, "/grub/grub.cfg": true, "vmlinuz": true, "initrd": true,
		"shimaa64.efi": true, "grubaa64.efi": true, "/grub/arm64-efi/grub.cfg": true, "vmlinuz-arm64": true, "initrd-arm64": true, "vmlinuz-arm64.zst": false,
		LoaderNone: false, "grub/../grub.cfg": false, "boot/a/b/c/grub.cfg": false, "boot/a/b/c/d/grub.cfg": false, "": false, "/": false, ".": false, "script": false,
		"../../../../etc/shadow": false, "/etc/shadow": false, `..\..\x`: false, "a/./b/../../c": false, "%2e%2e/x": false,
		"mac/../../raft.db": false, "undionly.kpxe\x00": false, "\x1b[31m": false, "a\nb": false, "UNDIONLY.KPXE": false,
		"./undionly.kpxe": false, "x/../undionly.kpxe": false, strings.Repeat("a", 600): false,
	} {
		if _, _, ok := tf.find(name, s.link.addr); ok != want {
			t.Errorf("%.40q: %v, want %v", name, ok, want)
		}
	}
}

func FuzzTFTPName(f *testing.F) {
	for _, n := range []string{"undionly.kpxe", "//snponly.efi", "../../etc/passwd", "boot/vmlinuz", ""} {
		f.Add(n)
	}
	s := newSetup(f, ModeDHCP)
	tf := s.tftp(s.link)
	s.fleet.boots(macA, Decision{Action: BootAgent})
	for _, path := range []string{s.paths().new(macA, s.link.addr), s.paths().new(macA, netip.MustParseAddr("10.77.0.123")), "a"} {
		f.Add("boot/" + path + "/" + macA + "///grub.cfg")
		f.Add("boot/" + path + "////grub.cfg")
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, _, ok := tf.find(name, s.link.addr)
		if !ok {
			return
		}
		if ask, ok := (grub{}).asks(strings.TrimLeft(name, "/")); ok && s.paths().leads(ask.path, macA, s.link.addr) {
			if mac, _ := ParseMAC(ask.mac); mac == macA {
				return
			}
		}
		if text, err := io.ReadAll(file); err == nil && string(text) == (grub{}).local("this machine did not say who it is", 0) {
			return // says nothing of anybody
		}
		switch strings.TrimLeft(name, "/") {
		case LoaderBIOS, LoaderUEFI, LoaderUEFIAll, LoaderShim, LoaderGRUB, FileAutoexec, FileKernel, FileInitrd, grubFirst, grubOther, grubBegin,
			LoaderShimARM64, LoaderGRUBARM64, FileKernelARM64, FileInitrdARM64, grubFirstARM64:
		default:
			t.Fatalf("%q was found", name)
		}
	})
}

func TestOneAddressMayNotTakeEveryTransfer(t *testing.T) {
	s := newSetup(t, ModeDHCP)
	tf := s.tftp(s.link)
	a := s.link.addr
	for i := range transfersEach {
		if !tf.begin(a) {
			t.Fatalf("transfer %d refused", i+1)
		}
	}
	if tf.begin(a) {
		t.Error("one more was allowed")
	}
	if !tf.begin(a.Next()) {
		t.Error("another address was refused")
	}
	tf.end(a)
	if !tf.begin(a) {
		t.Error("after one has ended the next was refused")
	}
}

// Real TFTP clients and hand-made packets, against the server on a wire.
func TestTFTPOnAWire(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	s.timePasses()
	w.start(s)
	w.inside("ip", "address", "add", "10.77.0.120/24", "dev", "v1")
	dir := t.TempDir()

	const mac = "52:54:00:12:34:56"
	s.sightings.holds(mac, netip.MustParseAddr("10.77.0.120"))
	for _, c := range []struct {
		name          string
		block, window int // that it fetches in
		command       []string
	}{
		{"atftp", 1468, 16, []string{"atftp", "--option", "blksize 1468", "--option", "windowsize 16", "--option", "timeout 1", "--option", "tsize 0", "-g", "-r", "snponly.efi", "-l", "OUT", "10.77.0.1"}},
		{"atftp with the largest window", 512, 64, []string{"atftp", "--option", "windowsize 64", "-g", "-r", "snponly.efi", "-l", "OUT", "10.77.0.1"}},
		{"atftp without options", 512, 1, []string{"atftp", "-g", "-r", "snponly.efi", "-l", "OUT", "10.77.0.1"}},
		{"curl with large blocks", 1468, 1, []string{"curl", "-s", "--tftp-blksize", "1468", "-o", "OUT", "tftp://10.77.0.1/snponly.efi"}},
		{"curl with huge blocks", 1468, 1, []string{"curl", "-s", "--tftp-blksize", "8192", "-o", "OUT", "tftp://10.77.0.1/snponly.efi"}},
		{"curl with tiny blocks", 8, 1, []string{"curl", "-s", "--tftp-blksize", "8", "-o", "OUT", "tftp://10.77.0.1/undionly.kpxe"}},
		{"curl without options", 512, 1, []string{"curl", "-s", "--tftp-no-options", "-o", "OUT", "tftp://10.77.0.1/snponly.efi"}},
		{"tftp-hpa", 512, 1, []string{"tftp", "-m", "binary", "10.77.0.1", "-c", "get", "snponly.efi", "OUT"}},
		{"busybox", 1468, 1, []string{"busybox", "tftp", "-g", "-b", "1468", "-r", "snponly.efi", "-l", "OUT", "10.77.0.1"}},
	} {
		if _, err := exec.LookPath(c.command[0]); err != nil {
			t.Logf("%s is not installed", c.command[0])
			continue
		}
		out := filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-"))
		file := LoaderUEFI
		for i := range c.command {
			if c.command[i] == "OUT" {
				c.command[i] = out
			}
			if strings.HasSuffix(c.command[i], LoaderBIOS) {
				file = LoaderBIOS
			}
		}
		w.inside(c.command...)
		if b, err := os.ReadFile(out); err != nil || !bytes.Equal(b, testFiles[file].Data) {
			t.Errorf("%s: %d bytes, %v", c.name, len(b), err)
		}
		if err := eventually(t.Context(), func() error {
			seen := s.sightings.Of(mac)
			if len(seen) == 0 {
				return errors.New("no sighting")
			}
			how := seen[len(seen)-1].TFTP
			if how == nil || how.End != TFTPSent || how.Block != c.block || how.Window != c.window || how.File != file {
				return fmt.Errorf("it was seen as %+v", how)
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}

	for _, c := range []struct {
		name string
		send []byte
		want string // first bytes of the answer; empty: none
	}{
		{"a write", []byte("\x00\x02x\x00octet\x00"), "\x00\x05"},
		{"a file that is not there", []byte("\x00\x01../../etc/shadow\x00octet\x00"), "\x00\x05\x00\x01file not found"},
		{"a plain read", []byte("\x00\x01autoexec.ipxe\x00octet\x00"), "\x00\x03\x00\x01#!ipxe"},
		{"blocks too large", []byte("\x00\x01snponly.efi\x00octet\x00blksize\x0065464\x00"), "\x00\x06blksize\x001468\x00"},
		{"the size", []byte("\x00\x01snponly.efi\x00octet\x00tsize\x000\x00"), "\x00\x06tsize\x00200000\x00"},
		{"a window", []byte("\x00\x01snponly.efi\x00octet\x00windowsize\x0065535\x00"), "\x00\x06windowsize\x0064\x00"},
		{"blocks of 0", []byte("\x00\x01snponly.efi\x00octet\x00blksize\x000\x00"), "\x00\x03\x00\x01uefi"},
		{"no end of the name", []byte("\x00\x01snponly.efi"), ""},
		{"an acknowledgement of nothing", []byte("\x00\x04\x00\x01"), ""},
		{"one byte", []byte{0}, ""},
	} {
		got := w.datagram(t, "10.77.0.1:69", c.send)
		if !strings.HasPrefix(string(got), c.want) || c.want == "" && got != nil {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	if st := s.Stats(); st["tftp.sent"] < 3 || st["tftp.panic"] != 0 {
		t.Errorf("stats: %v", st)
	}

	// What is said to everybody is another server's matter too.
	before := s.Stats()["tftp.refused.malformed"]
	if got := w.datagram(t, "10.77.0.255:69", rrq("snponly.efi", "octet")); got != nil {
		t.Errorf("a request to everybody was answered: %.20q", got)
	}
	if s.Stats()["tftp.refused.malformed"] != before+1 {
		t.Error("a request to everybody did not come")
	}

	// A block is never longer than what fits the link, as it is now.
	w.run("ip", "link", "set", "br0", "mtu", "1400")
	if got := w.datagram(t, "10.77.0.1:69", rrq("snponly.efi", "octet", "blksize", "1468")); string(got) != "\x00\x06blksize\x001368\x00" {
		t.Errorf("on a link of 1400 bytes blocks are %q", got)
	}
	w.run("ip", "link", "set", "br0", "mtu", "1500")

	// From outside of the network not even an error comes back.
	w.inside("ip", "address", "add", "192.168.9.9/24", "dev", "v1")
	w.run("ip", "route", "add", "192.168.9.0/24", "dev", "br0")
	w.inside("ip", "route", "add", "10.77.0.1/32", "dev", "v1", "src", "192.168.9.9")
	before = s.Stats()["tftp.refused.no such file"]
	if got := w.datagram(t, "10.77.0.1:69", []byte("\x00\x01nothing\x00octet\x00")); got != nil {
		t.Errorf("a stranger was answered: %q", got)
	}
	if after := s.Stats()["tftp.refused.no such file"]; after != before {
		t.Error("a stranger's request reached the handler")
	}
}

const datagramEnv = "LPMOS_TEST_DATAGRAM"

// datagram sends one from the machines' side and returns the first answer, or
// nil when none came. It refuses what it got, so that transfers end.
func (w *wire) datagram(t *testing.T, to string, b []byte) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "answer")
	cmd := w.command(os.Args[0], "-test.run=^TestDatagramProcess$", "-test.count=1")
	cmd.Env = append(os.Environ(), datagramEnv+"="+to+"\n"+out+"\n"+hexOf(b))
	if o, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, o)
	}
	got, err := os.ReadFile(out)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestDatagramProcess is the other end of datagram.
func TestDatagramProcess(t *testing.T) {
	spec := strings.SplitN(os.Getenv(datagramEnv), "\n", 3)
	if len(spec) != 3 {
		t.Skip("started by other tests only")
	}
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to, err := net.ResolveUDPAddr("udp4", spec[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteTo(unhex(t, spec[2]), to); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(400 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2048)
	n, from, err := c.ReadFrom(buf)
	if err != nil {
		return // none
	}
	if binary.BigEndian.Uint16(buf) != 5 {
		if _, err := c.WriteTo([]byte("\x00\x05\x00\x08enough\x00"), from); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(spec[1], buf[:n], 0o600); err != nil {
		t.Fatal(err)
	}
}
