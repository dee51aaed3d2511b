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
	if len(got.Interfaces) == 0 && len(got.Hosts) == 0 && len(got.Reservations) == 0 {
		got.Interfaces, got.Hosts, got.Reservations = nil, nil, nil
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
		{"a tag its parser panics at", "interfaces: !00000 00", "lpmos.yaml", "a tag (!name)", ""},
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
		{"a network that is none", "interfaces: [{name: a, mode: dhcp, range: 10.0.0.1-10.0.0.2, networks: [{network: 10.9.0.1/24, range: 10.9.0.1-10.9.0.2}]}]\n", "interfaces[0]", "write it as 10.9.0.0/24", ""},
		{"a network without a range", "interfaces: [{name: a, mode: dhcp, range: 10.0.0.1-10.0.0.2, networks: [{network: 10.9.0.0/24}]}]\n", "interfaces[0]", "has a range in mode dhcp", ""},
		{"a route", "interfaces: [{name: a, mode: proxy, routes: [10.8.0.0/16]}]\n", "interfaces[0]", "write NETWORK via ROUTER", ""},
		{"a domain", "interfaces: [{name: a, mode: proxy, search: [a..b]}]\n", "interfaces[0]", "can be no part of a name", ""},
		{"an mtu", "interfaces: [{name: a, mode: proxy, mtu: 60}]\n", "interfaces[0]", "576 to 65535", ""},
		{"an option that has a key", "interfaces: [{name: a, mode: proxy, options: {6: 'ip:10.0.0.1'}}]\n", "interfaces[0]", "option 6 is set by dns", ""},
		{"an option that is ours", "interfaces: [{name: a, mode: proxy, options: {54: 'ip:10.0.0.1'}}]\n", "interfaces[0]", "this server's own", ""},
		{"an option's value", "interfaces: [{name: a, mode: proxy, options: {150: 10.0.0.1}}]\n", "interfaces[0]", "has to stand in front", ""},
		{"an unknown key in a network", "interfaces: [{name: a, mode: proxy, networks: [{network: 10.9.0.0/24, relais: [10.9.0.1]}]}]\n", ":1:", `"relais"`, `did you mean "relays"?`},
		{"beside another", "interfaces: [{name: a, mode: proxy, beside_other_server: true}]\n", "interfaces[0]", "for mode dhcp only", ""},
		{"no probe", "interfaces: [{name: a, mode: proxy, no_probe: true}]\n", "interfaces[0]", "no_probe is for mode dhcp only", ""},
		{"a reservation of no address", "reservations: [{machine: SN1, address: here}]\n", "reservations[0]", `"here" is no IPv4`, ""},
		{"a reservation for nobody", "reservations: [{address: 10.0.0.5}]\n", "reservations[0]", "for which machine", ""},
		{"two of one address", "reservations: [{machine: a, address: 10.0.0.5}, {machine: b, address: 10.0.0.5}]\n", "reservations[1]", "reserved twice", ""},
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

// Everything an interface can be told comes through a file, and through a flag what
// has no comma in it; the reference shows each.
func TestAnInterfaceCanBeToldAll(t *testing.T) {
	file := write(t, `interfaces:
  - name: eno2
    mode: dhcp
    range: 10.0.0.100-10.0.0.199
    router: 10.0.0.1
    dns: [10.0.0.1, 10.0.0.2]
    domain: rack.example
    search: [rack.example, example]
    ntp: [10.0.0.3]
    routes: [10.8.0.0/16 via 10.0.0.254]
    mtu: 9000
    options: {150: "ip:10.0.0.4", 224: "text:rack 7"}
    beside_other_server: true
    no_probe: true
    networks:
      - network: 10.9.0.0/24
        relays: [10.9.0.1, 10.9.0.2]
        range: 10.9.0.100-10.9.0.199
        mtu: 1400
      - network: 10.10.0.0/24
        range: 10.10.0.100-10.10.0.199
        options: {224: "u8:7"}
`)
	c, _, err := Load(file, none, nil)
	if err != nil {
		t.Fatal(err)
	}
	var round Config
	if err := setInterfaces(&round, c.Interfaces[0].String()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(c.Interfaces, round.Interfaces); d != "" {
		t.Errorf("it does not survive its flag form %s:\n%s", c.Interfaces[0], d)
	}
	n, err := c.Interfaces[0].Netboot()
	if err != nil {
		t.Fatal(err)
	}
	if len(n.Networks) != 2 || len(n.Networks[0].Relays) != 2 || n.Networks[0].Options.MTU != 1400 || string(n.Options.Custom[224]) != "rack 7" ||
		string(n.Networks[1].Options.Custom[224]) != "\x07" || n.Options.Routes[0].String() != "10.8.0.0/16 via 10.0.0.254" || !n.BesideOtherServer {
		t.Errorf("netboot is told %+v", n)
	}
	for _, k := range settings() {
		if !strings.Contains(Reference(), " "+k.name+": "+k.example+"\n") {
			t.Errorf("the reference does not show %s", k.name)
		}
	}
	// What the reference shows is right, too.
	var shown strings.Builder
	for line := range strings.SplitSeq(Reference()[strings.Index(Reference(), "# interfaces:"):], "\n") {
		if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "#  ") {
			break
		}
		shown.WriteString(strings.TrimPrefix(strings.TrimPrefix(line, "#"), " ") + "\n")
	}
	if c, _, err := Load(write(t, shown.String()), none, nil); err != nil || len(c.Interfaces) != 2 || len(c.Interfaces[0].Networks) != 1 {
		t.Errorf("what the reference shows is refused: %v\n%s", err, &shown)
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

// FuzzInterfaceFlag: an interface that a flag says is said by its flag form again.
func FuzzInterfaceFlag(f *testing.F) {
	f.Add("eno2,mode=dhcp,range=10.0.0.100-10.0.0.199,dns=10.0.0.1+10.0.0.2,option.150=ip:10.0.0.4,network=10.9.0.0/24,relays=10.9.0.1,mtu=1400;eno3,mode=proxy")
	f.Add("a,option.x=1")
	f.Add("a,network=,network=b,beside_other_server=true")
	f.Fuzz(func(t *testing.T, v string) {
		var c, again Config
		if setInterfaces(&c, v) != nil {
			return
		}
		var form []string
		for _, i := range c.Interfaces {
			if i.Name == "" {
				return
			}
			form = append(form, i.String())
			_ = i.check()
		}
		if err := setInterfaces(&again, strings.Join(form, ";")); err != nil {
			t.Fatalf("%q became %q: %v", v, form, err)
		}
		if d := cmp.Diff(c.Interfaces, again.Interfaces); d != "" {
			t.Fatalf("%q became %q:\n%s", v, form, d)
		}
	})
}
