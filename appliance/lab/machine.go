package lab

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Machine is one computer of the rack as it is built: fixed for its life but
// for the disks.
type Machine struct {
	Name      string `json:"name"` // m1, m2, ...
	Dir       string `json:"dir"`
	MAC       string `json:"mac"`
	Tap       string `json:"tap"`
	UUID      string `json:"uuid"` // SMBIOS type 1
	Serial    string `json:"serial"`
	Firmware  string `json:"firmware"` // "bios" or "uefi"
	NativePXE bool   `json:"native_pxe,omitempty"`
	MemoryMB  int    `json:"memory_mb"`
	CPUs      int    `json:"cpus"`
	NIC       string `json:"nic"`
	BMC       bool   `json:"bmc,omitempty"`
	RTC       string `json:"rtc,omitempty"`
	Disks     []Disk `json:"disks"` // in slot order
}

// Disk is one disk and its identity, which travels with it from slot to slot.
type Disk struct {
	Path   string `json:"path"`          // absolute, a raw file; made sparse when missing
	Bytes  int64  `json:"bytes"`         // used when the file is made
	Serial string `json:"serial"`        // letters, digits, - and _; at most 20
	Bus    string `json:"bus"`           // "virtio", "nvme", "ahci" or "scsi"
	WWN    string `json:"wwn,omitempty"` // 0x and 16 digits; ahci and scsi only
}

// SerialLog is the file with everything the machine ever said on its first
// serial port, over all resets and power cycles.
func (m Machine) SerialLog() string { return filepath.Join(m.Dir, "serial.log") }

func (m Machine) timedLog() string { return filepath.Join(m.Dir, "serial.timed.log") }
func (m Machine) qemuLog() string  { return filepath.Join(m.Dir, "qemu.log") }
func (m Machine) uefiVars() string { return filepath.Join(m.Dir, "uefi-vars.fd") }

// machines lays out the rack. The same options give the same machines, so
// that a rack opened again finds its disks and the node knows its machines.
func machines(o Options) []Machine {
	list := make([]Machine, o.Machines)
	for i := range list {
		n := i + 1
		name := fmt.Sprintf("m%d", n)
		m := Machine{
			Name:     name,
			Dir:      filepath.Join(o.Dir, "machines", name),
			MAC:      fmt.Sprintf("52:54:00:77:00:%02x", n),
			Tap:      fmt.Sprintf("tap%d", n),
			UUID:     fmt.Sprintf("6c706d6f-7300-4000-8000-5254007700%02x", n),
			Serial:   fmt.Sprintf("RACK%04d", n),
			Firmware: o.Firmware[i%len(o.Firmware)],
			MemoryMB: o.MemoryMB,
			CPUs:     o.CPUs,
			NIC:      o.NIC,
			BMC:      o.BMC,
			RTC:      o.RTC,
		}
		m.NativePXE = o.NativePXE && m.Firmware == "uefi"
		for d := range o.Disks {
			disk := Disk{
				Path:   filepath.Join(m.Dir, fmt.Sprintf("disk%d.raw", d)),
				Bytes:  o.DiskBytes,
				Serial: fmt.Sprintf("RACK%04dD%d", n, d),
				Bus:    o.DiskBus,
			}
			if disk.Bus == "ahci" || disk.Bus == "scsi" {
				// NAA 5 with an invented vendor: what a SATA or SAS disk would carry.
				disk.WWN = fmt.Sprintf("0x5000c5007700%02x%02x", n, d)
			}
			m.Disks = append(m.Disks, disk)
		}
		list[i] = m
	}
	return list
}

// maxDisks is the number of slots by bus; q35's AHCI controller has six ports.
var maxDisks = map[string]int{"virtio": 8, "nvme": 8, "scsi": 8, "ahci": 6}

var (
	// 20 characters is what virtio-blk, ATA and NVMe have room for.
	diskSerial = regexp.MustCompile(`^[A-Za-z0-9_-]{1,20}$`)
	diskWWN    = regexp.MustCompile(`^0x[0-9a-f]{16}$`)
)

// validateDisks refuses what QEMU cannot build, or would take for something else.
func validateDisks(disks []Disk) error {
	for i, d := range disks {
		switch {
		case maxDisks[d.Bus] == 0:
			return fmt.Errorf("disk %d: bus %q: must be virtio, nvme, ahci or scsi", i, d.Bus)
		case i >= maxDisks[d.Bus]:
			return fmt.Errorf("disk %d: bus %s has room for %d", i, d.Bus, maxDisks[d.Bus])
		case !filepath.IsAbs(d.Path) || strings.ContainsRune(d.Path, ','):
			return fmt.Errorf("disk %d: path %q: must be absolute and without a comma", i, d.Path)
		case d.Bytes < 1<<20 || d.Bytes%512 != 0:
			return fmt.Errorf("disk %d: %d bytes: must be whole sectors and 1 MiB or more", i, d.Bytes)
		case !diskSerial.MatchString(d.Serial):
			return fmt.Errorf("disk %d: serial %q: must be 1 to 20 letters, digits, - or _", i, d.Serial)
		case d.WWN != "" && (!diskWWN.MatchString(d.WWN) || d.Bus == "virtio" || d.Bus == "nvme"):
			return fmt.Errorf("disk %d: wwn %q: must be 0x and 16 digits, on ahci or scsi", i, d.WWN)
		case slices.ContainsFunc(disks[:i], func(o Disk) bool { return o.Path == d.Path }):
			return errors.New("two slots cannot hold one disk: " + d.Path)
		}
	}
	return nil
}
