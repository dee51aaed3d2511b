package netboot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatIsTooSmallForManyMachinesIsSaid(t *testing.T) {
	for _, c := range []struct {
		name               string
		from, to           string
		neighbours, waits  string
		wantOne, wantOther string
	}{
		{"a small network", "10.77.0.100", "10.77.0.199", "1024", "212992", "", ""},
		{"a large one on a kernel as it comes", "10.77.16.0", "10.77.31.255", "1024", "212992",
			"gc_thresh2=4096 net.ipv4.neigh.default.gc_thresh3=8192", "net.core.rmem_max=2097152"},
		{"a large one on a kernel that was set up", "10.77.16.0", "10.77.31.255", "8192", "4194304", "", ""},
		{"a kernel that does not say", "10.77.16.0", "10.77.31.255", "", "", "", ""},
		{"a kernel that says something else", "10.77.16.0", "10.77.31.255", "many", "many", "", ""},
	} {
		root := t.TempDir()
		for name, value := range map[string]string{"ipv4/neigh/default/gc_thresh3": c.neighbours, "core/rmem_max": c.waits} {
			if value == "" {
				continue
			}
			file := filepath.Join(root, name)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		l := link{Interface: Interface{Mode: ModeDHCP, Range: span(c.from, c.to)}}
		said := strings.Join(kernelLimits(root, l), "\n")
		for _, want := range []string{c.wantOne, c.wantOther} {
			if !strings.Contains(said, want) {
				t.Errorf("%s: said %q, want %q", c.name, said, want)
			}
		}
		if c.wantOne == "" && said != "" {
			t.Errorf("%s: said %q", c.name, said)
		}
		l.Mode = ModeProxy
		if said := kernelLimits(root, l); said != nil {
			t.Errorf("%s: of a proxy it says %q", c.name, said)
		}
	}
}
