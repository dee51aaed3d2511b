package install

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

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
		PhoneHomeName:    "http://10.0.0.1/up/tok\n",
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

// archive takes the parts of vendor data apart, by their type.
func archive(t *testing.T, vendor string) map[string]string {
	t.Helper()
	if !strings.HasPrefix(vendor, "#cloud-config-archive\n") {
		t.Fatalf("no archive:\n%s", vendor)
	}
	var parts []struct{ Type, Content string }
	if err := yaml.Unmarshal([]byte(vendor), &parts); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range parts {
		out[p.Type] = p.Content
	}
	return out
}

// The node that installed a system may be gone when it comes up: whichever of the
// others answers is told.
func TestTheInstalledSystemTellsAnyNode(t *testing.T) {
	told := make(chan string, 10)
	alive := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		told <- r.Method + " " + r.URL.Path + " " + string(body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer alive.Close()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()

	g := grantFor(wire.Manifest{SizeBytes: 1}, 1, wire.Contents{})
	g.Plan.FirstBoot.UserData = "#!/bin/sh\necho mine\n"
	g.PhoneHome, g.PhoneAlso = dead.URL+"/up/tok", []string{dead.URL + "/up/tok", alive.URL + "/up/tok"}
	docs := documents(g, "")
	if want := dead.URL + "/up/tok\n" + dead.URL + "/up/tok\n" + alive.URL + "/up/tok\n"; docs[PhoneHomeName] != want {
		t.Errorf("%s is\n%s", PhoneHomeName, docs[PhoneHomeName])
	}
	parts := archive(t, docs["vendor-data"])
	for _, want := range []string{"#cloud-config\n", "hostname: \"node1\"\n", "phone_home:\n  url: \"" + dead.URL + "/up/tok\"\n", "  tries: 3\n"} {
		if !strings.Contains(parts["text/cloud-config"], want) {
			t.Errorf("no %q in\n%s", want, parts["text/cloud-config"])
		}
	}
	script := filepath.Join(t.TempDir(), "part-001")
	if err := os.WriteFile(script, []byte(parts["text/x-shellscript"]), 0o700); err != nil {
		t.Fatal(err)
	}
	tool(t, "python3", "python3")
	sh(t, script) // as cloud-init runs it: it returns at once
	select {
	case got := <-told:
		if !strings.HasPrefix(got, "POST /up/tok ") || !strings.Contains(got, "instance_id=task-1-3&hostname=") {
			t.Errorf("told %q", got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("no node was told")
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
		g.PhoneAlso = []string{s}
		parts := archive(t, documents(g, s)["vendor-data"])
		if err := yaml.Unmarshal([]byte(parts["text/cloud-config"]), &vendor); err != nil || vendor.PhoneHome.URL != s {
			t.Errorf("%q becomes %+v in an archive (%v)", s, vendor, err)
		}
		if user.Hostname != s || !reflect.DeepEqual(user.Keys, []string{s, s}) || vendor.PhoneHome.URL != s {
			t.Errorf("%q becomes %+v, %+v", s, user, vendor)
		}
	}
}
