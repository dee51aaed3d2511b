package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
)

// FuzzBodies sends anything to every route that takes a body: it is answered
// with a status of ours, in JSON, and never with a panic.
func FuzzBodies(f *testing.F) {
	routes := []struct{ method, path string }{
		{"POST", "/api/v1/tasks"}, {"POST", "/api/v1/plan"}, {"PUT", "/api/v1/tasks/t-03/approve"},
		{"POST", "/api/v1/machines/m-18/settle"}, {"POST", "/api/v1/images"}, {"POST", "/api/v1/tasks/t-03/cancel"},
		{"POST", "/api/v1/cluster/transfer"}, {"POST", "/api/v1/cluster/tokens"},
	}
	for i := range routes {
		for _, body := range []string{
			`{"machine_id":"m-01","os_type":"debian","os_version":"12","network_config":{"hostname":"a","ssh_keys":["ssh-ed25519 A"]},"tags":{"a":"b"},"approve":{"plan_hash":"x"}}`,
			`{"approved":true,"plan_hash":"00","notes":"x"}`, `{"accept":true}`, `{"to":"n-2"}`, `{"name":"x","url":"http://h/x"}`, `null`, `[]`, `{}`, `"\ud800"`, `{"os_type":null,"tags":null,"disk_layout":null}`,
		} {
			f.Add(uint8(i), []byte(body))
		}
	}
	// One fleet for all: what was done to it before matters to no check here.
	node := apitest.NewNode()
	s, err := api.New(node.Config())
	if err != nil {
		f.Fatal(err)
	}
	if err := apitest.Gallery(node); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, route uint8, body []byte) {
		at := routes[int(route)%len(routes)]
		r := httptest.NewRequest(at.method, at.path, bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		apitest.SignedIn(s).ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s answered %d: %s", at.method, at.path, w.Code, w.Body)
		}
		if w.Code != http.StatusNoContent && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%s %s answered no JSON: %q", at.method, at.path, w.Body)
		}
	})
}

// FuzzCheckJSON: what passes is JSON, and one that every reader reads alike.
func FuzzCheckJSON(f *testing.F) {
	for _, s := range []string{`{"a":[1,2,{"b":null}]}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `"\ud800x"`, `"\\ud800"`, `[[[[`, ` 1 `, `1 2`, `{"a"`, "\"\xff\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if api.CheckJSON(data) != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatal("passed, and is no JSON")
		}
	})
}
