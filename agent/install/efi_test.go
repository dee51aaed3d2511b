package install

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

var testESP = espPartition{number: 2, first: 0x1000, count: 0x4000, unique: mustGUID("01234567-89ab-cdef-0123-456789abcdef")}

// The bytes were checked against the layout of UEFI 2.10, field by field.
func TestLoadOptionGolden(t *testing.T) {
	want := "01000000" + "5e00" + // active, path of 94 bytes
		"4c0050004d004f0053000000" + // "LPMOS"
		"04012a00" + "02000000" + "0010000000000000" + "0040000000000000" +
		"67452301ab89efcd0123456789abcdef" + "0202" +
		"04043000" + hex.EncodeToString(ucs2(`\EFI\BOOT\BOOTX64.EFI`)) +
		"7fff0400"
	got := hex.EncodeToString(loadOption("LPMOS", testESP, `\EFI\BOOT\BOOTX64.EFI`))
	if got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestBootOrder(t *testing.T) {
	for _, c := range []struct {
		name    string
		order   []uint16
		current uint16
		network bool
		ours    uint16
		want    []uint16
	}{
		{"the network first, then ours", []uint16{0, 1, 2, 3}, 3, true, 7, []uint16{3, 7, 0, 1, 2}},
		{"not from the network", []uint16{0, 1, 2}, 1, false, 7, []uint16{7, 0, 1, 2}},
		{"ours was there", []uint16{2, 7, 0}, 2, true, 7, []uint16{2, 7, 0}},
		{"ours was first", []uint16{7, 2, 0}, 2, true, 7, []uint16{2, 7, 0}},
		{"no order yet", nil, 0, false, 0, []uint16{0}},
		{"started ours", []uint16{7, 2}, 7, true, 7, []uint16{7, 2}},
	} {
		if got := bootOrder(c.order, c.current, c.network, c.ours); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// netOption is a firmware's entry for a network card: ACPI, PCI, MAC, IPv4.
func netOption() []byte {
	path := []byte{2, 1, 12, 0, 0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0, 1, 1, 6, 0, 0, 3}
	mac := make([]byte, 37)
	mac[0], mac[1], mac[2] = 3, 11, 37
	path = append(append(path, mac...), 0x7f, 0xff, 4, 0)
	opt := []byte{1, 0, 0, 0, byte(len(path)), 0}
	return append(append(opt, ucs2("UEFI PXEv4 (MAC:525400000001)")...), path...)
}

func TestWriteBootEntry(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data ...byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name+"-"+efiGlobal), append([]byte{7, 0, 0, 0}, data...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("Boot0000", loadOption("UiApp", testESP, `\ui.efi`)...)
	put("Boot0001", netOption()...)
	put("Boot0002", 1, 2, 3) // no load option, and its number is taken
	put("BootOrder", 0, 0, 1, 0, 2, 0)
	put("BootCurrent", 1, 0)
	put("BootNext", 1, 0)
	put("Bootxxxx", 1)

	for _, pass := range []string{"first", "again"} {
		name, err := writeBootEntry(dir, testESP)
		if err != nil || name != "Boot0003" {
			t.Fatalf("%s: %q, %v", pass, name, err)
		}
		entry, err := os.ReadFile(filepath.Join(dir, "Boot0003-"+efiGlobal))
		want := append([]byte{7, 0, 0, 0}, loadOption(entryName, testESP, loaderPath())...)
		if err != nil || !bytes.Equal(entry, want) {
			t.Errorf("%s: the entry is %x (%v), want %x", pass, entry, err, want)
		}
		order, err := os.ReadFile(filepath.Join(dir, "BootOrder-"+efiGlobal))
		if want := []byte{7, 0, 0, 0, 1, 0, 3, 0, 0, 0, 2, 0}; err != nil || !bytes.Equal(order, want) {
			t.Errorf("%s: the order is %x (%v), want %x", pass, order, err, want)
		}
	}
	// Another disk: the same entry leads there.
	other := testESP
	other.unique[0]++
	if name, err := writeBootEntry(dir, other); err != nil || name != "Boot0003" {
		t.Errorf("on another disk: %q, %v", name, err)
	}
	if _, err := writeBootEntry(filepath.Join(dir, "none"), testESP); err == nil {
		t.Error("no directory, and no error")
	}
}

func TestLoaderPath(t *testing.T) {
	want := map[string]string{"amd64": `\EFI\BOOT\BOOTX64.EFI`, "arm64": `\EFI\BOOT\BOOTAA64.EFI`}[runtime.GOARCH]
	if got := loaderPath(); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzLoadOption(f *testing.F) {
	f.Add(netOption())
	f.Add(loadOption("LPMOS", testESP, `\x`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, ok := parseLoadOption(b)
		if ok && len(o.name)*2 > len(b)*3 {
			t.Errorf("a name of %d bytes out of %d", len(o.name), len(b))
		}
	})
}
