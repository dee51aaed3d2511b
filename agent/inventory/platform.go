package inventory

import (
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// globalVariable is the GUID of the UEFI specification's own variables.
const globalVariable = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// firmware reads SMBIOS type 0 and what UEFI says of Secure Boot.
func (m machine) firmware(tables []structure) wire.Firmware {
	bios := first(tables, smbiosBIOS)
	f := wire.Firmware{Mode: "bios", Vendor: bios.str(4), Version: bios.str(5), Date: bios.str(8)}
	if m.exists("sys/firmware/efi") {
		f.Mode = "uefi"
		// Four bytes of attributes stand before the value.
		v := m.bytes("sys/firmware/efi/efivars/SecureBoot-"+globalVariable, 8)
		f.SecureBoot = len(v) == 5 && v[4] == 1
	}
	return f
}

// tpm reads the first TPM.
func (m machine) tpm() *wire.TPM {
	const dir = "sys/class/tpm/tpm0"
	if !m.exists(dir) {
		return nil
	}
	t := &wire.TPM{Description: m.text(dir + "/device/description")}
	switch m.text(dir + "/tpm_version_major") {
	case "2":
		t.Version = "2.0"
	case "1":
		t.Version = "1.2"
	}
	return t
}

// virtualization names the hypervisor by the vendor it writes into the SMBIOS
// tables; the processor's flag decides whether there is one.
func (m machine) virtualization(sys wire.System, cpu string) string {
	if kind := m.text("sys/hypervisor/type"); kind != "" {
		return kind
	}
	text := strings.ToLower(sys.Vendor + " " + sys.Product + " " + sys.BoardVendor + " " + cpu)
	for _, known := range []struct{ word, name string }{
		{"vmware", "vmware"}, {"virtualbox", "virtualbox"}, {"innotek", "virtualbox"},
		{"microsoft corporation virtual", "hyperv"}, {"xen", "xen"}, {"kvm", "kvm"},
		{"qemu", "qemu"}, {"google", "google"}, {"amazon ec2", "amazon"}, {"parallels", "parallels"},
		{"bochs", "qemu"}, {"openstack", "openstack"},
	} {
		if strings.Contains(text, known.word) {
			return known.name
		}
	}
	for line := range strings.Lines(string(m.bytes("proc/cpuinfo", 16<<10))) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "flags" {
			if strings.Contains(value+" ", " hypervisor ") {
				return "unknown hypervisor"
			}
			break
		}
	}
	return ""
}

// pci lists the functions on the bus.
func (m machine) pci() []wire.PCIDevice {
	var list []wire.PCIDevice
	const dir = "sys/bus/pci/devices"
	for _, addr := range m.list(dir) {
		d := dir + "/" + addr
		list = append(list, wire.PCIDevice{
			Address: clean(addr),
			Vendor:  strings.TrimPrefix(m.text(d+"/vendor"), "0x"),
			Device:  strings.TrimPrefix(m.text(d+"/device"), "0x"),
			Class:   strings.TrimPrefix(m.text(d+"/class"), "0x"),
			Driver:  m.link(d + "/driver"),
		})
	}
	return list
}
