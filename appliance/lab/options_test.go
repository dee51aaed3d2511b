package lab

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

func TestDefaultsMakeAUsableRack(t *testing.T) {
	o, err := Options{Dir: "rack"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if !filepath.IsAbs(o.Dir) || o.Binary == "" || o.Out == nil {
		t.Errorf("dir %q, binary %q, out %v: all must be filled in", o.Dir, o.Binary, o.Out)
	}
	list := machines(o)
	if len(list) != 1 || list[0].Firmware != "bios" || len(list[0].Disks) != 1 || list[0].Disks[0].Bytes != 8<<30 {
		t.Errorf("default rack is %+v, want one BIOS machine with one disk of 8 GiB", list)
	}
}

func TestBadOptionsAreNamed(t *testing.T) {
	tests := map[string]struct {
		o    Options
		want string
	}{
		"no directory":      {Options{}, "directory"},
		"long directory":    {Options{Dir: "/" + strings.Repeat("d", 120)}, "too long"},
		"comma":             {Options{Dir: "/a,b"}, "comma"},
		"machines":          {Options{Dir: "/r", Machines: 51}, "machines 51"},
		"negative machines": {Options{Dir: "/r", Machines: -1}, "machines -1"},
		"firmware":          {Options{Dir: "/r", Firmware: []string{"bios", "coreboot"}}, `"coreboot"`},
		"memory":            {Options{Dir: "/r", MemoryMB: 8}, "memory"},
		"cpus":              {Options{Dir: "/r", CPUs: -2}, "cpus"},
		"disks":             {Options{Dir: "/r", Disks: 9}, "disks 9"},
		"tiny disk":         {Options{Dir: "/r", DiskBytes: 512}, "disk size"},
		"odd disk":          {Options{Dir: "/r", DiskBytes: 1<<20 + 1}, "whole sectors"},
		"bus":               {Options{Dir: "/r", DiskBus: "floppy"}, `"floppy"`},
		"nic":               {Options{Dir: "/r", NIC: "ne2k"}, `"ne2k"`},
		"listen":            {Options{Dir: "/r", Listen: "8080"}, `"8080"`},
		"last port":         {Options{Dir: "/r", Listen: ":65534", Nodes: 3}, "n3"},
		"nodes":             {Options{Dir: "/r", Nodes: 6}, "nodes 6"},
		"regions":           {Options{Dir: "/r", Regions: []string{"dc1", ""}}, "region needs a name"},
		"rtc":               {Options{Dir: "/r", RTC: "1970,clock=vm"}, "rtc"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tt.o.withDefaults()
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestFirmwareIsDealtOutInTurn(t *testing.T) {
	o, err := Options{Dir: "/r", Machines: 3, Firmware: []string{"uefi", "bios"}, NativePXE: true, Disks: 2, DiskBus: "ahci"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for i, m := range machines(o) {
		if want := []string{"uefi", "bios", "uefi"}[i]; m.Firmware != want || m.NativePXE != (want == "uefi") {
			t.Errorf("%s: firmware %s, native PXE %v, want %s", m.Name, m.Firmware, m.NativePXE, want)
		}
		ids := []string{m.Name, m.MAC, m.UUID, m.Serial, m.Tap}
		for _, d := range m.Disks {
			ids = append(ids, d.Path, d.Serial, d.WWN)
		}
		for _, id := range ids {
			if seen[id] {
				t.Errorf("%s: id %q is used twice", m.Name, id)
			}
			seen[id] = true
		}
	}
}

func TestNodeConfig(t *testing.T) {
	tests := map[string]struct {
		o    Options
		want map[string]any
	}{
		"dhcp": {Options{Dir: "/r"}, map[string]any{
			"region": "dc1", "name": "n1", "data_dir": "/r/node-n1/data", "user": "root", "listen": "fd:3", "boot_port": uint64(80),
			"cluster_listen": "10.77.0.1:4747", "kernel_args": "no_timer_check",
			"interfaces": []any{map[string]any{"name": "eth0", "mode": "dhcp", "range": "10.77.0.100-10.77.0.199"}},
		}},
		"beside dnsmasq, with keys of the caller": {
			Options{Dir: "/r", ExternalDHCP: true, NodeConfig: map[string]any{"name": "other", "kernel_args": "quiet"}},
			map[string]any{
				"region": "dc1", "name": "other", "data_dir": "/r/node-n1/data", "user": "root", "listen": "fd:3", "boot_port": uint64(80),
				"cluster_listen": "10.77.0.1:4747", "kernel_args": "quiet",
				"interfaces": []any{map[string]any{"name": "eth0", "mode": "proxy"}},
			}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o, err := tt.o.withDefaults()
			if err != nil {
				t.Fatal(err)
			}
			out, err := nodeConfig(o, nodes(o)[0])
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := yaml.Unmarshal(out, &got); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if diff := differ(got, tt.want); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Nodes are alike but for their place: in the house, on the wire, on the host.
func TestNodesHavePlacesOfTheirOwn(t *testing.T) {
	o, err := Options{Dir: "/r", Nodes: 3, Regions: []string{"dc1", "dc2"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, n := range nodes(o) {
		listen, err := listenAddress("127.0.0.1:8080", i)
		if err != nil {
			t.Fatal(err)
		}
		picked, err := listenAddress("127.0.0.1:0", i)
		if err != nil || picked != "127.0.0.1:0" {
			t.Errorf("port 0 became %s, %v", picked, err)
		}
		got = append(got, strings.Join([]string{n.Name, n.Region, n.Dir, n.ClusterAddress(), listen}, " "))
	}
	want := []string{
		"n1 dc1 /r/node-n1 10.77.0.1:4747 127.0.0.1:8080",
		"n2 dc2 /r/node-n2 10.77.0.2:4747 127.0.0.1:8081",
		"n3 dc1 /r/node-n3 10.77.0.3:4747 127.0.0.1:8082",
	}
	if !slices.Equal(got, want) {
		t.Errorf("nodes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The one error names all that is missing and a command that brings it.
func TestMissingProgramsAreNamedOnce(t *testing.T) {
	list := needs(Options{Firmware: []string{"bios", "uefi"}, ExternalDHCP: true})
	if err := checkNeeds(list, func(string) bool { return true }); err != nil {
		t.Errorf("nothing is missing, but: %v", err)
	}
	err := checkNeeds(list, func(what string) bool { return what == "ip" })
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"qemu-system-x86_64", ovmfVars, `apt-get install qemu-system-x86 ipxe-qemu ovmf dnsmasq-base"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q: %v", want, err)
		}
	}
	if err := checkNeeds(needs(Options{Firmware: []string{"bios"}}), func(what string) bool {
		return what != ovmfCode && what != "dnsmasq"
	}); err != nil {
		t.Errorf("a BIOS rack without dnsmasq needs neither: %v", err)
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "machines")
	if err := os.Mkdir(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := lockRack(dir); err == nil || !strings.Contains(err.Error(), "is no rack") {
		t.Errorf("lock of a foreign directory: %v, want it refused", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
}

// A rack opened again has its disks and boot entries; with Reset they are gone.
func TestDisksOutliveTheRackUnlessReset(t *testing.T) {
	o, err := Options{Dir: t.TempDir()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := lockRack(o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	disk := machines(o)[0].Disks[0]
	open := func() {
		t.Helper()
		if err := prepare(o, nodes(o), machines(o)); err != nil {
			t.Fatal(err)
		}
		if err := makeSparse(disk.Path, disk.Bytes); err != nil {
			t.Fatal(err)
		}
	}
	holds := func() string {
		t.Helper()
		f, err := os.Open(disk.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if info, _ := f.Stat(); info.Size() != disk.Bytes {
			t.Fatalf("disk has %d bytes, want %d", info.Size(), disk.Bytes)
		}
		b := make([]byte, 4)
		if _, err := f.Read(b); err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	open()
	f, err := os.OpenFile(disk.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("data"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	open()
	if got := holds(); got != "data" {
		t.Errorf("disk holds %q after opening the rack again, want its data", got)
	}
	o.Reset = true
	open()
	if got := holds(); got != "\x00\x00\x00\x00" {
		t.Errorf("disk holds %q after a reset, want nothing", got)
	}
}

func TestUnprivilegedUsersGetAUserNamespace(t *testing.T) {
	if a := namespaceAttr(0, 0); a.UidMappings != nil {
		t.Errorf("root needs no mapping: %+v", a)
	}
	a := namespaceAttr(1000, 1001)
	if len(a.UidMappings) != 1 || a.UidMappings[0].HostID != 1000 || a.GidMappings[0].HostID != 1001 {
		t.Errorf("mappings %+v %+v, want root inside to be us outside", a.UidMappings, a.GidMappings)
	}
}
