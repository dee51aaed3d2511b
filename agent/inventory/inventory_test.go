package inventory

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/lpmos/lpmos/agent/wire"
)

// tree writes a fake root. A value that begins with "-> " is a symbolic link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, value := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(value, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(value), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// record builds one SMBIOS structure.
func record(kind byte, fields map[int][]byte, length int, strs ...string) []byte {
	b := make([]byte, length)
	b[0], b[1] = kind, byte(length)
	for off, v := range fields {
		copy(b[off:], v)
	}
	for _, s := range strs {
		b = append(append(b, s...), 0)
	}
	if len(strs) == 0 {
		b = append(b, 0)
	}
	return append(b, 0)
}

func server(t *testing.T) string {
	t.Helper()
	uuid := []byte{0x78, 0x56, 0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0x12, 0x34, 0x12, 0x34, 0x56, 0x78, 0x90, 0xab}
	dmi := record(0, map[int][]byte{4: {1, 2}, 8: {3}}, 0x18, "Acme BIOS", "1.2.3", "01/02/2023")
	dmi = append(dmi, record(1, map[int][]byte{4: {1, 2, 0, 3}, 8: uuid}, 0x1b, "Acme", "R1", "SN123")...)
	dmi = append(dmi, record(2, map[int][]byte{4: {1, 2, 0, 3}}, 8, "Acme", "Board", "BS1")...)
	dmi = append(dmi, record(3, map[int][]byte{4: {1, 0, 0, 2, 3}}, 9, "Acme", "CH1", "AT1")...)
	dimm := map[int][]byte{0x0c: {0, 0x40}, 0x10: {1}, 0x12: {0x1a}, 0x15: {0x80, 0x0c}, 0x17: {2, 3, 0, 4}}
	dmi = append(dmi, record(17, dimm, 0x28, "A1", "Samsung", "D1", "M393")...)
	dmi = append(dmi, record(17, map[int][]byte{0x10: {1}}, 0x28, "A2 (empty)")...)
	dmi = append(dmi, record(17, map[int][]byte{0x0c: {0xff, 0x7f}, 0x1c: {0, 0, 1, 0}}, 0x28)...)
	dmi = append(dmi, record(38, map[int][]byte{4: {1}}, 0x12)...)
	dmi = append(dmi, record(127, nil, 4)...)
	pg80 := "\x00\x80\x00\x08  SATA01"
	pg83 := "\x00\x83\x00\x18" + "\x02\x01\x00\x08" + "ATA DISK" + "\x01\x03\x00\x08" + "\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"
	disk := func(dir, sectors string) map[string]string {
		return map[string]string{
			dir + "size": sectors, dir + "ro": "0", dir + "removable": "0",
			dir + "queue/logical_block_size": "512", dir + "queue/physical_block_size": "4096", dir + "queue/rotational": "1",
		}
	}
	files := map[string]string{
		"sys/firmware/dmi/tables/DMI":                           string(dmi),
		"sys/firmware/efi/efivars/SecureBoot-" + globalVariable: "\x06\x00\x00\x00\x01",
		"proc/meminfo":                                 "MemTotal:       32768000 kB\n",
		"proc/cpuinfo":                                 "processor\t: 0\nmodel name\t: Acme  CPU\ncpu MHz\t\t: 2400.5\nmicrocode\t: 0xd\nflags\t\t: sse fpu sse\n\nprocessor\t: 1\nmodel name\t: other\n",
		"sys/devices/system/node/node0/x":              "",
		"sys/devices/system/node/node1/x":              "",
		"sys/devices/system/cpu/cpu9/topology/core_id": "", // offline
		"sys/block/sda":                                "-> ../devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda",
		"sys/block/sdb":                                "-> ../devices/pci0000:00/0000:00:14.0/usb1/1-1/host9/target9:0:0/9:0:0:0/block/sdb",
		"sys/block/loop0/size":                         "2048",
		"sys/block/sr0/size":                           "2048",
		"sys/block/dm-0/size":                          "2048",
		"sys/block/nvme0n1/size":                       "8192",
		"sys/block/nvme0n1/wwid":                       "eui.0025385b71b00001",
		"sys/block/nvme0n1/device/serial":              "NVME01              ",
		"sys/block/nvme0n1/device/model":               "Acme SSD",
		"sys/block/nvme0n1/device/firmware_rev":        "FW1",
		"sys/block/nvme1n1/size":                       "0", // no medium
		"dev/sda":                                      strings.Repeat("\x00", 8192*512),
		"dev/nvme0n1":                                  "LUKS\xba\xbe" + strings.Repeat("\x00", 8192*512-6),
		"dev/sdb":                                      "short",
		"sys/class/net/lo/address":                     "00:00:00:00:00:00",
		"sys/class/net/eth0":                           "-> ../../devices/pci0000:00/0000:00:02.0/net/eth0",
		"sys/devices/pci0000:00/0000:00:02.0/net/eth0/address": "52:54:00:AA:BB:01\n",
		"sys/devices/pci0000:00/0000:00:02.0/net/eth0/carrier": "1",
		"sys/devices/pci0000:00/0000:00:02.0/net/eth0/speed":   "25000",
		"sys/devices/pci0000:00/0000:00:02.0/net/eth0/device":  "-> ../..",
		"sys/devices/pci0000:00/0000:00:02.0/driver":           "-> ../../../bus/pci/drivers/ixgbe",
		"sys/class/net/veth0/address":                          "52:54:00:aa:bb:02",
		"sys/bus/pci/devices/0000:00:02.0/vendor":              "0x8086\n",
		"sys/bus/pci/devices/0000:00:02.0/device":              "0x10fb\n",
		"sys/bus/pci/devices/0000:00:02.0/class":               "0x020000\n",
		"sys/class/tpm/tpm0/tpm_version_major":                 "2",
	}
	for cpu, at := range map[string][2]string{"cpu0": {"0", "0"}, "cpu1": {"0", "0"}, "cpu2": {"1", "0"}, "cpu3": {"1", "0"}} {
		topo := "sys/devices/system/cpu/" + cpu + "/topology/"
		files[topo+"physical_package_id"], files[topo+"core_id"] = at[0], at[1]
	}
	const sda, sdb = "sys/devices/pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda/", "sys/devices/pci0000:00/0000:00:14.0/usb1/1-1/host9/target9:0:0/9:0:0:0/block/sdb/"
	for name, sectors := range map[string]string{sda: "8192", sdb: "4096"} {
		for k, v := range disk(name, sectors) {
			files[k] = v
		}
	}
	files[sda+"device/vpd_pg80"], files[sda+"device/vpd_pg83"] = pg80, pg83
	files[sda+"device/model"], files[sda+"device/vendor"], files[sda+"device/rev"] = "Acme HDD", "ATA     ", "R1"
	files[sdb+"removable"] = "1"
	return tree(t, files)
}

func TestCollectAServer(t *testing.T) {
	inv := Collect(Options{Root: server(t), BootMAC: "52:54:00:aa:bb:01"})
	want := wire.System{
		Vendor: "Acme", Product: "R1", Serial: "SN123", UUID: "12345678-1234-1234-1234-1234567890ab",
		BoardVendor: "Acme", BoardProduct: "Board", BoardSerial: "BS1", ChassisSerial: "CH1", AssetTag: "AT1",
	}
	if inv.System != want {
		t.Errorf("system %+v", inv.System)
	}
	if f := inv.Firmware; f != (wire.Firmware{Mode: "uefi", Vendor: "Acme BIOS", Version: "1.2.3", Date: "01/02/2023", SecureBoot: true}) {
		t.Errorf("firmware %+v", f)
	}
	if c := inv.CPU; c.Sockets != 2 || c.Cores != 2 || c.Threads != 4 || c.NUMANodes != 2 || c.Model != "Acme CPU" || c.MHz != 2400 || strings.Join(c.Flags, " ") != "fpu sse" {
		t.Errorf("cpu %+v", c)
	}
	if m := inv.Memory; m.TotalBytes != 32768000<<10 || len(m.DIMMs) != 2 ||
		m.DIMMs[0] != (wire.DIMM{Slot: "A1", SizeBytes: 16 << 30, Type: "DDR4", SpeedMTs: 3200, Manufacturer: "Samsung", Serial: "D1", Part: "M393"}) ||
		m.DIMMs[1].SizeBytes != 64<<30 {
		t.Errorf("memory %+v", m)
	}
	if inv.BMC == nil || inv.BMC.Interface != "kcs" || inv.TPM == nil || inv.TPM.Version != "2.0" || inv.Virtualization != "" {
		t.Errorf("BMC %+v, TPM %+v, virtualization %q", inv.BMC, inv.TPM, inv.Virtualization)
	}
	if len(inv.NICs) != 1 {
		t.Fatalf("NICs %+v", inv.NICs)
	}
	if n := inv.NICs[0]; n != (wire.NIC{Name: "eth0", MAC: "52:54:00:aa:bb:01", Driver: "ixgbe", Bus: "0000:00:02.0", SpeedMbps: 25000, Link: true, Boot: true}) {
		t.Errorf("NIC %+v", n)
	}
	if p := inv.PCI; len(p) != 1 || p[0].Vendor != "8086" || p[0].Device != "10fb" || p[0].Class != "020000" {
		t.Errorf("PCI %+v", p)
	}
}

func TestDisksAreKnownByWhatTheMakerGaveThem(t *testing.T) {
	disks := Collect(Options{Root: server(t)}).Disks
	if len(disks) != 3 {
		t.Fatalf("%d disks: %+v", len(disks), disks)
	}
	nvme, sda, usb := disks[0], disks[1], disks[2]
	if nvme.Serial != "NVME01" || nvme.WWN != "eui.0025385b71b00001" || nvme.Transport != "nvme" || nvme.Firmware != "FW1" || nvme.Contents.Signatures[0] != "luks" {
		t.Errorf("%+v", nvme)
	}
	if sda.Serial != "SATA01" || sda.WWN != "naa.5000c500a1b2c3d4" || sda.Transport != "sata" || sda.Vendor != "" || !sda.Rotational || sda.PhysicalSector != 4096 || !sda.Contents.Blank() {
		t.Errorf("%+v", sda)
	}
	if usb.Transport != "usb" || !usb.Removable || usb.Contents.Unreadable == "" {
		t.Errorf("%+v", usb)
	}
}

func TestNothingAtAllIsStillAnInventory(t *testing.T) {
	inv := Collect(Options{Root: t.TempDir()})
	b, err := json.Marshal(inv)
	if err != nil || !strings.Contains(string(b), `"disks":[],"nics":[]`) {
		t.Fatalf("%s %v", b, err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"  Acme\t\tR1 \n":               "Acme R1",
		"a\x00b":                        "a b",
		"\x1b[2Jevil":                   "[2Jevil",
		"caf\u00e9":                     "café",
		"\xff\xfeS1":                    "S1",
		"abc\u202edef":                  "abc def",
		"DATA\u00a01\u200b\u00ad\ufeff": "DATA 1", // a node drops these
		strings.Repeat("x", 10_000):     strings.Repeat("x", maxString-3),
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%.20q) = %.40q, want %.40q", in, got, want)
		}
	}
}

func TestS55_AHugeMachineFitsAReport(t *testing.T) {
	inv := wire.Inventory{PCI: make([]wire.PCIDevice, maxPCI)}
	for range maxDisks {
		inv.Disks = append(inv.Disks, wire.Disk{Contents: wire.Contents{Partitions: make([]wire.Partition, maxPartitions)}})
	}
	fit(&inv)
	if len(inv.Disks) != maxDisks || !inv.Truncated || len(inv.PCI) != 0 || len(inv.Disks[0].Contents.Partitions) > 8 {
		t.Fatalf("%d disks, %d PCI, %d partitions", len(inv.Disks), len(inv.PCI), len(inv.Disks[0].Contents.Partitions))
	}
	small := wire.Inventory{PCI: make([]wire.PCIDevice, 100), Disks: make([]wire.Disk, 10)}
	if fit(&small); small.Truncated || len(small.PCI) != 100 {
		t.Fatal("an ordinary machine lost something")
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add(record(1, map[int][]byte{4: {1, 2, 0, 3}}, 0x1b, "Acme", "R1", "SN"))
	f.Add(append(record(17, map[int][]byte{0x0c: {0, 0x40}, 0x10: {9}}, 0x28), record(127, nil, 4)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		tables := parseSMBIOS(b)
		for _, s := range tables {
			for _, str := range s.strings {
				if len(str) > maxString || !utf8.ValidString(str) {
					t.Fatalf("string %q", str)
				}
			}
		}
		m := machine{root: "/nonexistent"}
		_ = m.system(tables)
		_ = m.firmware(tables)
		_ = m.bmc(tables)
		_ = dimms(tables)
	})
}

func FuzzVPD(f *testing.F) {
	f.Add([]byte("\x00\x83\x00\x0c\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"))
	f.Add([]byte("\x00\x80\x00\x04ABCD"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := parseVPD80(b); len(s) > maxString || !utf8.ValidString(s) {
			t.Fatalf("serial %q", s)
		}
		if s := parseVPD83(b); len(s) > 4+32 {
			t.Fatalf("name %q", s)
		}
	})
}
