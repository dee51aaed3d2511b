package api_test

import (
	"encoding/json"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// A token lets nobody in who would stay when it is revoked.
func TestATokenMakesNoOtherWayIn(t *testing.T) {
	p := newPeople(t)
	key := p.token("anns", "u-ann", fleet.Admin)
	for _, c := range []struct{ method, path, body, words string }{
		{"POST", "/api/v1/tokens", `{"name":"another","role":"admin"}`, "a token cannot make another; sign in"},
		{"POST", "/api/v1/users", `{"name":"eve","role":"admin","password":"correct horse battery"}`, "a token cannot make a user; sign in"},
		{"POST", "/api/v1/me/password", `{"old":"x","new":"correct horse battery"}`, "a token cannot change a password; sign in"},
		{"PATCH", "/api/v1/users/bob", `{"password":"correct horse battery"}`, "a token cannot"},
		{"PATCH", "/api/v1/users/oli", `{"role":"admin"}`, "a token cannot"},
		{"PATCH", "/api/v1/users/oli", `{"disabled":false}`, "a token cannot"},
	} {
		p.wants(403, c.words, key, c.method, c.path, c.body)
	}
	p.wants(200, `"disabled":true`, key, "PATCH", "/api/v1/users/oli", `{"disabled":true}`)
	p.wants(200, `"account":false`, key, "GET", "/api/v1/session", "")

	// One that a person makes is the person's, and goes with the account.
	w := p.ask("bob", "POST", "/api/v1/tokens", `{"name":"bobs","role":"admin"}`)
	var made struct{ Key, User string }
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 || made.User != "bob" {
		t.Fatalf("bob was answered %d: %s (%v)", w.Code, w.Body, err)
	}
	p.wants(200, "", made.Key, "GET", "/api/v1/users", "")
	p.wants(204, "", "ann", "DELETE", "/api/v1/users/bob", "")
	p.wants(401, "", made.Key, "GET", "/api/v1/users", "")
}
