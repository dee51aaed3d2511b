package api_test

import (
	"encoding/json"
	"strings"
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

// A token is revoked by its id, or by a name that no other has.
func TestTheRightTokenIsRevoked(t *testing.T) {
	p := newPeople(t)
	left := func() (ids []string) {
		p.node.Cluster.View(func(st *fleet.State) {
			for _, v := range st.APITokens(p.node.Clock.Now()) {
				ids = append(ids, v.ID)
			}
		})
		return ids
	}
	p.token("ci", "u-ann", fleet.Viewer)
	first := left()[0]
	p.token(first, "u-ann", fleet.Viewer) // named like the first one's id
	p.wants(409, "take another name", "ann", "POST", "/api/v1/tokens", `{"name":"ci","role":"viewer"}`)
	p.wants(400, "can be shown", "ann", "POST", "/api/v1/tokens", `{"name":"a\u001b[2K","role":"viewer"}`)
	p.wants(400, "can be shown", "ann", "POST", "/api/v1/tokens", `{"name":"a\u202eb","role":"viewer"}`)
	p.wants(204, "", "ann", "DELETE", "/api/v1/tokens/"+first, "")
	if got := left(); len(got) != 1 || got[0] == first {
		t.Fatalf("the id revoked another, left is %v", got)
	}
	p.wants(204, "", "ann", "DELETE", "/api/v1/tokens/"+first, "") // now it is a name alone
	p.wants(404, "no API token", "ann", "DELETE", "/api/v1/tokens/"+first, "")

	// Two of one name are of a time before, and come in a snapshot.
	p.token("one", "u-ann", fleet.Viewer)
	p.token("two", "u-ann", fleet.Viewer)
	p.node.Cluster.View(func(st *fleet.State) {
		for _, v := range st.APITokens(p.node.Clock.Now()) {
			v.Name = "same"
		}
	})
	both := left()
	w := p.ask("ann", "DELETE", "/api/v1/tokens/same", "")
	if w.Code != 409 || !strings.Contains(w.Body.String(), both[0]) || !strings.Contains(w.Body.String(), both[1]) || len(left()) != 2 {
		t.Errorf("two of one name were answered %d: %s", w.Code, w.Body)
	}
}

// An admin sees who is signed in, and ends a session without its owner.
func TestAnAdminEndsASession(t *testing.T) {
	p := newPeople(t)
	w := p.ask("ann", "GET", "/api/v1/sessions", "")
	var list struct {
		Sessions []struct {
			ID, User, Role string
			Own            bool
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 || len(list.Sessions) != 3 {
		t.Fatalf("ann was answered %d: %s (%v)", w.Code, w.Body, err)
	}
	bobs := ""
	for _, v := range list.Sessions {
		if v.Own != (v.User == "ann") || (v.Role == "operator") != (v.User == "oli") {
			t.Errorf("a session is %+v", v)
		}
		if v.User == "bob" {
			bobs = v.ID
		}
	}
	for _, name := range []string{"ann", "bob", "oli"} {
		if secret := secretOf(name); strings.Contains(w.Body.String(), secret) || strings.Contains(w.Body.String(), string(fleet.HashSecret(secret))) {
			t.Errorf("the list has what lets %s in", name)
		}
	}
	p.wants(403, "", "oli", "GET", "/api/v1/sessions", "")
	p.wants(403, "", "oli", "DELETE", "/api/v1/sessions/"+bobs, "")
	p.wants(200, "", "bob", "GET", "/api/v1/users", "")
	p.wants(204, "", "ann", "DELETE", "/api/v1/sessions/"+bobs, "")
	p.wants(401, "", "bob", "GET", "/api/v1/users", "")
	p.wants(404, "there is no session", "ann", "DELETE", "/api/v1/sessions/"+bobs, "")
}
