package sim

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/install"
	"github.com/lpmos/lpmos/agent/inventory"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/netboot/pxeclient"
)

// diskBytes is the size of every disk. The files are sparse.
const diskBytes = 4 << 30

// hardware is what a machine is made of, in words: a server of two sockets as a
// thousand of one order are, with ids of its own.
type hardware struct {
	inv  wire.Inventory
	uuid [16]byte // as SMBIOS keeps it
	disk string   // the file of one that is installed; "": the disk is only said to be there
}

func newHardware(n int, mac net.HardwareAddr, shape pxeclient.Shape) hardware {
	h := hardware{uuid: [16]byte{0x4d, 0x49, 0x53, 0x6c, 0, 0x40, 0, 0x40, 0x80, 0, 0x52, 0x54, 0x01, 0x77, byte(n >> 8), byte(n)}}
	mode := "bios"
	if shape == pxeclient.UEFI || shape == pxeclient.UEFIHTTP || shape == pxeclient.IPXEUEFI {
		mode = "uefi"
	}
	// The first three fields of a UUID are the other way round in SMBIOS.
	u := h.uuid
	u[0], u[1], u[2], u[3] = u[3], u[2], u[1], u[0]
	u[4], u[5], u[6], u[7] = u[5], u[4], u[7], u[6]
	text := hex.EncodeToString(u[:])
	second := append(net.HardwareAddr(nil), mac...)
	second[2] ^= 0x80
	h.inv = wire.Inventory{
		System: wire.System{Vendor: "Simulated", Product: "R1000", Serial: fmt.Sprintf("SIM%05d", n),
			UUID:        text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:],
			BoardVendor: "Simulated", BoardProduct: "B1000", BoardSerial: fmt.Sprintf("SIMB%05d", n), ChassisSerial: fmt.Sprintf("SIMC%05d", n)},
		Firmware: wire.Firmware{Mode: mode, Vendor: "Simulated", Version: "1.0", Date: "01/01/2026"},
		CPU: wire.CPU{Model: "Simulated 16-Core", Arch: "amd64", Sockets: 2, Cores: 32, Threads: 64, MHz: 2600, NUMANodes: 2,
			Flags: []string{"fpu", "vme", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sse", "sse2", "ssse3", "sse4_1", "sse4_2", "aes", "avx", "avx2", "avx512f", "vmx", "nx", "lm"}},
		Memory: wire.Memory{TotalBytes: 256 << 30},
		Disks: []wire.Disk{{Name: "sda", Model: "SIMDISK", Vendor: "Simulated", Serial: fmt.Sprintf("SIMD%05d", n), WWN: fmt.Sprintf("0x5000c501%08x", n),
			Transport: "sata", SizeBytes: diskBytes, LogicalSector: 512, PhysicalSector: 4096}},
		NICs: []wire.NIC{{Name: "eth0", MAC: mac.String(), Driver: "simnic", Bus: "0000:01:00.0", SpeedMbps: 10000, Link: true, Boot: true},
			{Name: "eth1", MAC: second.String(), Driver: "simnic", Bus: "0000:01:00.1"}},
		BMC: &wire.BMC{Interface: "kcs"},
		TPM: &wire.TPM{Version: "2.0"},
	}
	for slot := range 8 {
		h.inv.Memory.DIMMs = append(h.inv.Memory.DIMMs, wire.DIMM{Slot: fmt.Sprintf("DIMM_%c1", 'A'+slot), SizeBytes: 32 << 30, Type: "DDR4", SpeedMTs: 3200,
			Manufacturer: "Simulated", Serial: fmt.Sprintf("SIMM%05d%d", n, slot), Part: "S32G"})
	}
	for f := range 12 {
		h.inv.PCI = append(h.inv.PCI, wire.PCIDevice{Address: fmt.Sprintf("0000:%02x:00.0", f), Vendor: "1af4", Device: fmt.Sprintf("10%02x", f), Class: "020000", Driver: "simnic"})
	}
	return h
}

// collect is the agent's look at the machine.
func (h *hardware) collect() wire.Inventory {
	inv := h.inv
	inv.Disks = []wire.Disk{h.look()}
	return inv
}

// look is the disk as it is now.
func (h *hardware) look() wire.Disk {
	d := h.inv.Disks[0]
	if h.disk == "" {
		return d
	}
	f, err := h.open()
	if err != nil {
		d.Contents.Unreadable = err.Error()
		return d
	}
	defer f.Close()
	d.Contents = inventory.Contents(f, diskBytes, d.LogicalSector)
	return d
}

// open makes the disk when it is first looked at.
func (h *hardware) open() (*os.File, error) {
	f, err := os.OpenFile(h.disk, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(diskBytes); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// install is what cmd/lpmos-agent does on a machine, on a file.
func (h *hardware) install(ctx context.Context, grant wire.Grant, allowed func() error, src agent.Source, mac string, report func(wire.Progress)) error {
	err := install.Run(ctx, install.Options{
		Grant: grant, Allowed: allowed, Source: src, BootMAC: mac, Report: report,
		Disks: func() ([]install.Candidate, error) {
			return []install.Candidate{{Disk: h.look(), Path: h.disk}}, nil
		},
	})
	if !errors.Is(err, install.ErrInstalled) {
		return err
	}
	report(wire.Progress{Stage: wire.StageConfiguring, Percentage: 100, Message: "installed"})
	return nil
}
