package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The machines of the boot part have a wire of their own.
const (
	bootDevice  = "m0"
	bootAddress = "10.97.0.1"
	bootFirst   = "10.97.0.100"
	bootLast    = "10.97.0.199"
	bootCard    = "52:54:00:0b:00:07"
	bootAssets  = "images/bootimage/assets"
	ovmfCode    = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars    = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// bootLimit is how long one boot may take.
const bootLimit = 3 * time.Minute

// agentRuns is what the agent says when it drives the card it was booted through.
var agentRuns = regexp.MustCompile(`network: \S+ has address 10\.97\.0\.\d+`)

// bootServer is what machines boot off: one program or two.
type bootServer struct {
	name  string
	parts []server
}

// bootServers are the servers of the same files.
func bootServers(dir string, o options) ([]bootServer, error) {
	node, err := filepath.Abs(o.node)
	if err != nil {
		return nil, err
	}
	files := filepath.Join(dir, "files")
	nginxDir := filepath.Join(dir, "nginx")
	if err := errors.Join(os.Mkdir(files, 0o755), os.Mkdir(nginxDir, 0o755)); err != nil {
		return nil, err
	}
	for _, name := range []string{"undionly.kpxe", "snponly.efi", "vmlinuz", "initrd"} {
		b, err := os.ReadFile(filepath.Join(bootAssets, name))
		if err != nil {
			return nil, fmt.Errorf("%w: make boot-image", err)
		}
		if err := os.WriteFile(filepath.Join(files, name), b, 0o644); err != nil {
			return nil, err
		}
	}
	script := fmt.Sprintf("#!ipxe\nkernel http://%[1]s/boot/vmlinuz initrd=initrd console=tty0 console=ttyS0,115200 lpmos.node=https://%[1]s:80 lpmos.mac=${net0/mac} lpmos.time=%[2]d lpmos.pin=%[3]s lpmos.claim=none\n"+
		"initrd --name initrd http://%[1]s/boot/initrd\nboot\n", bootAddress, time.Now().Unix(), strings.Repeat("ab", 32))
	if err := os.WriteFile(filepath.Join(files, "boot.ipxe"), []byte(script), 0o644); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, nginxConfig(nginxDir, bootAddress, files), 0o644); err != nil {
		return nil, err
	}
	web := nginx(nginxDir, conf, o)
	if web.missing != "" {
		return nil, errors.New(web.missing)
	}
	all := []bootServer{
		{"lpmos", []server{{name: "lpmos", command: []string{node, "up", "--data-dir", filepath.Join(dir, "data"), "--log-level", "warn",
			"--interface", bootDevice + ",mode=dhcp,range=" + bootFirst + "-" + bootLast}}}},
		{"dnsmasq", []server{
			{name: "dnsmasq", command: []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=" + bootDevice, "--bind-interfaces",
				"--dhcp-range=" + bootFirst + "," + bootLast + ",255.255.255.0,1h", "--no-ping", "--dhcp-authoritative", "--dhcp-leasefile=" + filepath.Join(dir, "dnsmasq.leases"),
				"--user=root", "--pid-file", "--log-facility=/dev/null", "--enable-tftp", "--tftp-root=" + files,
				"--dhcp-match=set:ipxe,175", "--dhcp-match=set:efi,option:client-arch,7", "--dhcp-match=set:efi,option:client-arch,9",
				"--dhcp-boot=tag:ipxe,http://" + bootAddress + "/boot/boot.ipxe", "--dhcp-boot=tag:!ipxe,tag:efi,snponly.efi", "--dhcp-boot=tag:!ipxe,tag:!efi,undionly.kpxe"}},
			web,
		}},
	}
	for _, pkg := range [][2]string{{"qemu-system-x86_64", "qemu-system-x86"}, {"dnsmasq", "dnsmasq-base"}} {
		if _, err := exec.LookPath(pkg[0]); err != nil {
			return nil, fmt.Errorf("%s is not installed: apt install %s", pkg[0], pkg[1])
		}
	}
	return all, nil
}

// bootTimes are when a machine had come how far, from its power-on.
type bootTimes struct {
	kernel time.Duration // the first word of the kernel
	agent  time.Duration // see agentRuns
}

// benchBoot measures from power-on to the agent, off a node and off dnsmasq, in turn.
func benchBoot(_ *wire, o options) error {
	dir, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := runAll(
		"ip link add "+bootDevice+" type bridge stp_state 0 forward_delay 0",
		"ip address add "+bootAddress+"/24 dev "+bootDevice,
		"ip link set "+bootDevice+" up"); err != nil {
		return err
	}
	servers, err := bootServers(dir, o)
	if err != nil {
		return err
	}
	fmt.Printf("\nBoot in QEMU without KVM, power-on to the agent, %d each in turn; the same loaders, and kernel and initramfs over HTTP (dnsmasq's: nginx)\n%-6s %-10s %10s %10s %10s %10s %10s %10s\n",
		o.boots, "", "server", "kernel s", "agent s", "fastest", "slowest", "x lpmos", "others %")
	for _, uefi := range []bool{false, true} {
		times := map[string][]bootTimes{}
		busyBy := map[string]float64{}
		for range o.boots {
			for _, s := range servers {
				t, others, err := bootOnce(s, dir, uefi)
				if err != nil {
					return fmt.Errorf("%s, uefi %v: %w", s.name, uefi, err)
				}
				times[s.name] = append(times[s.name], t)
				busyBy[s.name] += others / float64(o.boots)
			}
		}
		var ours time.Duration
		for _, s := range servers {
			all := times[s.name]
			slices.SortFunc(all, func(a, b bootTimes) int { return cmp.Compare(a.agent, b.agent) })
			mid := all[len(all)/2]
			if ours == 0 {
				ours = mid.agent
			}
			fmt.Printf("%-6s %-10s %10.1f %10.1f %10.1f %10.1f %10.2f %10.1f\n", map[bool]string{false: "bios", true: "uefi"}[uefi], s.name, mid.kernel.Seconds(), mid.agent.Seconds(),
				all[0].agent.Seconds(), all[len(all)-1].agent.Seconds(), mid.agent.Seconds()/ours.Seconds(), busyBy[s.name]*100)
		}
	}
	return nil
}

// bootOnce starts a server that knows no machine, powers one on, and waits for its agent.
func bootOnce(s bootServer, dir string, uefi bool) (t bootTimes, others float64, err error) {
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "data")), os.RemoveAll(filepath.Join(dir, "dnsmasq.leases")), os.Mkdir(filepath.Join(dir, "data"), 0o755)); err != nil {
		return t, 0, err
	}
	var used []func() (time.Duration, int64)
	for _, p := range s.parts {
		cmd, err := p.start()
		if err != nil {
			return t, 0, err
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		used = append(used, watch(cmd.Process.Pid))
	}
	// A node looks for other servers for two seconds before it lends anything: it runs
	// for long before the machines do.
	time.Sleep(5 * time.Second)
	serial := filepath.Join(dir, "serial")
	if err := os.RemoveAll(serial); err != nil {
		return t, 0, err
	}
	if err := runAll("ip tuntap add dev tap0 mode tap", "ip link set tap0 master "+bootDevice+" up"); err != nil {
		return t, 0, err
	}
	defer runAll("ip link del tap0")
	card := "virtio-net-pci,netdev=n,bootindex=1,mac=" + bootCard
	args := []string{"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "512", "-display", "none", "-nographic", "-no-reboot", "-monitor", "none", "-serial", "file:" + serial,
		"-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no", "-object", "rng-random,filename=/dev/urandom,id=r", "-device", "virtio-rng-pci,rng=r"}
	if uefi {
		vars, err := os.ReadFile(ovmfVars)
		if err != nil {
			return t, 0, err
		}
		mine := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(mine, vars, 0o600); err != nil {
			return t, 0, err
		}
		card += ",romfile=" // or the iPXE in QEMU's card would ask in place of the firmware
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+ovmfCode, "-drive", "if=pflash,format=raw,file="+mine, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	machine := exec.Command("qemu-system-x86_64", append(args, "-device", card)...)
	var said bytes.Buffer
	machine.Stdout, machine.Stderr = &said, &said
	machine.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	before, begin := busy(), time.Now()
	if err := machine.Start(); err != nil {
		return t, 0, err
	}
	for t.agent == 0 && time.Since(begin) < bootLimit {
		time.Sleep(20 * time.Millisecond)
		b, _ := os.ReadFile(serial) // it is not there at first
		now := time.Since(begin)
		if t.kernel == 0 && bytes.Contains(b, []byte("Linux version ")) {
			t.kernel = now
		}
		if agentRuns.Match(b) {
			t.agent = now
		}
	}
	after := busy()
	machine.Process.Kill()
	machine.Wait()
	if t.agent == 0 {
		b, _ := os.ReadFile(serial)
		return t, 0, fmt.Errorf("the agent did not run within %v: %s: %s", bootLimit, said.String(), b[max(0, len(b)-2000):])
	}
	own := machine.ProcessState.UserTime() + machine.ProcessState.SystemTime()
	for _, stop := range used {
		cpu, _ := stop()
		own += cpu
	}
	return t, max(0, float64(after.used-before.used-own)/float64(after.whole-before.whole)), nil
}
