package boot

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

func TestCommandLine(t *testing.T) {
	for _, tc := range []struct {
		name, line string
		want       string
	}{
		{"as the boot script writes it", "initrd=initrd console=tty0 lpmos.node=https://10.77.0.1:80 lpmos.mac=52:54:00:AA:bb:01 lpmos.time=1700000000\n",
			"[https://10.77.0.1:80] 52:54:00:aa:bb:01 1700000000"},
		{"hyphens as iPXE's hexhyp", "lpmos.mac=52-54-00-aa-bb-01", "[] 52:54:00:aa:bb:01 none"},
		{"three nodes of four", "lpmos.node=https://a lpmos.node=https://b/ lpmos.node=https://c lpmos.node=https://d", "[https://a https://b https://c]  none"},
		{"no node in it", "lpmos.node=ftp://a lpmos.node= lpmos.node=https:// lpmos.node=%zz quiet", "[]  none"},
		{"no MAC, no time", "lpmos.mac=nonsense lpmos.time=yesterday", "[]  none"},
		{"an InfiniBand address", "lpmos.mac=00:01:02:03:04:05:06:07", "[]  none"},
		{"times out of range", "lpmos.time=-5 lpmos.time=99999999999999", "[]  none"},
		{"nothing", "", "[]  none"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := ParseCmdline(tc.line)
			when := "none"
			if !c.Time.IsZero() {
				when = fmt.Sprint(c.Time.Unix())
			}
			if got := fmt.Sprintf("%v %s %s", c.Nodes, c.MAC, when); got != tc.want {
				t.Fatalf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatAnAgentMustBeTold(t *testing.T) {
	p := pin.Pin{0xab, 0xcd}.String()
	const rest = "lpmos.node=https://10.77.0.1:80 lpmos.time=1700000000 lpmos.claim=a-b_c"
	c := ParseCmdline(rest + " lpmos.pin=" + p)
	if err := c.Check(); err != nil || c.Pin.String() != p || c.Claim != "a-b_c" {
		t.Errorf("%+v, %v", c, err)
	}
	for line, says := range map[string]string{
		rest:                         "no lpmos.pin",
		rest + " lpmos.pin=":         "64 small hex digits",
		rest + " lpmos.pin=" + p[1:]: "64 small hex digits",
		rest + " lpmos.pin=" + strings.ToUpper(p):                    "64 small hex digits",
		rest + " lpmos.pin=" + strings.Repeat("0", 64):               "nobody's",
		rest + " lpmos.pin=" + p + " lpmos.pin=" + p:                 "twice",
		rest + " lpmos.pin=x lpmos.pin=" + p:                         "twice",
		"lpmos.time=1 lpmos.pin=" + p:                                "no lpmos.node",
		"lpmos.node=http://10.77.0.1:80 lpmos.time=1 lpmos.pin=" + p: "no lpmos.node",
		"lpmos.node=https://10.77.0.1:80 lpmos.pin=" + p:             "no lpmos.time",
	} {
		if err := ParseCmdline(line).Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", line, err, says)
		}
	}
}

func TestS53_TheClockOfTheMachineDoesNotCount(t *testing.T) {
	node := time.Unix(1_700_000_000, 0)
	if now := Clock(node)(); now.Before(node) || now.After(node.Add(100*365*24*time.Hour)) {
		t.Errorf("it is %v", now)
	}
	clock := Clock(node)
	first := clock()
	if later := clock(); later.Before(first) || later.Sub(first) > time.Minute {
		t.Errorf("it went from %v to %v", first, later)
	}
	for now, want := range map[time.Time]int64{
		node: 0, node.Add(10 * time.Minute): 0, time.Unix(0, 0): -1_700_000_000, node.Add(2 * time.Hour): 7200,
		time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC): time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC).Unix() - 1_700_000_000,
	} {
		if got := ClockOff(now, node); got != want {
			t.Errorf("a clock that shows %v is %d s off, want %d", now, got, want)
		}
	}
}

func FuzzCmdline(f *testing.F) {
	f.Add("lpmos.pin=" + strings.Repeat("ab", 32) + " lpmos.claim=AbC-_ lpmos.pin=0")
	f.Add("lpmos.node=https://10.77.0.1:80 lpmos.mac=52:54:00:aa:bb:01 lpmos.time=1700000000")
	f.Fuzz(func(t *testing.T, line string) {
		c := ParseCmdline(line)
		if len(c.Nodes) > wire.MaxNodes {
			t.Fatalf("%d nodes", len(c.Nodes))
		}
		if _, err := net.ParseMAC(c.MAC); c.MAC != "" && err != nil {
			t.Fatal(err)
		}
	})
}

func TestAClockIsSetOnlyWhenItIsFarOff(t *testing.T) {
	node := time.Unix(1_700_000_000, 0)
	for _, tc := range []struct {
		off   time.Duration
		wrong bool
	}{
		{0, false}, {-30 * time.Second, false}, {-2 * time.Minute, true}, {10 * time.Minute, false},
		{2 * time.Hour, true}, {-50 * 365 * 24 * time.Hour, true},
	} {
		if got := clockIsWrong(node.Add(tc.off), node); got != tc.wrong {
			t.Errorf("%s off: wrong is %v", tc.off, got)
		}
	}
}

// hardware is a fake /sys and /lib/modules. Loading a module may bring devices.
type hardware struct {
	t       *testing.T
	mods    string
	sys     string
	loaded  []string
	reveals map[string]string // module -> modalias of the device behind it
	errs    map[string]error
}

func newHardware(t *testing.T) *hardware {
	h := &hardware{t: t, mods: t.TempDir(), sys: t.TempDir(), reveals: map[string]string{}, errs: map[string]error{}}
	write(t, h.mods, "modules.dep", "kernel/usb/xhci-pci.ko: kernel/usb/xhci-hcd.ko kernel/usb/usbcore.ko\n"+
		"kernel/usb/xhci-hcd.ko: kernel/usb/usbcore.ko\nkernel/usb/usbcore.ko:\n"+
		"kernel/usb/usb-storage.ko: kernel/usb/usbcore.ko kernel/scsi.ko\nkernel/scsi.ko:\nkernel/sd_mod.ko: kernel/scsi.ko\nkernel/snd.ko:\n")
	write(t, h.mods, "modules.alias", "# comment\nalias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci\nalias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n"+
		"alias scsi:t-0x00* sd_mod\nalias pci:v00008086d* snd\nalias acpi*:PNP0C0C:* button\n")
	return h
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (h *hardware) device(bus, name, modalias string) {
	write(h.t, h.sys, "bus/"+bus+"/devices/"+name+"/modalias", modalias+"\n")
}

func (h *hardware) load(path string) error {
	name := moduleName(path)
	h.loaded = append(h.loaded, name)
	if m := h.reveals[name]; m != "" {
		bus, _, _ := strings.Cut(m, ":")
		h.device(bus, "behind-"+name, m)
	}
	return h.errs[name]
}

func (h *hardware) drivers() *Drivers {
	d, err := openDrivers(h.mods, h.sys, h.load)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func TestDriversOfNestedBusesComeInOrder(t *testing.T) {
	h := newHardware(t)
	h.device("pci", "0000:00:14.0", "pci:v00001B36d0000000Dsv1sd2bc0Csc03i30")
	h.device("acpi", "PNP0C0C:00", "acpi:PNP0C0C:")
	h.reveals["xhci_pci"] = "usb:v1p2d3dc4dsc5dp6ic08isc06ip50in00"
	h.reveals["usb_storage"] = "scsi:t-0x00"
	d := h.drivers()
	var said []string
	say := func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) }
	if n := d.Coldplug(say); n != 6 {
		t.Errorf("%d loaded, want 6", n)
	}
	want := []string{"usbcore", "xhci_hcd", "xhci_pci", "scsi", "usb_storage", "sd_mod"}
	if !slices.Equal(h.loaded, want) || len(said) != 0 {
		t.Fatalf("loaded %v, want %v; said %q", h.loaded, want, said)
	}
	d.Coldplug(say)
	if len(h.loaded) != len(want) {
		t.Fatalf("loaded again: %v", h.loaded[len(want):])
	}
}

func TestADriverThatFailsIsSaidOnceAndLeftOut(t *testing.T) {
	h := newHardware(t)
	h.device("pci", "a", "pci:v00008086d1")
	h.errs["snd"] = syscall.EINVAL
	var said []string
	d := h.drivers()
	for range 2 {
		d.Coldplug(func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) })
	}
	if len(said) != 1 || !strings.Contains(said[0], "snd: invalid argument") {
		t.Fatalf("%q", said)
	}
	h.errs["scsi"] = syscall.ENODEV
	d.Load("scsi", func(f string, a ...any) { t.Errorf(f, a...) })
	d.Load("no-such-module", func(f string, a ...any) { t.Errorf(f, a...) })
}
