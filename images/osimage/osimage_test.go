package osimage

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestGPTIsAsSgdiskWantsIt(t *testing.T) {
	if _, err := exec.LookPath("sgdisk"); err != nil {
		t.Skip("sgdisk is not installed")
	}
	const size = 64 * mib
	b := &builder{name: "test"}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	err = writeGPT(f, size, b.guid("disk"), make([]byte, 440), []partition{
		{typeBIOSBoot, b.guid("a"), "BIOS boot", align, align},
		{typeESP, b.guid("b"), "EFI system", 2 * align, 8 * mib},
		{typeLinux, b.guid("c"), "root", 16 * mib, 44 * mib},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sgdisk", "-v", "-i", "3", path).CombinedOutput()
	for _, want := range []string{"No problems found", strings.ToUpper(b.uuid("c")), strings.ToUpper(typeLinux), "First sector: 32768", "Partition name: 'root'"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("sgdisk does not say %q: %v\n%s", want, err, out)
		}
	}
}

func TestGPTRefusesWhatDoesNotFit(t *testing.T) {
	b := &builder{name: "test"}
	for name, p := range map[string]partition{
		"not aligned":       {typeLinux, b.guid("x"), "x", align + 512, align},
		"over the backup":   {typeLinux, b.guid("x"), "x", align, 60 * mib},
		"half a sector":     {typeLinux, b.guid("x"), "x", align, 1000},
		"no partition type": {"zz", b.guid("x"), "x", align, align},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		if err := writeGPT(f, 64*mib, b.guid("disk"), nil, []partition{p}); err == nil {
			t.Errorf("%s: accepted", name)
		}
		f.Close()
	}
}

func TestFilterSourcesKeepsTheReleaseAlone(t *testing.T) {
	targets := strings.Join([]string{
		"Debian|bookworm|deb [x] http://mirror.example/debian bookworm main",
		"Debian|bookworm|deb [x] http://mirror.example/debian bookworm main",
		"Debian|bookworm|deb [x] http://mirror.example/debian bookworm non-free",
		"Debian|bookworm-updates|deb [x] http://mirror.example/debian bookworm-updates main",
		"Debian|bookworm-security|deb [x] http://mirror.example/security bookworm-security main",
		"Debian|bookworm-backports|deb [x] http://mirror.example/debian bookworm-backports main",
		"Debian|trixie|deb [x] http://mirror.example/debian trixie main",
		"Somebody|bookworm|deb [x] http://other.example/ bookworm main",
		"rubbish",
	}, "\n")
	got, err := filterSources([]byte(targets), "bookworm")
	want := "deb [x] http://mirror.example/debian bookworm main\n" +
		"deb [x] http://mirror.example/debian bookworm-updates main\n" +
		"deb [x] http://mirror.example/security bookworm-security main\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := filterSources([]byte(targets), "buster"); err == nil || !strings.Contains(err.Error(), "apt-get update") {
		t.Errorf("no source: %v", err)
	}
}

func TestBuildRefusesAnUnknownName(t *testing.T) {
	err := Build(t.Context(), "windows", filepath.Join(t.TempDir(), "x"), nil)
	if err == nil || !strings.Contains(err.Error(), "debian-12 and tiny") {
		t.Errorf("got %v", err)
	}
}

func TestShellScriptsParse(t *testing.T) {
	for _, name := range []string{"tiny_init.sh", "tiny_dhcp.sh", "tiny_login.sh"} {
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

func TestGUIDTextRoundTrip(t *testing.T) {
	g, err := parseGUID(typeESP)
	if err != nil || guidText(g) != typeESP {
		t.Errorf("%s became %s: %v", typeESP, guidText(g), err)
	}
	if g[0] != 0x28 || g[8] != 0xba {
		t.Errorf("bytes %x: the first groups are little endian, the last are not", g)
	}
}
