package netboot

import "testing"

func TestFirmwareIsRecognised(t *testing.T) {
	for _, c := range []struct {
		who    string
		hints  Hints
		want   Firmware
		loader string
	}{
		{"a PXE ROM", Hints{VendorClass: "PXEClient:Arch:00000:UNDI:002001", Arch: []byte{0, 0}}, Firmware{StagePXE, "bios", "amd64", 0}, LoaderBIOS},
		{"a PXE ROM that tells no architecture", Hints{VendorClass: "PXEClient"}, Firmware{StagePXE, "bios", "amd64", -1}, LoaderBIOS},
		{"UEFI", Hints{VendorClass: "PXEClient:Arch:00007:UNDI:003001", Arch: []byte{0, 7}}, Firmware{StagePXE, "uefi", "amd64", 7}, LoaderUEFI},
		{"UEFI numbered as RFC 4578 was printed", Hints{VendorClass: "PXEClient", Arch: []byte{0, 9}}, Firmware{StagePXE, "uefi", "amd64", 9}, LoaderUEFI},
		{"UEFI that tells its architecture in option 60 only", Hints{VendorClass: "PXEClient:Arch:00007:UNDI:003016"}, Firmware{StagePXE, "uefi", "amd64", 7}, LoaderUEFI},
		{"UEFI with two architectures, the first counts", Hints{VendorClass: "PXEClient", Arch: []byte{0, 7, 0, 0}}, Firmware{StagePXE, "uefi", "amd64", 7}, LoaderUEFI},
		{"32-bit UEFI", Hints{VendorClass: "PXEClient", Arch: []byte{0, 6}}, Firmware{StagePXE, "uefi", "386", 6}, ""},
		{"ARM UEFI", Hints{VendorClass: "PXEClient", Arch: []byte{0, 11}}, Firmware{StagePXE, "uefi", "arm64", 11}, LoaderGRUBARM64},
		{"ARM UEFI HTTP boot, after which GRUB has no network", Hints{VendorClass: "HTTPClient", Arch: []byte{0, 19}}, Firmware{StageHTTP, "uefi", "arm64", 19}, LoaderNone},
		{"ARM UEFI of 32 bits", Hints{VendorClass: "PXEClient", Arch: []byte{0, 10}}, Firmware{StagePXE, "uefi", "arm", 10}, ""},
		{"U-Boot, which asks as UEFI next", Hints{VendorClass: "U-Boot.armv8", Arch: []byte{0, 22}}, Firmware{StageSystem, "", "", 22}, ""},
		{"iPXE on ARM", Hints{VendorClass: "PXEClient:Arch:00011:UNDI:003010", UserClass: []byte("iPXE"), Arch: []byte{0, 11}}, Firmware{StageIPXE, "uefi", "arm64", 11}, ""},
		{"Itanium", Hints{VendorClass: "PXEClient", Arch: []byte{0, 2}}, Firmware{StagePXE, "", "", 2}, ""},
		{"UEFI HTTP boot", Hints{VendorClass: "HTTPClient:Arch:00016:UNDI:003001", Arch: []byte{0, 16}}, Firmware{StageHTTP, "uefi", "amd64", 16}, LoaderUEFI},
		{"BIOS HTTP boot, which no loader here can do", Hints{VendorClass: "HTTPClient", Arch: []byte{0, 20}}, Firmware{StageHTTP, "bios", "amd64", 20}, ""},
		{"iPXE by a bare user class", Hints{VendorClass: "PXEClient:Arch:00007:UNDI:003010", UserClass: []byte("iPXE"), Arch: []byte{0, 7}}, Firmware{StageIPXE, "uefi", "amd64", 7}, ""},
		{"iPXE by an RFC 3004 user class", Hints{UserClass: []byte("\x04iPXE"), Arch: []byte{0, 0}}, Firmware{StageIPXE, "bios", "amd64", 0}, ""},
		{"iPXE as second user class", Hints{UserClass: []byte("\x03abc\x04iPXE"), Arch: []byte{0, 0}}, Firmware{StageIPXE, "bios", "amd64", 0}, ""},
		{"iPXE by its own option", Hints{VendorClass: "PXEClient", IPXE: true}, Firmware{StageIPXE, "bios", "amd64", -1}, ""},
		{"dhclient", Hints{}, Firmware{StageSystem, "", "", -1}, ""},
		{"the agent", Hints{VendorClass: "LPMOS-agent"}, Firmware{StageSystem, "", "", -1}, ""},
		{"udhcpc", Hints{VendorClass: "udhcp 1.35.0"}, Firmware{StageSystem, "", "", -1}, ""},
		{"a user class cut short", Hints{UserClass: []byte("\x09iPXE")}, Firmware{StageSystem, "", "", -1}, ""},
		{"a user class of zero length", Hints{UserClass: []byte{0, 0}}, Firmware{StageSystem, "", "", -1}, ""},
		{"half an architecture", Hints{VendorClass: "PXEClient", Arch: []byte{7}}, Firmware{StagePXE, "bios", "amd64", -1}, LoaderBIOS},
	} {
		got := Classify(c.hints)
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", c.who, got, c.want)
		}
		if got.Loader() != c.loader {
			t.Errorf("%s: loader %q, want %q", c.who, got.Loader(), c.loader)
		}
	}
}

func TestIdentity(t *testing.T) {
	for in, want := range map[string]string{
		"52:54:00:AB:cd:0e":                     "52:54:00:ab:cd:0e",
		"52-54-00-ab-cd-0e":                     "52:54:00:ab:cd:0e",
		"5254.00ab.cd0e":                        "",
		"01:54:00:ab:cd:0e":                     "", // a group
		"00:00:00:00:00:00":                     "",
		"${net0/mac}":                           "",
		"52:54:00:ab:cd:0e\nchain http://evil/": "",
		"":                                      "",
	} {
		if got, ok := ParseMAC(in); got != want || ok != (want != "") {
			t.Errorf("ParseMAC(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	for in, want := range map[string]string{
		"12345678-ABCD-efcd-0102-030405060708": "12345678-abcd-efcd-0102-030405060708",
		"12345678abcdefcd0102030405060708":     "",
		"00000000-0000-0000-0000-000000000000": "",
		"ffffffff-ffff-ffff-ffff-ffffffffffff": "",
		"12345678-abcd-efcd-0102-03040506070g": "",
		"123456-78abcd-efcd-0102-030405060708": "",
	} {
		if got, ok := ParseUUID(in); got != want || ok != (want != "") {
			t.Errorf("ParseUUID(%q) = %q, %v; want %q", in, got, ok, want)
		}
	}
	m := Machine{UUID: uuidFromOption97(append([]byte{0}, testUUID[:]...))}
	if got := m.UUIDs(); len(got) != 2 || got[0] != "78563412-cdab-efcd-0102-030405060708" || got[1] != "12345678-abcd-cdef-0102-030405060708" {
		t.Errorf("both readings: %q", got)
	}
	if got := uuidFromOption97([]byte{1, 2, 3}); got != "" {
		t.Errorf("a UUID from three bytes: %q", got)
	}
}
