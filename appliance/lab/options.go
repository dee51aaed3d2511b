package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The rack's network. It is private to the namespace, so it may be the same in
// every rack on a host.
const (
	bridgeName = "rack0"
	// NodeRange are the addresses the nodes give in mode dhcp.
	NodeRange = "10.77.0.100-10.77.0.199"
	// fleetRange are those of a rack for a simulated fleet, where all of 10.77 is one
	// network. The three nodes of a cluster cut it up: there is room for a thousand
	// machines at each of them.
	fleetRange = "10.77.64.0-10.77.127.255"
	// fleetNetwork is that range as a network.
	fleetNetwork = "10.77.64.0/18"
	// fleetPrefix is the address of the fleet's own card.
	fleetPrefix = "10.77.255.254/16"
	// clusterPort is where nodes meet each other.
	clusterPort = 4747
	// maxNodes is as many as can vote.
	maxNodes = 5
	// maxMachines keeps names, MACs and addresses (100 in the nodes' range,
	// 50 in dnsmasq's) in step.
	maxMachines = 50
)

// Options describe a rack. The zero value of every field but Dir is useful.
type Options struct {
	Dir      string    // home of the rack; made when missing, refused when it holds other things
	Reset    bool      // throw away disks, logs and node data of an earlier rack in Dir
	Binary   string    // the lpmos binary, run as "lab inner" and as "up"; default this executable
	Listen   string    // the first dashboard's address on the host, the others have the ports after it; default 127.0.0.1:8080, port 0 picks each
	Out      io.Writer // one plain line an event, with elapsed seconds; default discards
	StartOff bool      // leave the machines without power; Client.PowerOn starts them

	Nodes   int      // 1 to 5, one cluster; default 1
	Regions []string // where they stand, dealt out in turn; default dc1

	// Simulated is a rack without machines, on a network with room for thousands:
	// Client.Simulate plays them. It needs no QEMU.
	Simulated bool

	Machines  int      // 1 to 50; default 1
	Firmware  []string // "bios", "uefi", dealt out in turn; default bios
	NativePXE bool     // UEFI machines use OVMF's own PXE (TFTP), not the iPXE in the card's ROM
	MemoryMB  int      // default 1024
	CPUs      int      // default 2
	NIC       string   // "virtio", "e1000" or "e1000e"; default virtio
	BMC       bool     // give every machine a simulated IPMI BMC on a KCS port
	RTC       string   // the machines' clock at power-on as QEMU's -rtc base takes it, such as 1970-01-01; default now

	Disks     int    // per machine, default 1; at most 8, on ahci 6
	DiskBytes int64  // size of each, sparse; default 8 GiB
	DiskBus   string // "virtio", "nvme", "ahci" or "scsi"; default virtio

	ExternalDHCP bool           // a real dnsmasq gives the addresses and the nodes run in mode proxy
	NodeConfig   map[string]any // further keys of every node's configuration; they win over the rack's own
	NoRestart    bool           // leave a node dead when it dies by itself

	Kernel string // a Linux kernel's file to try KVM with; without one the machines are emulated (TCG)
}

// withDefaults returns o with every unset field filled in, or an error that
// names the field which cannot be used.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("the rack needs a directory")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("rack directory: %w", err)
	}
	o.Dir = dir
	// sun_path holds 108 bytes, and a longer name fails with a bare EINVAL.
	if n := len(socketPath(dir)); n > 107 {
		return o, fmt.Errorf("rack directory %s: name too long for a control socket, use one shorter by %d characters", dir, n-107)
	}
	// QEMU's option parser reads a comma as the end of a value.
	if strings.ContainsRune(dir, ',') {
		return o, fmt.Errorf("rack directory %s: QEMU cannot take a name with a comma in it", dir)
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return o, fmt.Errorf("find the running program: %w", err)
		}
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	setDefault(&o.Listen, "127.0.0.1:8080")
	setDefault(&o.Nodes, 1)
	if !o.Simulated {
		setDefault(&o.Machines, 1)
	}
	setDefault(&o.MemoryMB, 1024)
	setDefault(&o.CPUs, 2)
	setDefault(&o.NIC, "virtio")
	setDefault(&o.Disks, 1)
	setDefault(&o.DiskBytes, 8<<30)
	setDefault(&o.DiskBus, "virtio")
	if len(o.Firmware) == 0 {
		o.Firmware = []string{"bios"}
	}
	if len(o.Regions) == 0 {
		o.Regions = []string{"dc1"}
	}
	return o, o.validate()
}

func (o Options) validate() error {
	var errs []error
	inRange := func(name string, v, low, high int64) {
		if v < low || v > high {
			errs = append(errs, fmt.Errorf("%s %d: must be %d to %d", name, v, low, high))
		}
	}
	oneOf := func(name, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			errs = append(errs, fmt.Errorf("%s %q: must be one of %s", name, v, strings.Join(allowed, ", ")))
		}
	}
	inRange("nodes", int64(o.Nodes), 1, maxNodes)
	if o.Simulated {
		inRange("machines of a rack for a simulated fleet", int64(o.Machines), 0, 0)
	} else {
		inRange("machines", int64(o.Machines), 1, maxMachines)
	}
	inRange("memory (MB)", int64(o.MemoryMB), 64, 1<<20)
	inRange("cpus", int64(o.CPUs), 1, 64)
	inRange("disks", int64(o.Disks), 1, int64(max(1, maxDisks[o.DiskBus])))
	inRange("disk size (bytes)", o.DiskBytes, 1<<20, 1<<46)
	if o.DiskBytes%512 != 0 {
		errs = append(errs, fmt.Errorf("disk size %d: must be whole sectors of 512 bytes", o.DiskBytes))
	}
	for _, f := range o.Firmware {
		oneOf("firmware", f, "bios", "uefi")
	}
	oneOf("nic", o.NIC, "virtio", "e1000", "e1000e")
	oneOf("disk bus", o.DiskBus, "virtio", "nvme", "ahci", "scsi")
	if slices.Contains(o.Regions, "") {
		errs = append(errs, errors.New("regions: a region needs a name"))
	}
	for i := range max(0, o.Nodes) {
		if _, err := listenAddress(o.Listen, i); err != nil {
			errs = append(errs, fmt.Errorf("listen %q: %w", o.Listen, err))
			break
		}
	}
	if o.RTC != "" && !validRTC(o.RTC) {
		errs = append(errs, fmt.Errorf("rtc %q: must be utc, 2006-01-02 or 2006-01-02T15:04:05", o.RTC))
	}
	return errors.Join(errs...)
}

// listenAddress is the host's address for the dashboard of the node with this
// number, counted from 0.
func listenAddress(first string, number int) (string, error) {
	host, service, err := net.SplitHostPort(first)
	if err != nil {
		return "", err
	}
	port, err := net.LookupPort("tcp", service)
	if err != nil {
		return "", err
	}
	if port != 0 {
		port += number
	}
	if port > 65535 {
		return "", fmt.Errorf("there is no port %d for n%d: choose a lower one", port, number+1)
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

// validRTC says whether QEMU's -rtc base takes s.
func validRTC(s string) bool {
	if s == "utc" {
		return true
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04:05"} {
		if _, err := time.Parse(layout, s); err == nil {
			return true
		}
	}
	return false
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
