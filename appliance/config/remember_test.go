package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRemember(t *testing.T) {
	proxy := []Interface{{Name: "eno2", Mode: "proxy"}}
	lends := []Interface{{Name: "eno2", Mode: "dhcp", Range: "10.0.0.100-10.0.0.199", Router: "10.0.0.1"}}
	none := "" // no file
	for _, c := range []struct {
		name     string
		old      string
		add      []Interface
		complain string
	}{
		{"a file that is not there", none, proxy, ""},
		{"everything", none, lends, ""},
		{"the answer none", none, nil, ""},
		{"comments stay", "# mine\nregion: dc2 # here\n", proxy, ""},
		{"a last line without its end", "region: dc2", lends, ""},
		{"only a comment", "# nothing yet\n", proxy, ""},
		{"interfaces are there", "interfaces: []\n", proxy, "has interfaces already"},
		{"no YAML", "region: [\n", proxy, ":1:"},
		{"an end of the document", "region: dc2\n...\n", proxy, "write it there yourself"},
		{"flow style", "{region: dc2}\n", proxy, ":"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "etc", "lpmos.yaml")
			if c.old != none {
				if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, []byte(c.old), 0o640); err != nil {
					t.Fatal(err)
				}
			}
			err := Remember(file, c.add)
			now, readErr := os.ReadFile(file)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if c.complain != "" {
				if err == nil || !strings.Contains(err.Error(), c.complain) || string(now) != c.old {
					t.Fatalf("%v; the file is now\n%s", err, now)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(now), c.old) {
				t.Errorf("what was in it has changed:\n%s", now)
			}
			cfg, from, err := Load(file, func(string) string { return "" }, nil)
			if err != nil || from["interfaces"] != file || len(cfg.Interfaces) != len(c.add) || len(c.add) > 0 && !reflect.DeepEqual(cfg.Interfaces, c.add) {
				t.Errorf("read back: %+v from %s, %v\n%s", cfg.Interfaces, from["interfaces"], err, now)
			}
			want := os.FileMode(0o640)
			if c.old == none {
				want = 0o644
			}
			if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
				t.Errorf("its mode is %v, want %v", info.Mode(), want)
			}
			if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 {
				t.Errorf("%d files are there", len(left))
			}
		})
	}
}
