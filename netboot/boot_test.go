package netboot

import (
	"bytes"
	"context"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/netboot/pxeclient"
)

const (
	macA = "52:54:00:00:00:0a"
	macB = "52:54:00:00:00:0b"
)

// anyPath is what differs from boot to boot.
var anyPath = regexp.MustCompile("/[a-z2-7]{32}/script$")

// booter boots one machine on some kind of wire.
type booter func(shape pxeclient.Shape, mac string) (pxeclient.Result, error)

func (s *setup) bootSim(t *testing.T) booter {
	return func(shape pxeclient.Shape, mac string) (pxeclient.Result, error) {
		hw, err := net.ParseMAC(mac)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c := pxeclient.Client{Shape: shape, MAC: hw, UUID: testUUID, Net: s.sim(mac), Timeout: 100 * time.Millisecond, ProxyWait: 50 * time.Millisecond}
		return c.Boot(ctx)
	}
}

// onBoth runs a test against function calls and against a real wire.
func onBoth(t *testing.T, mode Mode, test func(t *testing.T, s *setup, boot booter)) {
	t.Run("simulated", func(t *testing.T) {
		s := newSetup(t, mode)
		test(t, s, s.bootSim(t))
	})
	t.Run("real", func(t *testing.T) {
		w := newWire(t)
		s := newSetup(t, mode)
		w.start(s)
		test(t, s, w.boot)
	})
}

func TestEveryFirmwareReachesTheAgent(t *testing.T) {
	onBoth(t, ModeDHCP, func(t *testing.T, s *setup, boot booter) {
		loader := map[pxeclient.Shape]string{
			pxeclient.BIOS: LoaderBIOS, pxeclient.UEFI: LoaderUEFI,
			pxeclient.UEFIHTTP: "http://10.77.0.1/boot/" + LoaderUEFI,
			pxeclient.IPXE:     "http://10.77.0.1/boot/PATH/script", pxeclient.IPXEUEFI: "http://10.77.0.1/boot/PATH/script",
		}
		for shape, want := range loader {
			res, err := boot(shape, macA)
			if err != nil {
				t.Fatalf("%s: %v", shape, err)
			}
			if got := anyPath.ReplaceAllString(res.Firmware.File, "/PATH/script"); got != want {
				t.Errorf("%s was told to load %q, want %q", shape, res.Firmware.File, want)
			}
			if got := anyPath.ReplaceAllString(res.Loader.File, "/PATH/script"); got != "http://10.77.0.1/boot/PATH/script" {
				t.Errorf("%s: iPXE was told to load %q", shape, res.Loader.File)
			}
			if res.Firmware.Addr != res.Loader.Addr || res.Loader.Addr.String() != "10.77.0.100/24" {
				t.Errorf("%s: addresses %s and %s, want the first of the range twice", shape, res.Firmware.Addr, res.Loader.Addr)
			}
			if res.Outcome != pxeclient.Kernel || !bytes.Equal(res.Kernel, testFiles[FileKernel].Data) || !bytes.Equal(res.Initrd, testFiles[FileInitrd].Data) {
				t.Errorf("%s: outcome %s with %d bytes of kernel and %d of initrd", shape, res.Outcome, len(res.Kernel), len(res.Initrd))
			}
			if wantArgs := "initrd=initrd console=tty0 console=ttyS0,115200 lpmos.node=https://10.77.0.1:80 lpmos.mac=" + macA + " lpmos.time=1700000000 lpmos.pin=ab12 lpmos.claim=claim-52540000000a-10-77-0-100"; res.Cmdline != wantArgs {
				t.Errorf("%s: kernel arguments\n got %s\nwant %s", shape, res.Cmdline, wantArgs)
			}
		}
		story := ""
		for _, sg := range s.Sightings().Of(macA) {
			story += string(sg.Kind) + ": " + sg.Text + "\n"
		}
		for _, want := range []string{
			"dhcp: asked for an address as UEFI amd64 PXE firmware; was offered 10.77.0.100 and the boot file snponly.efi\n",
			"dhcp: as BIOS PXE firmware, was lent 10.77.0.100 and the boot file undionly.kpxe\n",
			"script: was told to start the agent: it is new here\n",
			"http: fetches vmlinuz over HTTP\n",
		} {
			if !strings.Contains(story, want) {
				t.Errorf("the machine's story lacks %q:\n%s", want, story)
			}
		}
	})
}

func TestAMachineWithNothingToDoBootsItsDisk(t *testing.T) {
	onBoth(t, ModeDHCP, func(t *testing.T, s *setup, boot booter) {
		s.fleet.boots(macA, Decision{Action: BootLocal, Name: "web1", Reason: "nothing is approved", LocalDrive: 1})
		res, err := boot(pxeclient.BIOS, macA)
		if err != nil {
			t.Fatal(err)
		}
		if res.Outcome != pxeclient.Disk || res.Drive != 0x81 {
			t.Errorf("BIOS: outcome %s of drive %#x, want the disk 0x81", res.Outcome, res.Drive)
		}
		res, err = boot(pxeclient.UEFI, macA)
		if err != nil {
			t.Fatal(err)
		}
		if res.Outcome != pxeclient.Disk || res.Drive != 0 {
			t.Errorf("UEFI: outcome %s of drive %#x, want to leave to the boot order", res.Outcome, res.Drive)
		}
		if served := s.fleet.told(); len(served) != 2 || served[0].Action != BootLocal {
			t.Errorf("the fleet heard of %v", s.fleet.served)
		}
	})
}

func TestTwoMachinesHaveTwoAddresses(t *testing.T) {
	onBoth(t, ModeDHCP, func(t *testing.T, s *setup, boot booter) {
		a, err := boot(pxeclient.UEFI, macA)
		if err != nil {
			t.Fatal(err)
		}
		b, err := boot(pxeclient.IPXE, macB)
		if err != nil {
			t.Fatal(err)
		}
		if a.Loader.Addr == b.Loader.Addr {
			t.Errorf("both have %s", a.Loader.Addr)
		}
	})
}

// A real dnsmasq gives the addresses; ours says what to boot and lends nothing.
func TestBesideAnotherServerMachinesKeepItsAddress(t *testing.T) {
	dnsmasq, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Skip("needs dnsmasq")
	}
	w := newWire(t)
	s := newSetup(t, ModeProxy)
	w.start(s)
	startDnsmasq(t, w, dnsmasq)
	for _, shape := range []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI, pxeclient.UEFIHTTP, pxeclient.IPXE, pxeclient.IPXEUEFI} {
		res, err := w.boot(shape, macA)
		if err != nil {
			t.Fatalf("%s: %v", shape, err)
		}
		if got := res.Loader.Addr.Addr().String(); !strings.HasPrefix(got, "10.77.0.2") || len(got) != len("10.77.0.200") {
			t.Errorf("%s has %s, want one of dnsmasq's", shape, got)
		}
		if res.Loader.Server.String() != "10.77.0.2" || res.Loader.Proxy.String() != "10.77.0.1" {
			t.Errorf("%s: address from %s, boot file from %s", shape, res.Loader.Server, res.Loader.Proxy)
		}
		if res.Outcome != pxeclient.Kernel {
			t.Errorf("%s: outcome %s", shape, res.Outcome)
		}
	}
	if n := len(s.Leases()); n != 0 {
		t.Errorf("a proxy lent %d addresses", n)
	}
}

func TestALinkThatWentDownComesBack(t *testing.T) {
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	w.start(s)
	if _, err := w.boot(pxeclient.IPXE, macA); err != nil {
		t.Fatal(err)
	}
	w.run("ip", "link", "set", "br0", "down")
	w.run("ip", "link", "set", "br0", "up")
	if _, err := w.boot(pxeclient.UEFI, macA); err != nil {
		t.Errorf("after the link came back: %v", err)
	}
	st := s.Stats()
	if st["dhcp.send failed"] != 0 {
		t.Errorf("stats: %v", st)
	}
}
