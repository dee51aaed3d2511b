package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/door"
)

// S34: what is approved is what was seen. No plan is named: 428. Another than there
// is now: 412. The right one without the serial of a disk that holds something: 400.
func TestS34_OnlyWhatWasSeenIsApproved(t *testing.T) {
	node, s := newGallery(t)
	const path = "/api/v1/tasks/t-03/approve"
	seen := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	tag := call(s, "GET", "/api/v1/tasks/t-03", "").Header().Get("ETag")
	pending := func(why string) {
		t.Helper()
		if now := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200); now["status"] != "pending_approval" || now["approval"] != nil {
			t.Fatalf("%s: it is %v", why, now["status"])
		}
	}
	word := func(hash any, confirm string) string {
		return fmt.Sprintf(`{"approved":true,"plan_hash":%q,"confirm_serial":%q}`, hash, confirm)
	}
	serial := seen["confirm"].(string)
	if serial == "" {
		t.Fatal("the disk of t-03 is blank")
	}
	tail := serial[len(serial)-4:]

	answer(t, s, "PUT", path, `{"approved":true}`, 428)
	answer(t, s, "PUT", path, `{"approved":true}`, 428, "If-Match", tag)
	answer(t, s, "PUT", path, word("", tail), 428, "If-Match", "*")
	pending("without a plan")
	answer(t, s, "PUT", path, word(strings.Repeat("0", 64), tail), 412)
	answer(t, s, "PUT", path, word(seen["plan_hash"], tail), 412, "If-Match", `"1-`+strings.Repeat("0", 64)+`"`)
	pending("with another plan")
	for _, typed := range []string{"", "0000", tail[:3], serial[:4]} {
		v := answer(t, s, "PUT", path, word(seen["plan_hash"], typed), 400, "If-Match", tag)
		if errs, _ := v["errors"].([]any); len(errs) != 1 || errs[0].(map[string]any)["location"] != "body.confirm_serial" {
			t.Errorf("%q: %v", typed, v)
		}
	}
	pending("without the serial")

	swapDisk(t, node) // between looking and clicking
	v := answer(t, s, "PUT", path, word(seen["plan_hash"], tail), 412)
	if changed, _ := v["changed"].([]any); len(changed) == 0 {
		t.Errorf("nobody says what has changed: %v", v)
	}
	answer(t, s, "PUT", path, word(seen["plan_hash"], tail), 412, "If-Match", tag)
	pending("after the disk was changed")
	now := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	tag = call(s, "GET", "/api/v1/tasks/t-03", "").Header().Get("ETag")
	if v := answer(t, s, "PUT", path, word(now["plan_hash"], tail), 200, "If-Match", tag); v["status"] != "approved" {
		t.Errorf("it is %v", v["status"])
	}

	// In one click with making it, the same.
	wish := `{"machine_id":"m-02","os_type":"debian","os_version":"12","approve":{%s}}`
	plan := answer(t, s, "POST", "/api/v1/plan", `{"machine_id":"m-02","os_type":"debian","os_version":"12"}`, 200)
	serial = plan["confirm"].(string)
	before := len(s.Picture().Tasks)
	answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, ""), 428)
	answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, `"plan_hash":"`+strings.Repeat("0", 64)+`"`), 412)
	answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, `"plan_hash":"`+plan["plan_hash"].(string)+`"`), 400)
	if got := len(s.Picture().Tasks); got != before {
		t.Errorf("refused clicks left %d tasks, there were %d", got, before)
	}
	answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, `"plan_hash":"`+plan["plan_hash"].(string)+`","confirm_serial":"`+serial[len(serial)-4:]+`"`), 201)
}

// S60, as the API has it: beyond the cap a click is a first word, and a second one by
// somebody else counts.
func TestS60_BeyondTheCapItTakesTwo(t *testing.T) {
	_, s := newGallery(t)
	answer(t, s, "PUT", "/api/v1/policy", `{"approval_cap":1,"approval_window_minutes":10,"second_approver":"always"}`, 200)
	if p := answer(t, s, "GET", "/api/v1/policy", "", 200); p["second_approver"] != "always" || p["approval_cap"] != 1.0 || p["by"] == "" {
		t.Errorf("the policy is %v", p)
	}
	for _, bad := range []string{`{"approval_cap":0,"approval_window_minutes":10,"second_approver":"cap"}`, `{"approval_cap":1,"approval_window_minutes":0,"second_approver":"cap"}`,
		`{"approval_cap":1,"approval_window_minutes":10,"second_approver":"sometimes"}`, `{}`} {
		answer(t, s, "PUT", "/api/v1/policy", bad, 400)
	}
	seen := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	body := fmt.Sprintf(`{"approved":true,"plan_hash":%q,"confirm_serial":%q}`, seen["plan_hash"], seen["confirm"])
	v := answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", body, 200)
	if v["status"] != "pending_approval" || v["first_word"] == nil || v["phase"] != "waiting" || !strings.Contains(v["phase_text"].(string), "a second person has to approve it") {
		t.Errorf("after one word the task is %v, %v", v["status"], v["phase_text"])
	}
	v = answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", body, 409)
	if !strings.Contains(v["detail"].(string), "a second person has to") {
		t.Errorf("the same person again is told %v", v["detail"])
	}
}

func TestAMachineIsProtectedAndReleased(t *testing.T) {
	node, s := newGallery(t)
	task := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	machine := "/api/v1/machines/" + task["machine_id"].(string)
	if v := answer(t, s, "POST", machine+"/protect", "", 200); v["protected"] != true || !strings.Contains(fmt.Sprint(v["actions"]), "unprotect") {
		t.Errorf("the machine is %v, %v", v["protected"], v["actions"])
	}
	body := fmt.Sprintf(`{"approved":true,"plan_hash":%q,"confirm_serial":%q}`, task["plan_hash"], task["confirm"])
	v := answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", body, 409)
	if !strings.Contains(v["detail"].(string), "is protected, so nothing is approved for it") {
		t.Errorf("it is told %v", v["detail"])
	}
	answer(t, s, "DELETE", machine, "", 409)
	if v := answer(t, s, "POST", machine+"/unprotect", "", 200); v["protected"] != false {
		t.Errorf("the machine is %v", v["protected"])
	}
	var mac string
	node.Cluster.View(func(st *fleet.State) { mac = st.Task("t-03").TargetMAC })
	for range 6 {
		if _, err := node.Cluster.Propose(t.Context(), fleet.ServeBoot{MAC: mac}); err != nil {
			t.Fatal(err)
		}
	}
	v = answer(t, s, "GET", machine, "", 200)
	if v["held"] == nil || v["phase"] != "waiting" || !strings.Contains(v["phase_text"].(string), "held: told 5 times to start the agent") || !strings.Contains(fmt.Sprint(v["actions"]), "release") {
		t.Errorf("the machine is %v: %v, %v", v["phase"], v["phase_text"], v["actions"])
	}
	if v := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200); v["phase"] != "waiting" || !strings.Contains(v["phase_text"].(string), "held") {
		t.Errorf("its task is %v: %v", v["phase"], v["phase_text"])
	}
	if v := answer(t, s, "POST", machine+"/release", "", 200); v["held"] != nil {
		t.Errorf("released, it is %v", v["held"])
	}
	answer(t, s, "POST", "/api/v1/tasks/t-99/release", "", 404)
}

// people are callers of an API with accounts, who show a session or a token.
type people struct {
	t    *testing.T
	node *apitest.Node
	s    *api.Server
}

// newPeople makes an admin, ann, another, bob, and an operator, oli.
func newPeople(t *testing.T) *people {
	t.Helper()
	node, s := newGallery(t)
	p := &people{t: t, node: node, s: s}
	for name, role := range map[string]fleet.Role{"ann": fleet.Admin, "bob": fleet.Admin, "oli": fleet.Admin} {
		p.must(fleet.PutUser{ID: "u-" + name, Name: name, Role: role, PasswordHash: "$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA"})
	}
	operator := fleet.Operator
	p.must(fleet.ChangeUser{ID: "u-oli", Role: &operator})
	for _, name := range []string{"ann", "bob", "oli"} {
		p.must(fleet.CreateSession{SecretHash: fleet.HashSecret(secretOf(name)), UserID: "u-" + name})
	}
	return p
}

// secretOf is as long as a session's secret is.
func secretOf(name string) string { return (name + strings.Repeat("x", 43))[:43] }

func (p *people) must(body fleet.Body) {
	p.t.Helper()
	if _, err := p.node.Cluster.Propose(p.t.Context(), body); err != nil {
		p.t.Fatal(err)
	}
}

// token gives somebody a token, and the key of it.
func (p *people) token(name, userID string, role fleet.Role) string {
	p.t.Helper()
	key, id := door.NewToken()
	p.must(fleet.CreateAPIToken{ID: id, Name: name, SecretHash: fleet.HashSecret(key), Role: role, UserID: userID, ExpiresAt: p.node.Config().Now().Add(time.Hour)})
	return key
}

// ask is a request of somebody with a session, by name, or with the key of a token.
func (p *people) ask(who, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if strings.HasPrefix(who, "lpat_") {
		r.Header.Set("Authorization", "Bearer "+who)
	} else {
		r.AddCookie(&http.Cookie{Name: p.s.Door().CookieName(r), Value: secretOf(who)})
	}
	w := httptest.NewRecorder()
	p.s.Door().Enter(p.s).ServeHTTP(w, r)
	return w
}

// wants asks, and wants the status and the words in the answer.
func (p *people) wants(status int, words, who, method, path, body string) {
	p.t.Helper()
	if w := p.ask(who, method, path, body); w.Code != status || !strings.Contains(w.Body.String(), words) {
		p.t.Errorf("%s %s of %.12s answered %d, want %d and %q: %s", method, path, who, w.Code, status, words, w.Body)
	}
}

// The token of whoever gave the first word is not a second person.
func TestATokenIsNoSecondPerson(t *testing.T) {
	p := newPeople(t)
	p.must(fleet.PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Hour, SecondApprover: fleet.SecondAlways})
	var task fleet.Task
	p.node.Cluster.View(func(st *fleet.State) { task = *st.Task("t-03") })
	const path = "/api/v1/tasks/t-03/approve"
	body := fmt.Sprintf(`{"approved":true,"plan_hash":%q,"confirm_serial":%q}`, task.PlanHash, fleet.Confirm(task.Plan))
	p.wants(200, `"first_word":{`, "oli", "PUT", path, body)
	p.wants(409, "has approved task t-03 already", p.token("olis", "u-oli", fleet.Operator), "PUT", path, body)
	p.wants(409, "is a program", p.token("anns", "u-ann", fleet.Admin), "PUT", path, body)
	p.wants(409, "is a program", p.token("local's", "", fleet.Admin), "PUT", path, body)
	p.wants(200, `"status":"approved"`, "bob", "PUT", path, body)
}
