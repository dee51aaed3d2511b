package install

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/lpmos/lpmos/agent/wire"
)

// documents are the seed's files, by name.
func documents(g wire.Grant, mac string) map[string]string {
	docs := map[string]string{}
	for _, f := range seedFiles(g, mac) {
		docs[f.name] = string(f.data)
	}
	return docs
}

func TestSeedDocuments(t *testing.T) {
	g := grantFor(wire.Manifest{SizeBytes: 1}, 1, wire.Contents{})
	docs := documents(g, "52:54:00:AA:00:01")
	for name, want := range map[string]string{
		"meta-data":      "instance-id: \"task-1-3\"\nlocal-hostname: \"node1\"\n",
		"user-data":      "#cloud-config\nhostname: \"node1\"\nssh_authorized_keys:\n  - \"ssh-ed25519 AAAA \\\"me\\\"\"\n",
		"vendor-data":    "#cloud-config\nphone_home:\n  url: \"http://10.0.0.1/up/tok\"\n  post: [instance_id, hostname, fqdn]\n  tries: 20\n",
		"network-config": "version: 2\nethernets:\n  lpmos:\n    match: {macaddress: \"52:54:00:aa:00:01\"}\n    dhcp4: true\n",
	} {
		if docs[name] != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, docs[name], want)
		}
	}
	var m wire.Marker
	if err := json.Unmarshal([]byte(docs[MarkerName]), &m); err != nil || m != marker(g) {
		t.Errorf("the marker is %+v (%v)", m, err)
	}

	g.Plan.FirstBoot.UserData = "#!/bin/sh\necho mine\n"
	g.Plan.FirstBoot.NetworkConfig = "version: 2\n"
	g.Plan.FirstBoot.Hostname = "a.example.org"
	docs = documents(g, "")
	if docs["user-data"] != g.Plan.FirstBoot.UserData || docs["network-config"] != g.Plan.FirstBoot.NetworkConfig {
		t.Error("what was given is not passed on as it is")
	}
	for _, want := range []string{"hostname: \"a.example.org\"\n", "fqdn: \"a.example.org\"\n", "ssh_authorized_keys:\n", "phone_home:\n"} {
		if !strings.Contains(docs["vendor-data"], want) {
			t.Errorf("no %q in the vendor data:\n%s", want, docs["vendor-data"])
		}
	}

	g.Plan.FirstBoot = wire.FirstBoot{}
	g.PhoneHome = ""
	docs = documents(g, "")
	for _, name := range []string{"user-data", "vendor-data"} {
		if docs[name] != "#cloud-config\n" {
			t.Errorf("%s with nothing to say is %q", name, docs[name])
		}
	}
	if !strings.Contains(docs["network-config"], `match: {name: "e*"}`) {
		t.Errorf("the network is %s", docs["network-config"])
	}
}

// Whatever people type, a YAML reader gets it back and nothing besides.
func TestSeedQuoting(t *testing.T) {
	for _, s := range []string{"plain", "yes", "1e3", `"quoted" \ 'and' more`, "a: b # c", "{x}", "line\nbreak: yes", "\ttab\x01\u2028", "Grüße 世界", "&a *b !c", "<>&"} {
		g := grantFor(wire.Manifest{SizeBytes: 1}, 1, wire.Contents{})
		g.Plan.FirstBoot.Hostname = s
		g.Plan.FirstBoot.SSHKeys = []string{s, s}
		g.PhoneHome = s
		docs := documents(g, s)

		var user struct {
			Hostname string
			Keys     []string `yaml:"ssh_authorized_keys"`
		}
		var vendor struct {
			PhoneHome struct{ URL string } `yaml:"phone_home"`
		}
		for name, v := range map[string]any{"user-data": &user, "vendor-data": &vendor, "network-config": &map[string]any{}, "meta-data": &map[string]any{}} {
			if err := yaml.Unmarshal([]byte(docs[name]), v); err != nil {
				t.Errorf("%q: %s: %v", s, name, err)
			}
		}
		if user.Hostname != s || !reflect.DeepEqual(user.Keys, []string{s, s}) || vendor.PhoneHome.URL != s {
			t.Errorf("%q becomes %+v, %+v", s, user, vendor)
		}
	}
}
