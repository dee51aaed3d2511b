package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/netboot"
	"github.com/lpmos/lpmos/netboot/pxeclient"
	"github.com/vishvananda/netlink"
)

// The self-test boots a machine that is not there, off a node that is not there
// either, with the code and the files of this binary. Both are processes of it, each
// in a network namespace of its own with one end of a cable between them:
//
//	this process                 waits for the answer
//	  self-test node             DHCP, TFTP and HTTP at 192.0.2.1
//	    self-test machine        firmware in Go (pxeclient), BIOS and then UEFI
//
// Two processes, since DHCP, TFTP and HTTP make sockets on whatever thread they are
// on, and a namespace is a thread's. Nothing of the host's network is in them.

const (
	selfTestTime = 30 * time.Second
	nodeEnd      = "lpmos0"
	machineEnd   = "lpmos1"
)

// TEST-NET-1 (RFC 5737): it is nobody's.
var (
	selfNetwork = netip.MustParsePrefix("192.0.2.1/24")
	selfRange   = netboot.Range{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199")}
)

// selfTested is what the self-test says on its standard output.
type selfTested struct {
	Broken string            `json:"broken,omitempty"` // it could not be made, through no fault of the node
	Boots  map[string]string `json:"boots,omitempty"`  // by shape: how it went
	Faults map[string]string `json:"faults,omitempty"` // by shape: where it ended
}

// selfTest starts it and waits. inner are the arguments with which this program is
// one of its processes.
func selfTest(ctx context.Context, inner []string) selfTested {
	if len(inner) == 0 {
		return selfTested{Broken: "nobody asked for it"}
	}
	if os.Geteuid() != 0 {
		return selfTested{Broken: "only root may make a network for it"}
	}
	dir, err := os.MkdirTemp("", "lpmos-doctor-") // for its leases
	if err != nil {
		return selfTested{Broken: err.Error()}
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, selfTestTime)
	defer cancel()
	var out, said bytes.Buffer
	cmd := innerCommand(ctx, append(inner, "node", dir))
	cmd.Stdout, cmd.Stderr = &out, &said
	err = runAndWait(cmd)
	var t selfTested
	if json.Unmarshal(out.Bytes(), &t) == nil {
		return t
	}
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EINVAL):
		return selfTested{Broken: "this host lets nobody make a network of its own: " + err.Error()}
	case ctx.Err() != nil:
		return selfTested{Broken: fmt.Sprintf("it did not end within %s", selfTestTime)}
	}
	return selfTested{Broken: strings.TrimSpace(fmt.Sprintf("it ended with %v: %s", err, lastLine(said.String())))}
}

// innerCommand is this program again, in a network namespace of its own.
func innerCommand(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0] // what the tests' binary knows itself by
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// runAndWait keeps the thread that started the child until it has ended: when that
// thread ends the child is killed.
func runAndWait(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

// SelfTest is the body of the processes of a self-test; args are what selfTest and
// itself call it with.
func SelfTest(ctx context.Context, inner, args []string, files fs.FS, stdin io.Reader, stdout io.Writer) error {
	// Links are made and addresses given: never where who called this has its own.
	if lo, err := netlink.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp != 0 {
		return errors.Join(errors.New("this command is for lpmos doctor alone, which runs it in a network that is new"), err)
	}
	switch {
	case len(args) == 2 && args[0] == "node":
		return selfNode(ctx, inner, args[1], files, stdout)
	case len(args) == 1 && args[0] == "machine":
		return selfMachine(ctx, files, stdin, stdout)
	}
	return errors.New("this command is for lpmos doctor alone")
}

// selfNode builds the cable, serves its end, and lets the machine boot at the other.
func selfNode(ctx context.Context, inner []string, dir string, files fs.FS, stdout io.Writer) error {
	broken := func(err error) error { return json.NewEncoder(stdout).Encode(selfTested{Broken: err.Error()}) }
	machine := innerCommand(ctx, append(inner, "machine"))
	machine.Stdout, machine.Stderr = stdout, os.Stderr
	begin, err := machine.StdinPipe()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the machine lives as long as this thread does
	if err := machine.Start(); err != nil {
		return broken(fmt.Errorf("a second network: %w", err))
	}
	defer machine.Process.Kill() //nolint:errcheck // it has ended, if all went well
	if err := cable(machine.Process.Pid); err != nil {
		return broken(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed, err := serveSelf(ctx, dir, files)
	if err != nil {
		return broken(err)
	}
	if err := begin.Close(); err != nil { // the machine begins
		return broken(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- machine.Wait() }()
	select {
	case err := <-ended:
		return err
	case err := <-failed:
		return broken(fmt.Errorf("the node: %w", err))
	}
}

// cable lays one from here to the namespace of a process.
func cable(pid int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = nodeEnd
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: machineEnd, PeerNamespace: netlink.NsPid(pid)})
	if err != nil {
		return fmt.Errorf("make a cable (veth): %w", err)
	}
	return linkUp(nodeEnd, selfNetwork)
}

// linkUp gives a link an address, if it is to have one, and lets it run; lo with it.
func linkUp(name string, address netip.Prefix) error {
	for _, n := range []string{"lo", name} {
		l, err := netlink.LinkByName(n)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("set %s up: %w", n, err)
		}
	}
	if !address.IsValid() {
		return nil
	}
	return addAddress(name, address)
}

func addAddress(name string, address netip.Prefix) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.AddrReplace(l, &netlink.Addr{IPNet: &net.IPNet{IP: address.Addr().AsSlice(), Mask: net.CIDRMask(address.Bits(), 32)}})
	}
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", name, address, err)
	}
	return nil
}

// serveSelf serves the near end, as a node does that knows no machine.
func serveSelf(ctx context.Context, dir string, files fs.FS) (failed <-chan error, err error) {
	loaded, err := netboot.LoadFiles(files)
	if err != nil {
		return nil, err
	}
	var key [32]byte
	rand.Read(key[:]) //nolint:errcheck // never fails
	boot, err := netboot.New(netboot.Config{
		Interfaces: []netboot.Interface{{Name: nodeEnd, Mode: netboot.ModeDHCP, Range: selfRange}},
		DataDir:    dir, BootPort: 80, Files: loaded, Fleet: emptyFleet{}, Log: slog.New(slog.DiscardHandler),
		Pin: "selftest", Claim: func(string, netip.Addr) (string, error) { return "selftest", nil }, PathKey: key,
	})
	if err != nil {
		return nil, err
	}
	web, err := net.Listen("tcp4", netip.AddrPortFrom(selfNetwork.Addr(), 80).String())
	if err != nil {
		return nil, errors.Join(err, boot.Close())
	}
	ends := make(chan error, 2)
	go func() { ends <- boot.Run(ctx) }()
	go func() { ends <- (&http.Server{Handler: boot.Handler(), ReadHeaderTimeout: time.Second}).Serve(web) }()
	select {
	case <-boot.Ready():
		return ends, nil
	case err := <-ends:
		return nil, err
	}
}

// emptyFleet knows no machine: all are looked at by the agent.
type emptyFleet struct{}

func (emptyFleet) Decide(context.Context, netboot.Machine) netboot.Decision {
	return netboot.Decision{Action: netboot.BootAgent, Reason: "this is a self-test"}
}
func (emptyFleet) BootServed(context.Context, netboot.Machine, netboot.Decision) error { return nil }
func (emptyFleet) Address(string) (netip.Addr, bool)                                   { return netip.Addr{}, false }
func (emptyFleet) Taken(netip.Addr) bool                                               { return false }

// selfMachine boots, once as each firmware, when its standard input ends.
func selfMachine(ctx context.Context, files fs.FS, stdin io.Reader, stdout io.Writer) error {
	if _, err := io.Copy(io.Discard, stdin); err != nil {
		return err
	}
	t := selfTested{Boots: map[string]string{}, Faults: map[string]string{}}
	if err := linkUp(machineEnd, netip.Prefix{}); err != nil {
		t.Broken = err.Error()
		return json.NewEncoder(stdout).Encode(t)
	}
	for i, shape := range []pxeclient.Shape{pxeclient.BIOS, pxeclient.UEFI} {
		how, err := selfBoot(ctx, shape, byte(i), files)
		if err != nil {
			t.Faults[string(shape)] = err.Error()
			continue
		}
		t.Boots[string(shape)] = how
	}
	return json.NewEncoder(stdout).Encode(t)
}

// selfBoot goes from power-on to a kernel that is the one in this binary.
func selfBoot(ctx context.Context, shape pxeclient.Shape, last byte, files fs.FS) (string, error) {
	wire, err := pxeclient.OpenWire(ctx, machineEnd, func(_ context.Context, p netip.Prefix) error { return addAddress(machineEnd, p) })
	if err != nil {
		return "", err
	}
	defer wire.Close()
	link := wire.Client()
	defer link.Close()
	began := time.Now()
	c := pxeclient.Client{Shape: shape, MAC: net.HardwareAddr{2, 0, 0, 0, 0, last}, UUID: [16]byte{15: last + 1}, Net: link,
		Timeout: 200 * time.Millisecond, Retries: 30} // a cable that was just plugged in loses the first packet
	got, err := c.Boot(ctx)
	if err != nil {
		return "", err
	}
	if got.Outcome != pxeclient.Kernel {
		return "", fmt.Errorf("the script ended with %s, not with the agent's kernel", got.Outcome)
	}
	for _, f := range []struct {
		name string
		have []byte
	}{{got.Firmware.File, got.NBP}, {netboot.FileKernel, got.Kernel}, {netboot.FileInitrd, got.Initrd}} {
		want, err := fs.ReadFile(files, f.name)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(f.have, want) {
			return "", fmt.Errorf("%s came with %d bytes that are not those of the file", f.name, len(f.have))
		}
	}
	return fmt.Sprintf("was lent %s, took %s (%d bytes) over TFTP, then the script, %s (%d bytes) and %s over HTTP, in %.1f s",
		got.Loader.Addr.Addr(), got.Firmware.File, len(got.NBP), netboot.FileKernel, len(got.Kernel), netboot.FileInitrd, time.Since(began).Seconds()), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
