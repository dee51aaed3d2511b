package netboot

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

// Real firmware in QEMU takes up to a minute a boot without KVM, so these tests
// run only when LPMOS_TEST_QEMU=1; LPMOS_TEST_KERNEL names a Linux kernel.
const (
	qemuEnv   = "LPMOS_TEST_QEMU"
	kernelEnv = "LPMOS_TEST_KERNEL"
)

const ovmf = "/usr/share/OVMF/"

// Firmware of arm64 machines: EDK2, and U-Boot, which is none of iPXE's nor of EDK2's.
const (
	aavmf = "/usr/share/AAVMF/"
	uboot = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
)

// diskStarts is OVMF's word for starting what is on the disk, by its slot.
const (
	diskStarts      = `BdsDxe: starting Boot[0-9A-F]+ "[^"]*" from PciRoot\(0x0\)/Pci\(0x4,0x0\)`
	diskStartsARM64 = `BdsDxe: starting Boot[0-9A-F]+ "[^"]*" from PciRoot\(0x0\)/Pci\(0x3,0x0\)`
)

// qemu is a machine with one network card and one disk.
type qemu struct {
	uefi   bool
	arm64  bool
	uboot  bool   // an arm64 machine with U-Boot
	secure bool   // Secure Boot with Microsoft's keys, as machines are sold
	http   bool   // the firmware boots over HTTP and not by PXE
	rom    bool   // keep QEMU's iPXE in the card; without it the firmware's own PXE asks
	card   string // QEMU's name of its model; virtio-net-pci when empty
	at     string // process of the host whose bridge br0 it hangs on; empty: the node's
	disk   string // raw image
	mac    string
}

func (w *wire) power(m qemu) (serial string, off func()) {
	w.t.Helper()
	dir := w.t.TempDir()
	serial = filepath.Join(dir, "serial.log")
	var there []string
	if m.at != "" {
		there = []string{"nsenter", "-t", m.at, "-n"}
	}
	run := func(args ...string) { w.t.Helper(); w.run(append(slices.Clip(there), args...)...) }
	run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
	run("ip", "link", "set", "tap0", "master", "br0", "up")
	card := cmp.Or(m.card, "virtio-net-pci") + ",netdev=n,bootindex=1,mac=" + m.mac
	if !m.rom {
		card += ",romfile="
	}
	code, keys, chipset := "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "q35"
	if m.secure {
		// The variables can be written in SMM alone, or anybody could switch it off.
		code, keys, chipset = "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd", "q35,smm=on"

	}
	program, cpu := "qemu-system-x86_64", "max"
	if m.arm64 {
		// "max" has pointer authentication, which costs an emulator half of its speed.
		program, cpu, chipset = "qemu-system-aarch64", "cortex-a57", "virt"
	}
	args := []string{
		"-machine", chipset, "-accel", "tcg,thread=multi", "-cpu", cpu, "-m", "512", "-display", "none", "-no-reboot",
		"-nographic", "-monitor", "none", "-serial", "file:" + serial,
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-device", card,
		"-object", "rng-random,filename=/dev/urandom,id=r", "-device", "virtio-rng-pci,rng=r",
		"-drive", "if=none,id=d,format=raw,file=" + m.disk, "-device", "virtio-blk-pci,drive=d,bootindex=2",
	}
	if m.uboot {
		if _, err := os.Stat(uboot); err != nil {
			w.t.Skip(err)
		}
		args = append(args, "-bios", uboot)
	}
	if m.uefi {
		code, keys := ovmf+code, ovmf+keys
		if m.arm64 {
			code, keys = aavmf+"AAVMF_CODE.fd", aavmf+"AAVMF_VARS.fd"
			if m.secure {
				keys = aavmf + "AAVMF_VARS.ms.fd"
			}
		}
		vars, err := os.ReadFile(keys)
		if err != nil {
			w.t.Skip(err)
		}
		own := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(own, vars, 0o600); err != nil {
			w.t.Fatal(err)
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+code, "-drive", "if=pflash,format=raw,file="+own,
			// Without it OVMF tries PXE over IPv6 between the card and the disk,
			// and waits 68 s for a DHCPv6 server that is not there.
			"-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
		if m.secure && !m.arm64 {
			args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
		}
		if m.http {
			args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
		}
	}
	args = append(append(slices.Clip(there), program), args...)
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	off = sync.OnceFunc(func() {
		cmd.Process.Kill()
		cmd.Wait()
		run("ip", "link", "del", "tap0")
	})
	w.t.Cleanup(func() {
		off()
		if w.t.Failed() {
			b, _ := os.ReadFile(serial)
			w.t.Logf("qemu: %s\nserial console:\n%s", out.String(), b)
		}
	})
	return serial, off
}

// biosDisk is a disk whose boot sector writes a word to the serial port.
func biosDisk(t *testing.T) string {
	sector := make([]byte, 1<<20)
	code := []byte{
		0x31, 0xc0, 0x8e, 0xd8, // ds = 0
		0xba, 0xf8, 0x03, // dx = the serial port
		0xbe, 0x15, 0x7c, // si = the text
		0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // write it to the NUL
		0xf4, 0xeb, 0xfd, // halt
	}
	copy(sector, append(code, "OWN DISK BOOTED\r\n\x00"...))
	sector[510], sector[511] = 0x55, 0xaa
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// uefiDisk is a disk with an EFI program to start: iPXE, because it is there, or shim,
// because it is signed, or there for arm64.
func uefiDisk(t *testing.T, m qemu) string {
	program, name := "/usr/lib/ipxe/ipxe.efi", "BOOTX64.EFI"
	assets := filepath.Dir(os.Getenv(kernelEnv))
	switch {
	case m.arm64:
		program, name = filepath.Join(assets, LoaderShimARM64), "BOOTAA64.EFI"
	case m.secure:
		program = filepath.Join(assets, LoaderShim)
	}
	path := filepath.Join(t.TempDir(), "disk.raw")
	for _, args := range [][]string{
		{"truncate", "-s", "64M", path},
		{"mkfs.vfat", "-F", "32", path},
		{"mmd", "-i", path, "::/EFI", "::/EFI/BOOT"},
		{"mcopy", "-i", path, program, "::/EFI/BOOT/" + name},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v %s", strings.Join(args, " "), err, out)
		}
	}
	return path
}

func realFiles(t *testing.T, more ...string) *Files {
	t.Helper()
	assets := filepath.Dir(os.Getenv(kernelEnv))
	fsys := fstest.MapFS{}
	for name, path := range map[string]string{
		LoaderBIOS: "/usr/lib/ipxe/undionly.kpxe", LoaderUEFI: "/usr/lib/ipxe/snponly.efi", LoaderUEFIAll: "/usr/lib/ipxe/ipxe.efi",
		LoaderShim: filepath.Join(assets, LoaderShim), LoaderGRUB: filepath.Join(assets, LoaderGRUB),
		FileKernel: os.Getenv(kernelEnv), FileInitrd: filepath.Join(assets, FileInitrd),
		LoaderShimARM64: filepath.Join(assets, LoaderShimARM64), LoaderGRUBARM64: filepath.Join(assets, LoaderGRUBARM64),
		FileKernelARM64 + packedSuffix: filepath.Join(assets, FileKernelARM64+packedSuffix), FileInitrdARM64: filepath.Join(assets, FileInitrdARM64),
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Skipf("%s: %v", name, err)
		}
		fsys[name] = &fstest.MapFile{Data: b}
	}
	moreFiles(t, fsys, more...)
	f, err := LoadFiles(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// agentSays is the agent's word that it drives the card it was booted through.
const agentSays = `network: \S+ has address 10\.7[79]\.0\.\d+`

func TestRealFirmware(t *testing.T) {
	if os.Getenv(qemuEnv) == "" {
		t.Skip("slow; set " + qemuEnv + "=1")
	}
	for _, c := range []struct {
		name    string
		machine qemu
		mode    Mode
		action  Action
		noRA    bool
		story   []string // sightings, in this order
		serial  string
	}{
		{"bios with iPXE in ROM starts the agent", qemu{rom: true}, ModeDHCP, BootAgent, false,
			[]string{"was told to start the agent", "fetches vmlinuz", "fetches initrd"}, agentSays},
		{"bios with iPXE in ROM boots its disk", qemu{rom: true}, ModeDHCP, BootLocal, false,
			[]string{"was told to boot its own disk"}, "OWN DISK BOOTED"},
		{"uefi over TFTP starts the agent", qemu{uefi: true}, ModeDHCP, BootAgent, false,
			[]string{"boot file snponly.efi", "fetched snponly.efi over TFTP", "was told to start the agent", "fetches vmlinuz", "fetches initrd"}, agentSays},
		{"uefi over TFTP boots its disk", qemu{uefi: true}, ModeDHCP, BootLocal, false,
			[]string{"fetched snponly.efi over TFTP", "was told to boot its own disk"}, diskStarts},
		{"uefi with iPXE in ROM starts the agent", qemu{uefi: true, rom: true}, ModeDHCP, BootAgent, false,
			[]string{"was told to start the agent", "fetches vmlinuz", "fetches initrd"}, agentSays},
		{"uefi with iPXE in ROM boots its disk", qemu{uefi: true, rom: true}, ModeDHCP, BootLocal, false,
			[]string{"was told to boot its own disk"}, diskStarts},
		{"uefi without router advertisement", qemu{uefi: true}, ModeDHCP, BootAgent, true,
			[]string{"fetched snponly.efi over TFTP", "was told to start the agent"}, ""},
		{"uefi over HTTP starts the agent", qemu{uefi: true, http: true}, ModeDHCP, BootAgent, false,
			[]string{"HTTP boot firmware", "boot file http", "fetches snponly.efi", "was told to start the agent", "fetches vmlinuz", "fetches initrd"}, agentSays},
		{"secure boot starts the agent", qemu{uefi: true, secure: true}, ModeDHCP, BootAgent, false,
			[]string{"fetched snponly.efi over TFTP", "does Secure Boot refuse it?", "fetched shimx64.efi over TFTP", "fetched grubx64.efi over TFTP", "was told to start the agent", "fetched vmlinuz over TFTP", "fetched initrd over TFTP"}, agentSays},
		{"secure boot waits where it is held", qemu{uefi: true, secure: true}, ModeDHCP, BootHold, false,
			[]string{"fetched grubx64.efi over TFTP", "was told to wait", "was told to wait"}, "LPMOS: HELD"},
		{"secure boot boots its disk", qemu{uefi: true, secure: true}, ModeDHCP, BootLocal, false,
			[]string{"fetched snponly.efi over TFTP", "does Secure Boot refuse it?", "PXE firmware, was lent 10.77.0.100 and the boot file none.efi"}, diskStarts},
		{"an e1000 under bios starts the agent", qemu{rom: true, card: "e1000"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"an e1000e under bios starts the agent", qemu{rom: true, card: "e1000e"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"an rtl8139 under bios starts the agent", qemu{rom: true, card: "rtl8139"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"a vmxnet3 under bios starts the agent", qemu{rom: true, card: "vmxnet3"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"an e1000 under uefi starts the agent", qemu{uefi: true, rom: true, card: "e1000"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"an e1000e under uefi starts the agent", qemu{uefi: true, rom: true, card: "e1000e"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"an rtl8139 under uefi starts the agent", qemu{uefi: true, rom: true, card: "rtl8139"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"a vmxnet3 under uefi starts the agent", qemu{uefi: true, rom: true, card: "vmxnet3"}, ModeDHCP, BootAgent, false, []string{"was told to start the agent"}, agentSays},
		{"bios beside dnsmasq", qemu{rom: true}, ModeProxy, BootAgent, false,
			[]string{"was told to start the agent", "fetches initrd"}, agentSays},
		{"uefi beside dnsmasq", qemu{uefi: true}, ModeProxy, BootAgent, false,
			[]string{"fetched snponly.efi over TFTP", "was told to start the agent", "fetches initrd"}, agentSays},
		{"bios behind a relay", qemu{rom: true}, ModeDHCP, BootAgent, false,
			[]string{"was lent 10.79.0.100", "was told to start the agent", "fetches initrd"}, agentSays},
		{"uefi behind a relay", qemu{uefi: true}, ModeDHCP, BootAgent, false,
			[]string{"was lent 10.79.0.100", "fetched snponly.efi over TFTP", "was told to start the agent", "fetches initrd"}, agentSays},
		{"bios beside Kea", qemu{rom: true}, ModeProxy, BootAgent, false,
			[]string{"was told to start the agent", "fetches initrd"}, agentSays},
		{"uefi beside Kea", qemu{uefi: true}, ModeProxy, BootAgent, false,
			[]string{"fetched snponly.efi over TFTP", "was told to start the agent", "fetches initrd"}, agentSays},
		{"arm64 starts the agent", qemu{uefi: true, arm64: true}, ModeDHCP, BootAgent, false,
			[]string{"boot file grubaa64.efi", "fetched grubaa64.efi over TFTP", "was told to start the agent", "fetched vmlinuz-arm64 over TFTP", "fetched initrd-arm64 over TFTP"}, agentSays},
		{"arm64 under secure boot starts the agent", qemu{uefi: true, arm64: true, secure: true}, ModeDHCP, BootAgent, false,
			[]string{"fetched grubaa64.efi over TFTP", "does Secure Boot refuse it?", "fetched shimaa64.efi over TFTP", "fetched grubaa64.efi over TFTP", "was told to start the agent", "fetched vmlinuz-arm64 over TFTP", "fetched initrd-arm64 over TFTP"}, agentSays},
		{"arm64 waits where it is held", qemu{uefi: true, arm64: true}, ModeDHCP, BootHold, false,
			[]string{"fetched grubaa64.efi over TFTP", "was told to wait"}, "LPMOS: HELD"},
		{"arm64 boots its disk", qemu{uefi: true, arm64: true}, ModeDHCP, BootLocal, false,
			// After PXE its order has HTTP boot, which there is nothing for either.
			[]string{"PXE firmware, was lent 10.77.0.100 and the boot file none.efi", "HTTP boot firmware, was lent 10.77.0.100 and the boot file http://10.77.0.1/boot/none.efi"}, diskStartsARM64},
		{"arm64 beside dnsmasq that names this node", qemu{uefi: true, arm64: true}, ModeProxy, BootAgent, false,
			[]string{"fetched grubaa64.efi over TFTP", "was told to start the agent", "fetched initrd-arm64 over TFTP"}, agentSays},
		{"U-Boot starts the agent", qemu{arm64: true, uboot: true}, ModeDHCP, BootAgent, false,
			[]string{"fetched grubaa64.efi over TFTP", "was told to start the agent", "fetched vmlinuz-arm64 over TFTP", "fetched initrd-arm64 over TFTP"}, agentSays},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			s := newSetup(t, c.mode)
			if strings.HasSuffix(c.name, "relay") {
				s = newSetupOf(t, c.mode, []string{"10.77.0.1/24"}, behind)
			}
			s.cfg.Files = realFiles(t)
			s.cfg.NoRouterAdverts = c.noRA
			s.cfg.Pin = strings.Repeat("ab", 32) // or the agent stops before it has an address
			s.cfg.Now = time.Now
			s.fleet.boots(macA, Decision{Action: c.action, Reason: "the test says so"})
			w.start(s)
			switch {
			case strings.HasSuffix(c.name, "relay"):
				r := w.router("10.77.0.3/24")
				for _, args := range []string{"link add br0 type bridge stp_state 0 forward_delay 0", "address add 10.79.0.1/24 dev br0", "link set br0 up"} {
					w.run(append([]string{"nsenter", "-t", r, "-n", "ip"}, strings.Fields(args)...)...)
				}
				w.relay(r, "br0")
				c.machine.at = r
			case strings.HasSuffix(c.name, "Kea"):
				startKea(t, w)
			case strings.HasSuffix(c.name, "names this node"):
				// GRUB asks for its files where the server of its address says (siaddr).
				startDnsmasq(t, w, "dnsmasq", "--dhcp-boot=,,10.77.0.1")
			case c.mode == ModeProxy:
				startDnsmasq(t, w, "dnsmasq")
			}
			c.machine.mac, c.machine.disk = macA, biosDisk(t)
			if c.machine.uefi {
				c.machine.disk = uefiDisk(t, c.machine)
			}
			mac := macA
			if c.machine.uboot {
				mac = "52:52:52:52:52:52" // the emulated board's own, whatever card it has
				c.machine.mac = mac
				s.fleet.boots(mac, Decision{Action: c.action, Reason: "the test says so"})
			}
			begin := time.Now()
			console, off := w.power(c.machine)
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
			defer cancel()
			if c.machine.secure {
				// The firmware refuses iPXE and looks for nothing more; the next time it is
				// given what it starts.
				if err := eventually(ctx, func() error { return consoleSays(console, "Boot.*PXE.*Access Denied") }); err != nil {
					t.Fatal(err)
				}
				off()
				console, _ = w.power(c.machine)
			}
			err := eventually(ctx, func() error {
				rest := s.Sightings().Of(mac)
				for _, want := range c.story {
					i := 0
					for i < len(rest) && !strings.Contains(rest[i].Text, want) {
						i++
					}
					if i == len(rest) {
						return fmt.Errorf("not seen: %q", want)
					}
					rest = rest[i+1:]
				}
				return consoleSays(console, c.serial)
			})
			for _, sg := range s.Sightings().Of(mac) {
				t.Logf("%7.3f s  %s", sg.At.Sub(begin).Seconds(), sg.Text)
			}
			t.Logf("%7.3f s  done; %v", time.Since(begin).Seconds(), s.Stats())
			if err != nil {
				t.Error(err)
			}
			if c.machine.uefi && !c.machine.rom && !c.machine.http && !c.machine.arm64 {
				ovmfWindow(t, s)
			}
		})
	}
}

func consoleSays(console, pattern string) error {
	b, err := os.ReadFile(console)
	if err == nil && !regexp.MustCompile(pattern).Match(b) {
		return fmt.Errorf("not on the console: %q", pattern)
	}
	return err
}

// ovmfWindow wants to have seen OVMF fetch its loader in the windows it asks for (RFC 7440).
func ovmfWindow(t *testing.T, s *setup) {
	t.Helper()
	for _, sg := range s.Sightings().Of(macA) {
		if how := sg.TFTP; how != nil && how.File == LoaderUEFI && how.End == TFTPSent && how.Window == 4 && how.Block == tftpBlock {
			return
		}
	}
	t.Error("OVMF has not fetched its loader in windows of 4 blocks")
}

// A node that dies while it sends the kernel or the initramfs costs a machine that much
// time and no more: iPXE goes on to the next node.
func TestRealFirmwareGoesOnToAnotherNode(t *testing.T) {
	if os.Getenv(qemuEnv) == "" {
		t.Skip("slow; set " + qemuEnv + "=1")
	}
	for _, file := range []string{FileKernel, FileInitrd} {
		t.Run(file, func(t *testing.T) {
			w := newWire(t)
			in := testInterface(ModeDHCP)
			s := newSetupAt(t, in, "10.77.0.1/24", &beside{self: "a", alive: []string{"a"}, urls: []string{"https://10.77.0.2:80"},
				share: Share{Blocks: []Block{{Range: in.Range}}, Heard: time.Now()}})
			s.cfg.Files = realFiles(t)
			s.cfg.Now = time.Now
			s.cfg.Pin = strings.Repeat("ab", 32)
			s.fleet.boots(macA, Decision{Action: BootAgent, Reason: "the test says so"})
			s.web = func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/"+file) {
						w.Header().Set("Content-Length", "5000000")
						w.Write(make([]byte, 1000000))
						panic(http.ErrAbortHandler)
					}
					h.ServeHTTP(w, r)
				})
			}
			w.start(s)
			w.second("n2", "10.77.0.2/24")
			ln, err := net.Listen("tcp", "10.77.0.2:80")
			if err != nil {
				t.Fatal(err)
			}
			next := &http.Server{Handler: s.Handler()}
			go next.Serve(ln)
			t.Cleanup(func() { next.Close() })
			console, _ := w.power(qemu{rom: true, mac: macA, disk: biosDisk(t)})
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
			defer cancel()
			for _, want := range []string{"trying the node at 10.77.0.2", agentSays} {
				if err := eventually(ctx, func() error { return consoleSays(console, want) }); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestRealFirmwareFromASinglePort(t *testing.T) {
	if os.Getenv(qemuEnv) == "" {
		t.Skip("slow; set " + qemuEnv + "=1")
	}
	w := newWire(t)
	s := newSetup(t, ModeDHCP)
	s.cfg.Files = realFiles(t)
	s.cfg.Now = time.Now
	s.cfg.TFTPSinglePort = true
	w.start(s)
	w.power(qemu{uefi: true, mac: macA, disk: uefiDisk(t, qemu{})})
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Second)
	defer cancel()
	if err := eventually(ctx, func() error {
		if s.Stats()["tftp.sent"] == 0 {
			return fmt.Errorf("nothing was fetched: %v", s.Stats())
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	ovmfWindow(t, s)
}

// What real firmware does when it stops is what the rules were made from.
func TestRealFirmwareStalls(t *testing.T) {
	if os.Getenv(qemuEnv) == "" {
		t.Skip("slow; set " + qemuEnv + "=1")
	}
	for _, c := range []struct {
		name    string
		machine qemu
		id      string
	}{
		{"Secure Boot refuses the loader", qemu{uefi: true, secure: true}, "loader-silent"},
		{"an agent that no node answers", qemu{uefi: true}, "agent-never-spoke"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWire(t)
			s := newSetup(t, ModeDHCP)
			s.cfg.Files = realFiles(t)
			s.cfg.Now = time.Now
			s.fleet.boots(macA, Decision{Action: BootAgent, Reason: "the test says so"})
			w.start(s)
			c.machine.mac, c.machine.disk = macA, uefiDisk(t, c.machine)
			w.power(c.machine)
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Second)
			defer cancel()
			err := eventually(ctx, func() error {
				if stall, ok := s.Sightings().Stall(macA); !ok || stall.ID != c.id {
					return fmt.Errorf("named %q", stall.ID)
				}
				return nil
			})
			for _, sg := range s.Sightings().Of(macA) {
				t.Logf("%s  %s", sg.At.Format("05.000"), sg.Text)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// eventually waits until cond holds.
func eventually(ctx context.Context, cond func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}
