package inventory

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// notDisks are block devices that are made of others, of memory, or of media
// that come and go: nothing to install on.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock", "drbd", "bcache", "zd", "rbd"}

// disks lists whole block devices with what lies on them.
func (m machine) disks() []wire.Disk {
	list := []wire.Disk{}
	for _, name := range m.list("sys/block") {
		if m.isDisk(name) {
			list = append(list, m.disk(name))
		}
	}
	slices.SortFunc(list, func(a, b wire.Disk) int { return naturally(a.Name, b.Name) })
	return list
}

// isDisk leaves out what is no disk, or has no medium in it.
func (m machine) isDisk(name string) bool {
	for _, p := range notDisks {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	// Boot areas and keys of eMMC, and the paths of a multipath NVMe, which
	// stand beside the disk itself.
	if strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb")) {
		return false
	}
	if m.text("sys/block/"+name+"/hidden") == "1" {
		return false
	}
	return m.sectors(name) > 0
}

// sectors is the size in units of 512 bytes, whatever the disk's own sectors.
func (m machine) sectors(name string) uint64 {
	n, err := strconv.ParseUint(m.text("sys/block/"+name+"/size"), 10, 54)
	if err != nil {
		return 0
	}
	return n
}

func (m machine) disk(name string) wire.Disk {
	dir := "sys/block/" + name + "/"
	d := wire.Disk{
		Name:           clean(name),
		Model:          m.text(dir + "device/model"),
		Vendor:         m.text(dir + "device/vendor"),
		Firmware:       m.firstText(dir+"device/firmware_rev", dir+"device/rev"),
		Transport:      m.transport(name),
		SizeBytes:      m.sectors(name) * 512,
		LogicalSector:  m.number(dir + "queue/logical_block_size"),
		PhysicalSector: m.number(dir + "queue/physical_block_size"),
		Rotational:     m.text(dir+"queue/rotational") == "1",
		Removable:      m.text(dir+"removable") == "1",
		ReadOnly:       m.text(dir+"ro") == "1",
	}
	d.Serial = m.serial(dir)
	d.WWN = m.wwn(dir)
	// libata and virtio put fixed words where the maker's name would be.
	if d.Vendor == "ATA" || strings.HasPrefix(d.Vendor, "0x") {
		d.Vendor = ""
	}
	d.Contents = m.contents(d)
	return d
}

func (m machine) firstText(names ...string) string {
	for _, n := range names {
		if s := m.text(n); s != "" {
			return s
		}
	}
	return ""
}

// serial looks where each kind of disk keeps it: NVMe beside its controller,
// virtio at the disk, SCSI and SATA in a page of vital product data.
func (m machine) serial(dir string) string {
	if s := m.firstText(dir+"device/serial", dir+"serial"); s != "" {
		return s
	}
	return parseVPD80(m.bytes(dir+"device/vpd_pg80", 1024))
}

// wwn is the name the disk's maker gave it. NVMe and SCSI know it by names like
// "eui.…", "naa.…"; a name made up of vendor and serial is no WWN.
func (m machine) wwn(dir string) string {
	id := m.firstText(dir+"wwid", dir+"device/wwid")
	for _, prefix := range []string{"naa.", "eui.", "uuid."} {
		if rest, ok := strings.CutPrefix(strings.ToLower(id), prefix); ok && strings.Trim(rest, "0-") != "" {
			return prefix + rest
		}
	}
	return parseVPD83(m.bytes(dir+"device/vpd_pg83", 4096))
}

// transport goes by the way the device hangs in the tree.
func (m machine) transport(name string) string {
	if strings.HasPrefix(name, "nvme") {
		return "nvme"
	}
	target, err := os.Readlink(m.path("sys/block/" + name))
	if err != nil {
		return ""
	}
	target = filepath.ToSlash(target)
	for _, t := range []struct{ part, name string }{
		{"/usb", "usb"}, {"/virtio", "virtio"}, {"/ata", "sata"}, {"/end_device-", "sas"}, {"/expander-", "sas"},
		{"/mmc_host/", "mmc"}, {"/session", "iscsi"}, {"/rport-", "fc"}, {"/vmbus", "hyperv"}, {"/xen", "xen"}, {"/host", "scsi"},
	} {
		if strings.Contains(target, t.part) {
			return t.name
		}
	}
	return ""
}

// contents opens the disk for reading and looks at it.
func (m machine) contents(d wire.Disk) wire.Contents {
	f, err := os.Open(m.path("dev/" + d.Name))
	if err != nil {
		return wire.Contents{Unreadable: clean(err.Error())}
	}
	defer func() { _ = f.Close() }()
	return Contents(f, int64(d.SizeBytes), d.LogicalSector)
}

// naturally orders sda, sdb, sdaa and nvme2n1, nvme10n1 as people do.
func naturally(a, b string) int {
	if c := strings.Compare(prefix(a), prefix(b)); c != 0 {
		return c
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// prefix is the driver's part of a name.
func prefix(s string) string {
	for _, p := range []string{"nvme", "sd", "vd", "xvd", "hd", "mmcblk"} {
		if strings.HasPrefix(s, p) {
			return p
		}
	}
	return s
}
