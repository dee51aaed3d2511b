package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

func call(s http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	apitest.SignedIn(s).ServeHTTP(w, r)
	return w
}

// answer is the JSON of a call that has to end with the status.
func answer(t *testing.T, s http.Handler, method, path, body string, status int, header ...string) map[string]any {
	t.Helper()
	w := call(s, method, path, body, header...)
	if w.Code != status {
		t.Fatalf("%s %s answered %d, want %d: %s", method, path, w.Code, status, w.Body)
	}
	if status == 204 {
		return nil
	}
	want := "application/json"
	if status >= 400 {
		want = "application/problem+json"
	}
	if got := w.Header().Get("Content-Type"); got != want {
		t.Errorf("%s %s is %q, want %q", method, path, got, want)
	}
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s %s: %v: %s", method, path, err, w.Body)
	}
	return v
}

// TestEveryRouteTakesItsMethodsAlone walks the routes with every method.
func TestEveryRouteTakesItsMethodsAlone(t *testing.T) {
	_, s := newGallery(t)
	routes := map[string]string{
		"/api/v1/tasks":                      "GET HEAD POST",
		"/api/v1/tasks/t-99":                 "GET HEAD DELETE",
		"/api/v1/tasks/t-99/approve":         "PUT",
		"/api/v1/tasks/t-99/cancel":          "POST",
		"/api/v1/tasks/t-99/retry":           "POST",
		"/api/v1/tasks/t-99/release":         "POST",
		"/api/v1/plan":                       "POST",
		"/api/v1/policy":                     "GET HEAD PUT",
		"/api/v1/machines/m-99/protect":      "POST",
		"/api/v1/machines/m-99/unprotect":    "POST",
		"/api/v1/machines/m-99/address":      "PUT DELETE",
		"/api/v1/machines/m-99/release":      "POST",
		"/api/v1/machines":                   "GET HEAD",
		"/api/v1/machines/m-99":              "GET HEAD DELETE",
		"/api/v1/machines/m-99/settle":       "POST",
		"/api/v1/leases":                     "GET HEAD",
		"/api/v1/leases/none/release":        "POST",
		"/api/v1/machines/m-99/boot":         "GET HEAD POST DELETE",
		"/api/v1/profiles":                   "GET HEAD POST",
		"/api/v1/profiles/none":              "GET HEAD DELETE",
		"/api/v1/profile-files":              "POST",
		"/api/v1/images":                     "GET HEAD POST",
		"/api/v1/images/none":                "DELETE",
		"/api/v1/regions":                    "GET HEAD",
		"/api/v1/stats":                      "GET HEAD",
		"/api/v1/doctor":                     "GET HEAD",
		"/api/v1/health":                     "GET HEAD",
		"/api/v1/network":                    "GET HEAD",
		"/api/v1/wire/none":                  "GET HEAD",
		"/api/v1/cluster":                    "GET HEAD",
		"/api/v1/cluster/tokens":             "POST",
		"/api/v1/cluster/transfer":           "POST",
		"/api/v1/cluster/nodes/n-99":         "DELETE",
		"/api/v1/cluster/nodes/n-99/promote": "POST",
		"/api/v1/cluster/nodes/n-99/demote":  "POST",
		"/api/v1/backup":                     "GET HEAD",
		"/api/v1/audit":                      "GET HEAD",
		"/api/v1/audit/export":               "GET HEAD",
		"/api/v1/session":                    "GET HEAD POST DELETE",
		"/api/v1/setup":                      "POST",
		"/api/v1/me/password":                "POST",
		"/api/v1/login-links":                "POST",
		"/api/v1/setup-codes":                "POST",
		"/api/v1/users":                      "GET HEAD POST",
		"/api/v1/users/u-99":                 "PATCH DELETE",
		"/api/v1/sessions":                   "GET HEAD",
		"/api/v1/sessions/none":              "DELETE",
		"/api/v1/tokens":                     "GET HEAD POST",
		"/api/v1/tokens/none":                "DELETE",
		"/openapi.json":                      "GET HEAD",
		"/healthz":                           "GET HEAD",
		"/api/v1/":                           "",
		"/api/v1/tasks/t/other":              "",
		"/api/v1/agent/report":               "",
		"/docs":                              "",
		"/schemas/Task.json":                 "",
		"/debug/pprof/":                      "",
	}
	// What is described is in the table; events are served by the dashboard's hub.
	var doc struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(s.OpenAPI(), &doc); err != nil {
		t.Fatal(err)
	}
	names := strings.NewReplacer("tasks/{id}", "tasks/t-99", "machines/{id}", "machines/m-99", "nodes/{id}", "nodes/n-99", "users/{id}", "users/u-99", "tokens/{id}", "tokens/none", "sessions/{id}", "sessions/none", "{address}", "none", "{name}", "none", "{mac}", "none")
	for path, methods := range doc.Paths {
		for method := range methods {
			if !strings.Contains(routes[names.Replace(path)], strings.ToUpper(method)) && path != "/api/v1/events" {
				t.Errorf("%s %s is described and not in the table", method, path)
			}
		}
	}
	for path, methods := range routes {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"} {
			w := call(s, method, path, "")
			takes := false
			for m := range strings.FieldsSeq(methods) {
				takes = takes || m == method
			}
			switch {
			case methods == "" && w.Code != 404:
				t.Errorf("%s %s answered %d, want 404", method, path, w.Code)
			case methods != "" && !takes && (w.Code != 405 || w.Header().Get("Allow") == ""):
				t.Errorf("%s %s answered %d, want 405 with Allow", method, path, w.Code)
			case takes && (w.Code == 405 || w.Code >= 500):
				t.Errorf("%s %s answered %d", method, path, w.Code)
			}
			if w.Code >= 400 && w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("%s %s answered %d as %q", method, path, w.Code, w.Header().Get("Content-Type"))
			}
		}
	}
}

func TestBadBodies(t *testing.T) {
	_, s := newGallery(t)
	writes := []string{"POST /api/v1/tasks", "PUT /api/v1/tasks/t-03/approve", "POST /api/v1/plan", "POST /api/v1/machines/m-18/settle", "POST /api/v1/images", "POST /api/v1/cluster/transfer"}
	bodies := map[string]string{
		"null": "null", "array": "[]", "empty object": "{}", "null inside": `{"spec":null}`, "string": `"x"`, "number": "1e999", "cut": `{"os_type":`,
		"deep": strings.Repeat("[", 200_000), "deep objects": strings.Repeat(`{"a":`, 100_000),
		"many names":   `{"a":1` + strings.Repeat(`,"b":1`, 100_000) + "}",
		"many strange": manyNames(20_000),
		"twice":        `{"os_type":"debian","os_type":"tiny"}`,
		"lone half":    `{"os_type":"\ud800"}`, "not UTF-8": "{\"os_type\":\"\xff\"}", "two documents": `{"os_type":"debian"}{}`,
		"unknown field": `{"os_type":"debian","approved":true,"accept":true,"name":"x","colour":"red"}`,
		"wrong type":    `{"os_type":12,"approved":"yes","accept":1,"name":[]}`,
		"other case":    `{"OS_Type":"debian","Approved":true,"Accept":true}`,
	}
	for _, write := range writes {
		method, path, _ := strings.Cut(write, " ")
		for name, body := range bodies {
			if strings.HasPrefix(name, "other case") && path == "/api/v1/images" {
				continue // refused for its missing name all the same, below
			}
			start := time.Now()
			v := answer(t, s, method, path, body, 400)
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("%s with %s took %v", write, name, took)
			}
			if v["detail"] == "" || v["title"] != "Bad Request" || v["status"] != 400.0 {
				t.Errorf("%s with %s answered %v", write, name, v)
			}
			if b, _ := json.Marshal(v); len(b) > 8<<10 {
				t.Errorf("%s with %s answered %d bytes", write, name, len(b))
			}
		}
		if w := call(s, method, path, `{"os_type":"`+strings.Repeat("a", 2<<20)+`"}`); w.Code != 413 {
			t.Errorf("%s with 2 MiB answered %d, want 413", write, w.Code)
		}
		if w := call(s, method, path, `{"os_type":"debian"}`, "Content-Type", "text/plain"); w.Code != 415 {
			t.Errorf("%s as text answered %d, want 415", write, w.Code)
		}
		if w := call(s, method, path, "", "Content-Type", "application/json"); w.Code != 400 {
			t.Errorf("%s with nothing answered %d, want 400", write, w.Code)
		}
	}
}

func manyNames(n int) string {
	var b strings.Builder
	b.WriteString(`{"os_type":"debian"`)
	for i := range n {
		fmt.Fprintf(&b, `,"n%d":1`, i)
	}
	return b.String() + "}"
}

// TestRefusalsNameTheField: whoever sent it can see which word was wrong, also
// when only the plan was asked for.
func TestRefusalsNameTheField(t *testing.T) {
	_, s := newGallery(t)
	for _, c := range []struct{ body, location string }{
		{`{"os_type":"debian","colour":"red"}`, "body.colour"},
		{`{"os_type":"debian","network_config":{"host":"x"}}`, "body.network_config.host"},
		{`{"os_type":5}`, "body.os_type"},
		{`{"os_type":"debian","os_version":"12"}`, "body.target_mac"},
		{`{"os_type":"debian","os_version":"12","target_mac":"zz"}`, "body.target_mac"},
		{`{"os_type":"beos","machine_id":"m-01"}`, "body.os_type"},
		{`{"os_type":"debian","os_version":"12","machine_id":"m-01","target_mac":"52:54:00:12:00:02"}`, "body.target_mac"},
		{`{"os_type":"debian","os_version":"12","machine_id":"m-01","network_config":{"hostname":"-x"}}`, "body.network_config.hostname"},
		{`{"os_type":"debian","os_version":"12","machine_id":"m-01","network_config":{"hostname":"not a name"}}`, "body.network_config.hostname"},
		{`{"os_type":"debian","os_version":"12","target_mac":"52:54:00:00:00:99","network_config":{"hostname":"not a name"}}`, "body.network_config.hostname"},
		{`{"os_type":"debian","os_version":"12","machine_id":"m-01","user_data":"` + strings.Repeat("x", 64<<10+1) + `"}`, "body.user_data"},
		{`{"os_type":"debian","os_version":"12","machine_id":"m-01","network_config":{"ssh_keys":["x"]}}`, "body.network_config.ssh_keys[0]"},
	} {
		task := answer(t, s, "POST", "/api/v1/tasks", c.body, 400)
		plan := answer(t, s, "POST", "/api/v1/plan", c.body, 400)
		if !reflect.DeepEqual(task, plan) {
			t.Errorf("%.200s: the task is refused with %v, its plan with %v", c.body, task, plan)
		}
		fields, _ := task["errors"].([]any)
		if len(fields) == 0 {
			t.Errorf("%.200s: no field is named: %v", c.body, task)
			continue
		}
		if got := fields[0].(map[string]any)["location"]; got != c.location {
			t.Errorf("%.200s: location is %v, want %s", c.body, got, c.location)
		}
	}
	answer(t, s, "GET", "/api/v1/tasks?limit=0", "", 400)
	answer(t, s, "GET", "/api/v1/tasks?status=happy", "", 400)
	answer(t, s, "GET", "/api/v1/tasks?colour=red", "", 400)
}

// TestPlanSaysWhatIsInTheWay: a machine with an open task gets no second one,
// and no plan for it.
func TestPlanSaysWhatIsInTheWay(t *testing.T) {
	_, s := newGallery(t)
	wish := `{"target_mac":"52:54:00:12:00:03","os_type":"debian","os_version":"12"}`
	refused := answer(t, s, "POST", "/api/v1/tasks", wish, 409)
	plan := answer(t, s, "POST", "/api/v1/plan", wish, 200)
	if plan["plan"] != nil || plan["plan_hash"] != "" || plan["problem"] != refused["detail"] {
		t.Errorf("the plan is %v, the task is refused with %q", plan, refused["detail"])
	}
}

func TestCreateAndApproveInOneClick(t *testing.T) {
	node, s := newGallery(t)
	wish := `{"machine_id":"m-01","os_type":"debian","os_version":"12","network_config":{"hostname":"db-1"}%s}`
	plan := answer(t, s, "POST", "/api/v1/plan", fmt.Sprintf(wish, ""), 200)
	hash := plan["plan_hash"].(string)
	before := len(s.Picture().Tasks)

	answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, `,"approve":{"plan_hash":"`+strings.Repeat("a", 64)+`"}`), 412)
	if got := len(s.Picture().Tasks); got != before {
		t.Fatalf("a refused click left %d tasks, there were %d", got, before)
	}
	v := answer(t, s, "POST", "/api/v1/tasks", fmt.Sprintf(wish, `,"approve":{"plan_hash":"`+hash+`","notes":"go"}`), 201)
	if v["status"] != "approved" || v["plan_hash"] != hash || v["approval"].(map[string]any)["by"] != "anna" {
		t.Errorf("the task is %v", v)
	}
	if v["user_data"] != nil || v["machine_name"] != "db-1" {
		t.Errorf("the task is %v", v)
	}
	var token string
	node.Cluster.View(func(st *fleet.State) { token = st.Task(v["id"].(string)).PhoneToken })
	if w := call(s, "GET", "/api/v1/tasks/"+v["id"].(string), ""); token == "" || strings.Contains(w.Body.String(), token) {
		t.Error("the task tells its phone token")
	}
}

// swapDisk lets the machine of task t-03 report another system on the disk that
// its plan would erase.
func swapDisk(t *testing.T, node *apitest.Node) {
	t.Helper()
	inv := apitest.Server()
	inv.System.UUID, inv.System.Serial = "4c4c4544-0035-4d10-8052-b7c04f4e0003", "LAB-03"
	inv.NICs = []wire.NIC{{Name: "eno1", MAC: "52:54:00:12:00:03"}, {Name: "eno2", MAC: "52:54:00:13:00:03"}}
	inv.Disks[1].Contents.OS = "Ubuntu 24.04"
	if _, err := node.Cluster.Propose(t.Context(), fleet.ReportMachine{BootID: "b-3", SessionHash: "s-3", RegionID: "dc1", MAC: "52:54:00:12:00:03", Inventory: inv}); err != nil {
		t.Fatal(err)
	}
}

// TestStalePlanSaysWhatChanged: the disk is swapped between looking and clicking.
func TestStalePlanSaysWhatChanged(t *testing.T) {
	node, s := newGallery(t)
	seen := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	tag := call(s, "GET", "/api/v1/tasks/t-03", "").Header().Get("ETag")
	swapDisk(t, node)
	body := fmt.Sprintf(`{"approved":true,"plan_hash":%q}`, seen["plan_hash"])
	v := answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", body, 412)
	if got := fmt.Sprint(v["changed"]); got != "[what lies on disk PHAB1234001L1P9S has changed]" {
		t.Errorf("changed is %s", got)
	}
	v = answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", body, 412, "If-Match", tag)
	if len(v["changed"].([]any)) == 0 {
		t.Error("a stale ETag says nothing of what changed")
	}
	now := answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)
	tag = call(s, "GET", "/api/v1/tasks/t-03", "").Header().Get("ETag")
	v = answer(t, s, "PUT", "/api/v1/tasks/t-03/approve", fmt.Sprintf(`{"approved":true,"plan_hash":%q,"confirm_serial":"1P9s"}`, now["plan_hash"]), 200, "If-Match", tag)
	if v["status"] != "approved" {
		t.Errorf("the task is %v", v["status"])
	}
	answer(t, s, "PUT", "/api/v1/tasks/t-05/approve", `{"approved":false}`, 409)
	answer(t, s, "PUT", "/api/v1/tasks/t-99/approve", `{"approved":false}`, 404, "If-Match", `"1-none"`)
}

func TestLifeOfATask(t *testing.T) {
	_, s := newGallery(t)
	v := answer(t, s, "POST", "/api/v1/tasks", `{"target_mac":"52:54:00:AA:00:01","os_type":"tiny"}`, 201)
	path := "/api/v1/tasks/" + v["id"].(string)
	if v["status"] != "pending" || v["phase"] != "queued" || v["target_mac"] != "52:54:00:aa:00:01" || v["region_id"] != "dc1" {
		t.Errorf("a new task is %v", v)
	}
	answer(t, s, "POST", "/api/v1/tasks", `{"target_mac":"52:54:00:aa:00:01","os_type":"tiny"}`, 409)
	answer(t, s, "DELETE", "/api/v1/images/tiny", "", 409)
	answer(t, s, "POST", path+"/retry", "", 409)
	if v := answer(t, s, "POST", path+"/cancel", "", 200); v["status"] != "cancelled" {
		t.Errorf("a cancelled task is %v", v["status"])
	}
	if v := answer(t, s, "POST", path+"/retry", "", 200); v["generation"] != 2.0 {
		t.Errorf("a retried task is of generation %v", v["generation"])
	}
	answer(t, s, "POST", path+"/cancel", "", 200)
	answer(t, s, "DELETE", path, "", 204)
	answer(t, s, "GET", path, "", 404)
	answer(t, s, "DELETE", path, "", 404)
}

func TestPagesHoldEachOnce(t *testing.T) {
	_, s := newGallery(t)
	for what, want := range map[string]int{"tasks": len(s.Picture().Tasks), "machines": len(s.Picture().Machines)} {
		seen, cursor := map[string]bool{}, ""
		for pages := 0; ; pages++ {
			v := answer(t, s, "GET", "/api/v1/"+what+"?limit=4&cursor="+cursor, "", 200)
			for _, one := range v[what].([]any) {
				id := one.(map[string]any)["id"].(string)
				if seen[id] {
					t.Fatalf("%s: %s is on two pages", what, id)
				}
				seen[id] = true
			}
			next, more := v["next_cursor"].(string)
			if !more {
				break
			}
			if cursor = next; pages > 20 {
				t.Fatalf("%s: the pages do not end", what)
			}
		}
		if len(seen) != want || want < 5 {
			t.Errorf("the pages hold %d of %d %s", len(seen), want, what)
		}
	}
	if v := answer(t, s, "GET", "/api/v1/tasks?status=failed", "", 200); len(v["tasks"].([]any)) != 1 {
		t.Errorf("failed tasks: %v", v)
	}
	if v := answer(t, s, "GET", "/api/v1/machines?phase=lost", "", 200); len(v["machines"].([]any)) != 1 {
		t.Errorf("lost machines: %v", v)
	}
}

func TestSettleAndForgetMachines(t *testing.T) {
	_, s := newGallery(t)
	v := answer(t, s, "POST", "/api/v1/machines/m-18/settle", `{"accept":false}`, 200)
	if v["question"] != "" || v["phase"] != "discovered" {
		t.Errorf("a settled machine is %v: %v", v["phase"], v["question"])
	}
	answer(t, s, "POST", "/api/v1/machines/m-18/settle", `{"accept":false}`, 409)
	answer(t, s, "DELETE", "/api/v1/machines/m-18", "", 204)
	answer(t, s, "GET", "/api/v1/machines/m-18", "", 404)
	answer(t, s, "DELETE", "/api/v1/machines/m-03", "", 409)
}

func TestHealthAndStats(t *testing.T) {
	_, s := newGallery(t)
	h := answer(t, s, "GET", "/api/v1/health", "", 200)
	if h["status"] != "ok" || h["node"] != "n1" || h["leader"] != "n-1" || h["uptime_seconds"].(float64) < 100 {
		t.Errorf("health is %v", h)
	}
	st := answer(t, s, "GET", "/api/v1/stats", "", 200)
	if st["needs_you"].(float64) != 7 || st["index"] != h["index"] {
		t.Errorf("stats are %v", st)
	}
}

var _ api.Cluster = (*apitest.Cluster)(nil)
