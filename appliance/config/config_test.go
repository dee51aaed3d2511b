package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func none(string) string { return "" }

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "lpmos.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestReferenceIsTheDefaults(t *testing.T) {
	usual, _, err := Load("", none, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := Load(write(t, Reference()), none, nil)
	if err != nil {
		t.Fatalf("the reference file is refused: %v", err)
	}
	if len(got.Interfaces) == 0 && len(got.Hosts) == 0 {
		got.Interfaces, got.Hosts = nil, nil
	}
	if d := cmp.Diff(usual, got); d != "" {
		t.Errorf("the reference file differs from the defaults (-default +reference):\n%s", d)
	}
	for _, k := range Keys {
		if !strings.Contains(Reference(), "\n"+k.Name+":") {
			t.Errorf("the reference file lacks %s", k.Name)
		}
	}
}

func TestFlagsGoOverVariablesGoOverFile(t *testing.T) {
	file := write(t, "region: file\nname: file\nlisten: 127.0.0.1:1\nrelease_after: 3m\n"+
		"interfaces:\n  - name: eno2\n    mode: dhcp\n    range: 10.0.0.100-10.0.0.199\n    dns: [10.0.0.1]\n")
	env := map[string]string{"LPMOS_NAME": "env", "LPMOS_LISTEN": "127.0.0.1:2"}
	c, from, err := Load(file, func(k string) string { return env[k] }, map[string]string{"listen": "127.0.0.1:3"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"file", "env", "127.0.0.1:3", file, "LPMOS_NAME", "--listen", "default"}
	got := []string{c.Region, c.Name, c.Listen, from["region"], from["name"], from["listen"], from["boot_port"]}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c.ReleaseAfter != 3*time.Minute || len(c.Interfaces) != 1 || c.Interfaces[0].DNS[0] != "10.0.0.1" {
		t.Errorf("the file's values did not arrive: %+v", c)
	}
	round := Config{}
	if err := setInterfaces(&round, c.Interfaces[0].String()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.Interfaces, round.Interfaces); d != "" {
		t.Errorf("an interface does not survive its flag form:\n%s", d)
	}
}

func TestBadConfigurationSaysWhereAndWhat(t *testing.T) {
	for _, tc := range []struct{ name, yaml, where, text, hint string }{
		{"unknown key", "region: a\nlisen: x\n", ":2:1", `there is no key "lisen"`, `did you mean "listen"?`},
		{"unknown key in an interface", "interfaces:\n  - name: a\n    moed: dhcp\n", ":3:5", `"moed"`, `did you mean "mode"?`},
		{"nothing like it", "zzzzqqqq: 1\n", ":1:1", `"zzzzqqqq"`, "config reference"},
		{"no number", "boot_port: high\n", ":1:12", `"high" is no number`, ""},
		{"no length of time", "release_after: soon\n", "lpmos.yaml", `"soon"; write it as 90s`, ""},
		{"copying at a negative speed", "copy_limit: -1\n", "copy_limit", "write 100, or 0 for no limit", ""},
		{"a length of time without its unit", "release_after: 5\n", ":1:16", `"5" is no length of time`, ""},
		{"no yes or no for TFTP", "tftp_single_port: 69\n", ":1:19", "write true or false", ""},
		{"no yes or no", "no_router_advertisement: perhaps\n", ":1:26", "write true or false", ""},
		{"no text", "name: [a]\n", ":1:7", "is no text", ""},
		{"no range", "interfaces: [{name: a, mode: dhcp, range: all}]\n", "interfaces[0]", `range "all": want FIRST-LAST`, ""},
		{"a kernel argument that is ours", "kernel_args: init=/bin/sh\n", "kernel_args", `"init=/bin/sh" may not be set`, ""},
		{"no yaml", "a: [\n", "lpmos.yaml", "", ""},
		{"twice", "region: a\nregion: b\n", ":2:", "region", ""},
		{"mode missing", "interfaces: [{name: a}]\n", "interfaces[0]", "needs a mode", ""},
		{"mode unknown", "interfaces: [{name: a, mode: full}]\n", "interfaces[0]", `no mode "full"`, ""},
		{"range missing", "interfaces: [{name: a, mode: dhcp}]\n", "interfaces[0]", "needs a range", ""},
		{"range with proxy", "interfaces: [{name: a, mode: proxy, range: 10.0.0.1-10.0.0.2}]\n", "interfaces[0]", "gives no addresses", ""},
		{"router no address", "interfaces: [{name: a, mode: proxy, router: gw}]\n", "interfaces[0]", `"gw" is no IPv4`, ""},
		{"named twice", "interfaces: [{name: a, mode: off}, {name: a, mode: off}]\n", "interfaces[1]", "twice", ""},
		{"cluster without a port", "cluster_listen: 10.0.0.1\n", "cluster_listen", "write it as 10.0.0.1:4747", ""},
		{"cluster port", "cluster_listen: 10.0.0.1:http\n", "cluster_listen", `"http" is no port`, ""},
		{"cluster on every address", "cluster_listen: ':4747'\n", "cluster_listen", "every address", "cluster_address"},
		{"cluster on every IPv6 address", "cluster_listen: '[::]:4747'\n", "cluster_listen", "every address", "cluster_address"},
		{"cluster address nowhere", "cluster_address: 0.0.0.0:4747\n", "cluster_address", "nobody can reach", ""},
		{"cluster address without a port", "cluster_address: n1.example:0\n", "cluster_address", "nobody can reach", ""},
		{"port", "boot_port: 70000\n", "boot_port", "no port", ""},
		{"level", "log_level: loud\n", "log_level", "none of", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := Load(write(t, tc.yaml), none, nil)
			if err == nil {
				t.Fatal("accepted")
			}
			e, ok := err.(*Error)
			if !ok {
				t.Fatalf("not an *Error: %v", err)
			}
			if !strings.Contains(e.Where, tc.where) || !strings.Contains(e.Text, tc.text) || !strings.Contains(e.Hint, tc.hint) {
				t.Errorf("got %q %q %q", e.Where, e.Text, e.Hint)
			}
		})
	}
}

func FuzzFile(f *testing.F) {
	f.Add([]byte(Reference()))
	f.Add([]byte("interfaces: [{name: a, mode: dhcp, range: x}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Config
		if _, err := parseYAML("f", data, &c); err == nil {
			_ = c.check()
		}
	})
}
