package sim

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lpmos/lpmos/agent/inventory"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/netboot/pxeclient"
)

var (
	macA      = net.HardwareAddr{0x52, 0x54, 1, 0x77, 0, 1}
	everybody = netip.MustParseAddrPort("255.255.255.255:67")
	nobody    = netip.MustParseAddrPort("0.0.0.0:68")
)

// packet is the least that has a hardware address in its place.
func packet(mac net.HardwareAddr) []byte {
	b := make([]byte, 240)
	copy(b[chaddrAt:], mac)
	return b
}

func TestAFrameIsAsACardSendsIt(t *testing.T) {
	want := packet(macA)
	frame := etherFrame(macA, nobody, everybody, want)
	if !bytes.Equal(frame[:6], bytes.Repeat([]byte{255}, 6)) || !bytes.Equal(frame[6:12], macA) {
		t.Errorf("the frame begins with % x", frame[:12])
	}
	sum := uint32(0) // RFC 791: over a header that is whole it is all ones
	for i := etherLen; i < etherLen+20; i += 2 {
		sum += uint32(frame[i])<<8 | uint32(frame[i+1])
	}
	if sum = sum>>16 + sum&0xffff; sum != 0xffff {
		t.Errorf("the checksum of the IP header is wrong: %#x", sum)
	}
	payload, mac, ok := answerIn(frame)
	if !ok || !bytes.Equal(payload, want) || !bytes.Equal(mac[:], macA) {
		t.Errorf("read again: %v, % x", ok, mac)
	}
}

// FuzzAnswerIn: a frame from the wire cannot panic the fleet.
func FuzzAnswerIn(f *testing.F) {
	f.Add(etherFrame(macA, nobody, everybody, packet(macA)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		payload, mac, ok := answerIn(frame)
		if ok && !bytes.Equal(payload[chaddrAt:chaddrAt+len(mac)], mac[:]) {
			t.Errorf("% x is not in % x", mac, payload)
		}
	})
}

// The kernel says beside a packet when it had it.
func TestAnAnswerCameWhenTheKernelHadIt(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	if err := unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if _, err := unix.Write(fds[0], []byte("x")); err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	buf, oob := make([]byte, 8), make([]byte, 128)
	_, n, _, _, err := unix.Recvmsg(fds[1], buf, oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // the clock of a packet may be a coarse one
	if at := stamp(oob[:n]); at.Before(before.Add(-tick)) || at.After(after) {
		t.Errorf("it came at %s, and was sent between %s and %s", at, before, after)
	}
	for _, bad := range [][]byte{nil, {1}, oob[:n-1]} {
		if at := stamp(bad); time.Since(at) > time.Minute {
			t.Errorf("% x: it came at %s", bad, at)
		}
	}
}

func TestPacketsAreLostAsOftenAsWasAskedFor(t *testing.T) {
	w := &ethernet{loss: 0.25, rand: (&run{}).dice(0)}
	for range 10000 {
		w.loses()
	}
	if w.lost < 2300 || w.lost > 2700 {
		t.Errorf("%d of 10000 packets were lost, want 2500", w.lost)
	}
	if (&ethernet{}).loses() {
		t.Error("a packet was lost on a good wire")
	}
}

func TestFirmwareWaitsAsItsKindDoes(t *testing.T) {
	m := &machine{r: &run{}, dice: (&run{}).dice(1)}
	for _, c := range []struct {
		shape  pxeclient.Shape
		waits  []time.Duration
		spread time.Duration
	}{
		{pxeclient.BIOS, []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}, time.Second},
		{pxeclient.UEFI, []time.Duration{4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second}, time.Second},
		{pxeclient.IPXE, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 10 * time.Second}, 0},
		{pxeclient.Agent, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, 0},
	} {
		if n := retries(c.shape) + 1; n != len(c.waits) {
			t.Errorf("%s sends %d times, want %d", c.shape, n, len(c.waits))
		}
		for try, want := range c.waits {
			if got := m.wait(c.shape, try); (got - want).Abs() > c.spread {
				t.Errorf("%s waits %s for an answer to transmission %d, want %s", c.shape, got, try, want)
			}
		}
	}
}

func TestMachinesDiffer(t *testing.T) {
	seen := map[string]int{}
	for n := range 1000 {
		mac := net.HardwareAddr{0x52, 0x54, 1, 0x77, byte(n >> 8), byte(n)}
		inv := newHardware(n, mac, pxeclient.BIOS).inv
		ids := []string{inv.System.UUID, inv.System.Serial, inv.System.BoardSerial, inv.Disks[0].Serial, inv.Disks[0].WWN, inv.NICs[0].MAC, inv.NICs[1].MAC, inv.Hash()}
		for _, id := range ids {
			if other, taken := seen[id]; taken || id == "" {
				t.Fatalf("machines %d and %d both have %q", n, other, id)
			}
			seen[id] = n
		}
	}
}

func TestADiskIsBlankUntilItIsWritten(t *testing.T) {
	h := newHardware(1, macA, pxeclient.UEFI)
	h.disk = t.TempDir() + "/disk"
	if d := h.collect().Disks[0]; !d.Contents.Blank() {
		t.Errorf("a new disk holds %+v", d.Contents)
	}
	f, err := h.open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("something"), 0); err != nil {
		t.Fatal(err)
	}
	if d := h.collect().Disks[0]; d.Contents.Blank() || d.Contents.Unreadable != "" {
		t.Errorf("a disk that was written holds %+v", d.Contents)
	}
	if want := (wire.DiskID{WWN: "0x5000c50100000001", Serial: "SIMD00001", SizeBytes: diskBytes}); h.look().ID() != want {
		t.Errorf("the disk is %v", h.look().ID())
	}
	if c := inventory.Contents(f, diskBytes, 512); c.Blank() {
		t.Error("the file is blank")
	}
}

func TestQuantilesAreMeasured(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		of   []float64
		q    float64
		want float64
	}{{nil, 0.5, 0}, {[]float64{7}, 0.99, 7}, {hundred, 0.5, 50}, {hundred, 0.95, 95}, {hundred, 0.99, 99}, {hundred, 1, 100}} {
		if got := quantile(c.of, c.q); got != c.want {
			t.Errorf("quantile %v of %d values: %v, want %v", c.q, len(c.of), got, c.want)
		}
	}
}

func TestTheTableSaysWhatWasMeasured(t *testing.T) {
	f := newFigures()
	f.add("iPXE offer", 250*time.Millisecond, 2, nil)
	f.add("firmware offer", 5*time.Millisecond, 0, nil)
	f.add("firmware offer", 15*time.Second, 1, nil)
	f.add("kernel", 0, 0, errors.New("cut"))
	for _, n := range []int{1, 2} {
		f.restart(fmt.Errorf("GET http://10.77.0.%d/boot/vmlinuz: reset", n))
	}
	r := (&run{Options: Options{Machines: 2, Install: 1}, wire: &ethernet{sent: 12, lost: 3}, fig: f, reported: map[string]bool{"a": true}}).result(20 * time.Second)
	r.Nodes = map[string]Usage{"n1": {CPUSeconds: 1.5, MaxRSS: 50e6}}
	r.Counters = map[string]map[string]uint64{"n1": {"dhcp.ack": 6, "dhcp.drop.busy": 2, "http.file": 3, "tftp.failed": 0}}
	var out bytes.Buffer
	r.Print(&out)
	want := `            step  n     p50     p95     p99     max  retries  failed
  firmware offer  2  5.0 ms  15.0 s  15.0 s  15.0 s        1       0
      iPXE offer  1  0.25 s  0.25 s  0.25 s  0.25 s        2       0
          kernel  0  0.0 ms  0.0 ms  0.0 ms  0.0 ms        0       1

1 of 2 machines reached the agent, 0 of 1 are installed and up, in 20.0 s. They sent 12 DHCP packets, 6.0 each (3 packets were lost), fetched 0.00 GB to boot and opened 0 connections as agents.
2 times a boot began anew: GET … reset
n1: 1.5 s of processor time, at most 50 MB of memory
n1 counted: dhcp.drop.busy 2
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWhatAProcessTookIsRead(t *testing.T) {
	cpu, rss, err := readStat([]byte("12 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1 2 300 1 1"))
	if err != nil || cpu != 2 || rss != 300*int64(os.Getpagesize()) {
		t.Errorf("%v s, %d bytes, %v", cpu, rss, err)
	}
	for _, bad := range []string{"", "12 (a) S 1", "12 (a) S 1 2 3 4 5 6 7 8 9 10 x 50 0 0 20 0 9 0 1 2 300 1 1"} {
		if _, _, err := readStat([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, _, err := process(os.Getpid()); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "machines 0"},
		{Options{Machines: 1, Install: 2}, "install 2"},
		{Options{Machines: 1, Install: 1}, "somebody who approves"},
		{Options{Machines: 1, Loss: 1}, "loss 1"},
		{Options{Machines: 1, Device: "nothere0"}, "nothere0"},
	} {
		if _, err := Run(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	if o, err := (Options{Machines: 1}).defaults(); err != nil || !slices.Equal(o.Shapes, []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI}) {
		t.Errorf("%v, %v", o.Shapes, err)
	}
}
