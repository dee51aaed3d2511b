package lab

import (
	"fmt"
	"strconv"
)

// Files of Debian's ovmf package.
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

const qemuProgram = "qemu-system-x86_64"

// qmpFD is the number under which QEMU finds its end of the QMP socket pair:
// the first descriptor after standard error.
const qmpFD = 3

// qemuArgs is the machine as QEMU's command line; accel is "tcg" or "kvm".
// The console is on standard input and output. The network card always boots
// first: what a machine then does is the node's decision.
func qemuArgs(m Machine, accel string) []string {
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-name", m.Name,
		// Without graphics SeaBIOS, its option ROMs and OVMF talk to the serial port.
		"-machine", "q35,graphics=off",
	}
	if accel == "kvm" {
		a = append(a, "-accel", "kvm", "-cpu", "host")
	} else {
		a = append(a, "-accel", "tcg,thread=multi", "-cpu", "max")
	}
	a = append(a,
		"-smp", strconv.Itoa(m.CPUs),
		"-m", strconv.Itoa(m.MemoryMB),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD), "-mon", "chardev=qmp,mode=control",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	)
	a = append(a, smbiosArgs(m)...)
	if m.RTC != "" {
		a = append(a, "-rtc", "base="+m.RTC)
	}
	if m.Firmware == "uefi" {
		a = append(a,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+ovmfCode,
			"-drive", "if=pflash,format=raw,unit=1,file="+m.uefiVars())
	}
	if m.BMC {
		a = append(a, "-device", "ipmi-bmc-sim,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0,ioport=0xca2")
	}
	a = append(a, nicArgs(m)...)
	return append(a, diskArgs(m)...)
}

// bootIndex is the network before the disks for a BIOS. A UEFI gets no index:
// OVMF would put its BootOrder back to QEMU's at every start, and a real
// machine keeps the one in its variables, which the agent writes.
func bootIndex(m Machine, n int) string {
	if m.Firmware == "uefi" {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", n)
}

func smbiosArgs(m Machine) []string {
	return []string{
		"-uuid", m.UUID,
		"-smbios", "type=1,manufacturer=LPMOS,product=Virtual Rack,serial=" + m.Serial + ",uuid=" + m.UUID,
		"-smbios", "type=2,manufacturer=LPMOS,product=Rack Board,serial=" + m.Serial + "-B",
		"-smbios", "type=3,manufacturer=LPMOS,serial=" + m.Serial + "-C,asset=" + m.Name,
		"-smbios", "type=17,loc_pfx=DIMM,manufacturer=LPMOS,part=RACK-RAM,serial=" + m.Serial + "-M,speed=3200",
	}
}

func nicArgs(m Machine) []string {
	models := map[string]string{"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e"}
	device := models[m.NIC] + ",netdev=net0,mac=" + m.MAC + bootIndex(m, 1)
	if m.NativePXE {
		device += ",romfile=" // no iPXE ROM: OVMF falls back on its own PXE
	}
	return []string{
		"-netdev", "tap,id=net0,ifname=" + m.Tap + ",script=no,downscript=no",
		"-device", device,
	}
}

func diskArgs(m Machine) []string {
	var a []string
	scsi := false
	for i, d := range m.Disks {
		// The rack's disks may be lost with the host, so nobody waits for its fsync.
		drive := fmt.Sprintf("file=%s,format=raw,if=none,id=disk%d,cache=unsafe,discard=unmap", d.Path, i)
		device := fmt.Sprintf("drive=disk%d,serial=%s", i, d.Serial) + bootIndex(m, i+2)
		switch d.Bus {
		case "nvme":
			device = "nvme," + device
		case "ahci":
			device = fmt.Sprintf("ide-hd,bus=ide.%d,%s", i, device)
		case "scsi":
			if !scsi {
				a = append(a, "-device", "virtio-scsi-pci,id=scsi0")
				scsi = true
			}
			device = "scsi-hd,bus=scsi0.0," + device
		default:
			device = "virtio-blk-pci," + device
		}
		if d.WWN != "" {
			device += ",wwn=" + d.WWN
		}
		a = append(a, "-drive", drive, "-device", device)
	}
	return a
}
