package api_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// keepFile sends a file as somebody, and gives what names it.
func (p *people) keepFile(who, name, content string) string {
	p.t.Helper()
	w := p.ask(who, "POST", "/api/v1/profile-files?name="+name, content, "Content-Type", "application/octet-stream")
	if w.Code != 201 {
		p.t.Fatalf("%s: %d %s", name, w.Code, w.Body)
	}
	return strings.TrimSpace(w.Body.String())
}

func (p *people) installer(erases string) string {
	return fmt.Sprintf(`{"name":"d-i","kind":"kernel","kernel":%s,"initrds":[%s],"args":"url={{answers}}preseed.cfg passwd/root-password=secret2"%s,"answers":[{"name":"preseed.cfg","text":"password secret1\n%s"}]}`,
		p.keepFile("ann", "linux", "a kernel"), p.keepFile("ann", "initrd.gz", "an initramfs"), erases, map[bool]string{true: "", false: "disk {{disk}}\\n"}[strings.Contains(erases, "false")])
}

func TestProfilesAreMadeByAdmins(t *testing.T) {
	p := newPeople(t)
	stored := p.node.Images.Stored()
	p.wants(200, `"name":"rescue","kind":"rescue"`, "oli", "GET", "/api/v1/profiles", "")
	p.wants(403, "needs admin", "oli", "POST", "/api/v1/profile-files?name=linux", "x")
	p.wants(403, "needs admin", "oli", "POST", "/api/v1/profiles", p.installer(""))
	p.wants(201, `"erases":true`, "ann", "POST", "/api/v1/profiles", p.installer(""))
	p.wants(201, `"erases":false`, "ann", "POST", "/api/v1/profiles", p.installer(`,"erases":false`))
	p.wants(201, `"by":"ann"`, "ann", "POST", "/api/v1/profiles", p.installer(""))
	p.wants(200, "secret1", "oli", "GET", "/api/v1/profiles/d-i", "")
	if w := p.ask("oli", "GET", "/api/v1/profiles", ""); strings.Contains(w.Body.String(), "secret1") || !strings.Contains(w.Body.String(), "preseed.cfg") {
		t.Errorf("the list says %s", w.Body)
	}
	p.wants(400, "nobody knows {{password}} here", "ann", "POST", "/api/v1/profiles", strings.Replace(p.installer(""), "{{answers}}", "{{password}}", 1))
	p.wants(400, "part of every node", "ann", "POST", "/api/v1/profiles", strings.Replace(p.installer(""), `"d-i"`, `"rescue"`, 1))
	p.wants(400, "file name", "ann", "POST", "/api/v1/profile-files?name=../x", "x")
	p.wants(400, "refused", "ann", "POST", "/api/v1/profile-files?name=x", "")
	p.wants(404, "there is no profile none", "oli", "GET", "/api/v1/profiles/none", "")
	p.wants(403, "needs admin", "oli", "DELETE", "/api/v1/profiles/d-i", "")
	p.wants(204, "", "ann", "DELETE", "/api/v1/profiles/d-i", "")
	p.wants(409, "cannot be removed", "ann", "DELETE", "/api/v1/profiles/rescue", "")
	if n := p.node.Images.Stored(); n != stored {
		t.Errorf("%d files are kept of a profile that is gone", n-stored)
	}
	// A viewer sees no passwords.
	viewer := fleet.Viewer
	p.must(fleet.ChangeUser{ID: "u-oli", Role: &viewer})
	p.must(fleet.CreateSession{SecretHash: fleet.HashSecret(secretOf("oli2")), UserID: "u-oli"})
	p.wants(201, "", "ann", "POST", "/api/v1/profiles", p.installer(""))
	if w := p.ask("oli2", "GET", "/api/v1/profiles/d-i", ""); w.Code != 200 || strings.Contains(w.Body.String(), "secret1") {
		t.Errorf("a viewer is told %d %s", w.Code, w.Body)
	}
	var files []fleet.ProfileFile
	p.node.Cluster.View(func(st *fleet.State) { files = st.Profile("d-i").AllFiles() })
	for who, paths := range map[string][]string{
		"oli2": {"/api/v1/profiles/d-i", "/api/v1/profiles"},
		"ann":  {"/api/v1/profiles", "/api/v1/machines/m-02/boot?profile=d-i"}, // lists and previews are for everybody's eyes
	} {
		for _, path := range paths {
			body := p.ask(who, "GET", path, "").Body.String()
			for _, secret := range []string{"secret1", "secret2", files[0].Digest, files[1].Digest} {
				if strings.Contains(body, secret) || !strings.Contains(body, "initrd.gz") {
					t.Errorf("%s tells %s %q: %s", path, who, secret, body)
				}
			}
		}
	}
	if len(files) != 2 || files[0].Digest == "" || files[1].Digest == "" {
		t.Errorf("the profile itself is changed: %+v", files)
	}
	p.wants(200, files[1].Digest, "ann", "GET", "/api/v1/profiles/d-i", "")
	p.wants(403, "needs operator", "oli2", "POST", "/api/v1/machines/m-01/boot", `{"profile":"rescue"}`)
}

func TestAMachineIsAskedToBootAProfile(t *testing.T) {
	p := newPeople(t)
	const path = "/api/v1/machines/m-02/boot"
	p.wants(404, "there is no profile none; there are: agent, memtest, rescue", "oli", "POST", path, `{"profile":"none"}`)
	p.wants(404, "there is no machine m-99", "oli", "GET", "/api/v1/machines/m-99/boot?profile=rescue", "")
	p.wants(404, "there is no machine m-99", "oli", "POST", "/api/v1/machines/m-99/boot", `{"profile":"rescue"}`)
	p.wants(409, "has open task t-03", "oli", "POST", "/api/v1/machines/m-03/boot", `{"profile":"rescue"}`)
	p.wants(200, `"plan":null`, "oli", "GET", path+"?profile=rescue", "")
	p.wants(200, "boots profile rescue once, at its next netboot (until ", "oli", "POST", path, `{"profile":"rescue"}`)
	p.wants(200, `"cancel_boot"`, "oli", "GET", "/api/v1/machines/m-02", "")
	p.wants(409, "asked to boot profile rescue already", "oli", "POST", path, `{"profile":"memtest"}`)
	p.wants(200, `"boot"`, "oli", "DELETE", path, "")
	p.wants(409, "is not asked", "oli", "DELETE", path, "")

	// What erases takes the plan that was seen, and the end of the disk's serial.
	p.wants(201, "", "ann", "POST", "/api/v1/profiles", p.installer(""))
	seen := bodyOf(t, p.ask("oli", "GET", path+"?profile=d-i", ""))
	plan, _ := seen["plan"].(map[string]any)
	if plan == nil || seen["confirm"] != "LAB-2-D1" || !strings.Contains(fmt.Sprint(plan["warnings"]), "LPMOS does not watch it") {
		t.Fatalf("it would take %v", seen)
	}
	word := func(hash any, serial string) string {
		return fmt.Sprintf(`{"profile":"d-i","plan_hash":%q,"confirm_serial":%q}`, hash, serial)
	}
	p.wants(428, "say which plan is approved", "oli", "POST", path, `{"profile":"d-i"}`)
	p.wants(412, "not the one you saw", "oli", "POST", path, word(strings.Repeat("0", 64), "2-D1"))
	p.wants(400, "confirm_serial", "oli", "POST", path, word(seen["plan_hash"], "0000"))
	p.must(fleet.ProtectMachine{MachineID: "m-02", Protected: true})
	p.wants(409, "protected", "oli", "POST", path, word(seen["plan_hash"], "2-D1"))
	p.must(fleet.ProtectMachine{MachineID: "m-02"})
	p.wants(200, "its disks are looked at once more first", "oli", "POST", path, word(seen["plan_hash"], "2-D1"))
	w := p.ask("oli", "GET", "/api/v1/machines/m-02", "")
	var token string
	p.node.Cluster.View(func(st *fleet.State) { token = st.Machine("m-02").NextBoot.Token })
	if token == "" || strings.Contains(w.Body.String(), token) || !strings.Contains(w.Body.String(), "oli asked that it boots profile d-i once") {
		t.Errorf("the machine tells its token or not who asked: %s", w.Body)
	}
}

func bodyOf(t *testing.T, w *httptest.ResponseRecorder) map[string]any {
	t.Helper()
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatal(err)
	}
	return v
}
