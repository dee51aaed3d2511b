package fleet

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestARoleMayWhatThoseBeforeItMay(t *testing.T) {
	for _, c := range []struct {
		has, wants Role
		may        bool
	}{
		{Viewer, Viewer, true}, {Viewer, Operator, false}, {Viewer, Admin, false},
		{Operator, Viewer, true}, {Operator, Operator, true}, {Operator, Admin, false},
		{Admin, Viewer, true}, {Admin, Operator, true}, {Admin, Admin, true},
		{"", Viewer, false}, {"king", Viewer, false}, {Admin, "", false}, {Admin, "king", false}, {"", "", false},
	} {
		if got := c.has.AtLeast(c.wants); got != c.may {
			t.Errorf("%q may do what %q may: %v", c.has, c.wants, got)
		}
	}
}

// people is a rig with three users, a session, a token and a login link of each,
// and some that are nobody's.
func people(t testing.TB) *rig {
	r := withUsers(newRig(t))
	for _, name := range []string{"ann", "oli", "vic"} {
		r.must(session("u-"+name, name+"'s session"))
		r.must(r.apiToken(name, "u-"+name, Viewer))
		r.must(r.loginCode("link of "+name, "u-"+name, ""))
	}
	r.must(r.apiToken("ci", "", Operator))
	r.must(r.loginCode("link", "", Admin))
	return r
}

func TestTheRulesAboutPeople(t *testing.T) {
	long := strings.Repeat("x", 65)
	named := func(name string) PutUser { b := user("new", Viewer); b.Name = name; return b }
	cases := []struct {
		name  string
		body  func(r *rig) Body
		code  Code
		words string
	}{
		{"a user", func(*rig) Body { return user("eve", Viewer) }, "", ""},
		{"a user without a password", func(*rig) Body { return PutUser{ID: "u-eve", Name: "eve", Role: Admin} }, "", ""},
		{"a user without id", func(*rig) Body { return PutUser{Name: "eve", Role: Admin} }, Invalid, "new id"},
		{"a user with an id of another", func(*rig) Body { return PutUser{ID: "u-ann", Name: "eve", Role: Admin} }, Invalid, "new id"},
		{"a user with a name of another", func(*rig) Body { return named("ANN") }, Conflict, "user ann already"},
		{"a user without name", func(*rig) Body { return named("") }, Invalid, "no name"},
		{"a user with a space", func(*rig) Body { return named("ann b") }, Invalid, "no name"},
		{"a user with a letter that looks like another", func(*rig) Body { return named("аnn") }, Invalid, "no name"},
		{"a user with a long name", func(*rig) Body { return named(long) }, Invalid, "no name"},
		{"a user who begins with a dash", func(*rig) Body { return named("-f") }, Invalid, "no name"},
		{"a user called like the socket", func(*rig) Body { return named("Local") }, Invalid, "no name"},
		{"a user with a made-up role", func(*rig) Body { return user("eve", "king") }, Invalid, "no role"},
		{"a user with a password that is not hashed", func(*rig) Body {
			return PutUser{ID: "u-eve", Name: "eve", Role: Viewer, PasswordHash: "correct horse"}
		}, Invalid, "PHC"},

		{"another role", func(*rig) Body { return ChangeUser{ID: "u-vic", Role: ptr(Operator)} }, "", ""},
		{"a made-up role", func(*rig) Body { return ChangeUser{ID: "u-vic", Role: ptr(Role("king"))} }, Invalid, "no role"},
		{"a plain password", func(*rig) Body { return ChangeUser{ID: "u-vic", PasswordHash: ptr(Secret("hunter2"))} }, Invalid, "PHC"},
		{"nothing of a user", func(*rig) Body { return ChangeUser{ID: "u-vic"} }, "", ""},
		{"a user nobody knows", func(*rig) Body { return ChangeUser{ID: "u-nobody"} }, NotFound, "no user u-nobody"},
		{"the last admin made less", func(*rig) Body { return ChangeUser{ID: "u-ann", Role: ptr(Operator)} }, Conflict, "another user admin first"},
		{"the last admin disabled", func(*rig) Body { return ChangeUser{ID: "u-ann", Disabled: ptr(true)} }, Conflict, "another user admin first"},
		{"the last admin deleted", func(*rig) Body { return DeleteUser{ID: "u-ann"} }, Conflict, "another user admin first"},
		{"one of two admins deleted", func(r *rig) Body { r.must(user("eve", Admin)); return DeleteUser{ID: "u-ann"} }, "", ""},
		{"the last admin who is not disabled", func(r *rig) Body {
			r.must(user("eve", Admin))
			r.must(ChangeUser{ID: "u-eve", Disabled: ptr(true)})
			return DeleteUser{ID: "u-ann"}
		}, Conflict, "last admin"},
		{"a user deleted", func(*rig) Body { return DeleteUser{ID: "u-vic"} }, "", ""},
		{"nobody deleted", func(*rig) Body { return DeleteUser{ID: "u-nobody"} }, NotFound, "no user"},

		{"a session", func(*rig) Body { return session("u-vic", "new") }, "", ""},
		{"a session for the password as it is", func(*rig) Body {
			b := session("u-vic", "new")
			b.Checked = HashSecret(string(phc))
			return b
		}, "", ""},
		{"a session for the password of before", func(r *rig) Body {
			b := session("u-vic", "new")
			b.Checked = HashSecret(string(phc))
			r.must(ChangeUser{ID: "u-vic", PasswordHash: ptr(phc + "x")})
			return b
		}, Conflict, "changed meanwhile"},
		{"a session of nobody", func(*rig) Body { return session("", "new") }, NotFound, "no user"},
		{"a session of a user who is disabled", func(r *rig) Body {
			r.must(ChangeUser{ID: "u-vic", Disabled: ptr(true)})
			return session("u-vic", "new")
		}, Conflict, "disabled"},
		{"a session with another's secret", func(*rig) Body { return session("u-vic", "ann's session") }, Invalid, "new secret"},
		{"a session without a hash", func(*rig) Body { return CreateSession{SecretHash: "new", UserID: "u-vic"} }, Invalid, "SHA-256"},
		{"a session that is over", func(r *rig) Body {
			b := session("u-vic", "new")
			b.ExpiresAt = r.at
			return b
		}, Invalid, "for a while"},
		{"a session in use", func(*rig) Body { return TouchSession{HashSecret("ann's session")} }, "", ""},
		{"a session nobody knows in use", func(*rig) Body { return TouchSession{HashSecret("x")} }, NotFound, "sign in again"},
		{"a session ended", func(*rig) Body { return EndSession{SecretHash: HashSecret("ann's session")} }, "", ""},
		{"no session ended", func(*rig) Body { return EndSession{SecretHash: HashSecret("x")} }, "", ""},

		{"a token", func(r *rig) Body { return r.apiToken("new", "", Admin) }, "", ""},
		{"a token that may more than its user", func(r *rig) Body { return r.apiToken("new", "u-vic", Operator) }, Invalid, "may not do more"},
		{"a token of nobody there is", func(r *rig) Body { return r.apiToken("new", "u-nobody", Viewer) }, NotFound, "no user"},
		{"a token of a user who is disabled", func(r *rig) Body {
			r.must(ChangeUser{ID: "u-vic", Disabled: ptr(true)})
			return r.apiToken("new", "u-vic", Viewer)
		}, Conflict, "disabled"},
		{"a token with a made-up role", func(r *rig) Body { return r.apiToken("new", "", "king") }, Invalid, "no role"},
		{"a token without a name", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.Name = ""; return b }, Invalid, "needs a name"},
		{"a token with an escape in its name", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.Name = "ci\x1b[2K"; return b }, Invalid, "can be printed"},
		{"a token with a space at its end", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.Name = "ci "; return b }, Invalid, "no space at its ends"},
		{"a token with the name of another", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.Name = "ci"; return b }, Conflict, "API token \"ci\" already, k-ci"},
		{"a token without an end", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.ExpiresAt = time.Time{}; return b }, Invalid, "within a year"},
		{"a token for two years", func(r *rig) Body {
			b := r.apiToken("new", "", Viewer)
			b.ExpiresAt = r.at.AddDate(2, 0, 0)
			return b
		}, Invalid, "within a year"},
		{"a token with the secret of another", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.SecretHash = HashSecret("ci"); return b }, Invalid, "a new one"},
		{"a token with the id of another", func(r *rig) Body { b := r.apiToken("new", "", Viewer); b.ID = "k-ci"; return b }, Invalid, "new id"},
		{"a token deleted", func(*rig) Body { return DeleteAPIToken{ID: "k-ci"} }, "", ""},
		{"no token deleted", func(*rig) Body { return DeleteAPIToken{ID: "k-x"} }, NotFound, "no API token"},

		{"a login link", func(r *rig) Body { return r.loginCode("new", "u-vic", "") }, "", ""},
		{"a login link for nobody with a role", func(r *rig) Body { return r.loginCode("new", "", Viewer) }, "", ""},
		{"a login link for nobody", func(r *rig) Body { return r.loginCode("new", "", "") }, Invalid, "says by a role"},
		{"a login link that gives a user another role", func(r *rig) Body { return r.loginCode("new", "u-vic", Admin) }, Invalid, "says by a role"},
		{"a login link for nobody there is", func(r *rig) Body { return r.loginCode("new", "u-nobody", "") }, NotFound, "no user"},
		{"a login link for a user who is disabled", func(r *rig) Body {
			r.must(ChangeUser{ID: "u-vic", Disabled: ptr(true)})
			return r.loginCode("new", "u-vic", "")
		}, Conflict, "disabled"},
		{"a setup code where there are users", func(r *rig) Body { return r.setupCode("new") }, Conflict, "users already"},
		{"a code of another kind", func(r *rig) Body { b := r.loginCode("new", "u-vic", ""); b.Kind = "back door"; return b }, Invalid, "no kind"},
		{"a code for two days", func(r *rig) Body {
			b := r.loginCode("new", "u-vic", "")
			b.ExpiresAt = r.at.AddDate(0, 0, 2)
			return b
		}, Invalid, "within a day"},
		{"a code with the secret of another", func(r *rig) Body {
			b := r.loginCode("new", "u-vic", "")
			b.SecretHash = HashSecret("link")
			return b
		}, Invalid, "a new one"},
		{"a login", func(*rig) Body {
			return RedeemLogin{SecretHash: HashSecret("link of vic"), Session: session("u-ann", "new")}
		}, "", ""},
		{"a login with a session of another", func(*rig) Body {
			return RedeemLogin{SecretHash: HashSecret("link of vic"), Session: session("", "ann's session")}
		}, Invalid, "new secret"},
		{"a setup with a login link", func(*rig) Body {
			return RedeemSetup{SecretHash: HashSecret("link"), User: user("eve", Admin)}
		}, Precondition, "this code is not good"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := people(t)
			b := c.body(r)
			if c.code == "" {
				r.must(b)
				return
			}
			if err := r.refused(c.code, b); !strings.Contains(err.Message, c.words) {
				t.Errorf("the refusal is %q", err.Message)
			}
		})
	}
}

func TestTheFirstUserIsAnAdmin(t *testing.T) {
	r := newRig(t)
	r.refused(Invalid, user("vic", Viewer))
	r.must(r.setupCode("one"))
	r.must(r.setupCode("two"))
	got, err := r.do(RedeemSetup{SecretHash: HashSecret("one"), User: PutUser{ID: "u-1", Name: "Ann", PasswordHash: phc}})
	if u, ok := got.(*User); err != nil || !ok || u.Name != "ann" || u.Role != Admin || u.PasswordHash != phc || r.s.UserByName("ANN") != u {
		t.Fatalf("the first is %+v (%v)", got, err)
	}
	if r.s.CodeByHash(HashSecret("two"), r.at) != nil {
		t.Error("another setup code is good still")
	}
	wantAudit(t, r, "ann is the first user, admin, by setup code c-one",
		"local made a setup code, good until 2026-03-01T12:15:02Z", "local made a setup code, good until 2026-03-01T12:15:01Z")
	// A user who is made in another way ends setup codes as well.
	r = newRig(t)
	r.must(r.setupCode("one"), user("ann", Admin))
	r.refused(Precondition, RedeemSetup{SecretHash: HashSecret("one"), User: user("eve", Admin)})
}

// What is wrong, was used or has expired reads the same.
func TestACodeThatIsNotGoodTellsNothing(t *testing.T) {
	said := map[string]bool{}
	for name, spoil := range map[string]func(r *rig) Secret{
		"wrong": func(*rig) Secret { return HashSecret("wrong") },
		"empty": func(*rig) Secret { return "" },
		"used": func(r *rig) Secret {
			r.must(RedeemLogin{SecretHash: HashSecret("link"), Session: session("", "s")})
			return HashSecret("link")
		},
		"expired":          func(r *rig) Secret { r.at = r.at.Add(10 * time.Minute); return HashSecret("link") },
		"of who was":       func(r *rig) Secret { r.must(DeleteUser{ID: "u-vic"}); return HashSecret("link of vic") },
		"of another epoch": func(r *rig) Secret { r.must(PutCluster{Cluster{ID: "c"}}, RaiseEpoch{}); return HashSecret("link") },
	} {
		r := people(t)
		err := r.refused(Precondition, RedeemLogin{SecretHash: spoil(r), Session: session("", "new")})
		said[fmt.Sprint(err.Code, err.Message, err.Field, err.Changed)] = true
		if len(said) != 1 {
			t.Errorf("%s reads otherwise: %v", name, said)
		}
	}
}

func TestALoginLinkGivesWhatItSays(t *testing.T) {
	r := people(t)
	for link, want := range map[string]Session{"link": {Role: Admin}, "link of vic": {UserID: "u-vic"}} {
		got, err := r.do(RedeemLogin{SecretHash: HashSecret(link), Session: session("u-ann", "by "+link)})
		if v, ok := got.(*Session); err != nil || !ok || v.UserID != want.UserID || v.Role != want.Role || v.From != "192.0.2.7" ||
			r.s.SessionByHash(HashSecret("by "+link), r.at) != v {
			t.Errorf("%s gives %+v (%v)", link, got, err)
		}
	}
}

// S06: one success, however many try, in whatever entries they come.
func TestS06_OneOfAHundredRedeemsSucceeds(t *testing.T) {
	redeem := map[string]func(i int) Body{
		"setup": func(i int) Body {
			return RedeemSetup{SecretHash: HashSecret("code"), User: user(fmt.Sprint("user", i), Admin)}
		},
		"login": func(i int) Body {
			return RedeemLogin{SecretHash: HashSecret("code"), Session: session("", fmt.Sprint("session", i))}
		},
		"join": func(i int) Body { return RedeemToken{ID: "j", SecretHash: "code", NodeID: fmt.Sprint("n", i)} },
	}
	for name, body := range redeem {
		for _, together := range []int{1, 7, 100} {
			r := newRig(t)
			r.must(r.setupCode("other"), CreateToken{ID: "j", SecretHash: "code", ExpiresAt: r.at.Add(time.Hour)})
			code := r.setupCode("code")
			if name == "login" {
				code = r.loginCode("code", "", Admin)
			}
			r.must(code)
			won := 0
			var cmds []Command
			for i := range 100 {
				cmds = append(cmds, r.command(body(i)))
				if len(cmds) == together || i == 99 {
					r.s.ApplyAll(r.index, cmds, func(c Command, result any, err error) {
						if err == nil {
							won++
						} else if ErrorCode(err) != Precondition && ErrorCode(err) != Conflict {
							t.Errorf("%s: refused with %v", name, err)
						}
						// Who asks again because the answer was lost hears the same.
						if again, err2, done := r.s.Outcome(c.ID); !done || again != result && err == nil || fmt.Sprint(err2) != fmt.Sprint(err) {
							t.Errorf("%s: again it gives %v (%v), first %v (%v)", name, again, err2, result, err)
						}
					})
					cmds = nil
				}
			}
			if got := len(r.s.Users()) + len(r.s.Sessions(r.at)); won != 1 || name != "join" && got != 1 {
				t.Errorf("%s, %d in an entry: %d succeeded, %d users and sessions", name, together, won, got)
			}
		}
	}
}

// S07: what a user holds is void with the entry that says so.
func TestS07_WhoIsDisabledHoldsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		do      Body
		session bool // is good after it
		token   Role // what the token may after it, "" if it is gone
		link    bool
	}{
		"disabled":        {ChangeUser{ID: "u-oli", Disabled: ptr(true)}, false, "", false},
		"deleted":         {DeleteUser{ID: "u-oli"}, false, "", false},
		"made less":       {ChangeUser{ID: "u-oli", Role: ptr(Viewer)}, false, Viewer, true},
		"made more":       {ChangeUser{ID: "u-oli", Role: ptr(Admin)}, false, Operator, true},
		"a new password":  {ChangeUser{ID: "u-oli", PasswordHash: ptr(phc + "x")}, false, Operator, true},
		"nothing is new":  {ChangeUser{ID: "u-oli", Role: ptr(Operator), PasswordHash: ptr(phc), Disabled: ptr(false)}, true, Operator, true},
		"another is gone": {DeleteUser{ID: "u-vic"}, true, Operator, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := people(t)
			r.must(r.apiToken("olis", "u-oli", Operator))
			r.must(c.do)
			ended := false
			for _, ev := range r.events {
				ended = ended || ev.Type == EventSessionEnded && ev.ID == sessionID(HashSecret("oli's session"))
			}
			if ended == c.session {
				t.Errorf("that the session has ended is told: %v", ended)
			}
			check := func(s *State) {
				if got := s.SessionByHash(HashSecret("oli's session"), r.at); (got != nil) != c.session {
					t.Errorf("the session is %v", got)
				}
				var may Role
				if v := s.APITokenByHash(HashSecret("olis"), r.at); v != nil {
					may = v.Role
				}
				if may != c.token {
					t.Errorf("the token may %q, want %q", may, c.token)
				}
				if got := s.CodeByHash(HashSecret("link of oli"), r.at); (got != nil) != c.link {
					t.Errorf("the login link is %v", got)
				}
				if s.SessionByHash(HashSecret("ann's session"), r.at) == nil || s.APITokenByHash(HashSecret("ci"), r.at) == nil {
					t.Error("what others hold is gone")
				}
			}
			check(r.s)
			restored, err := Restore(bytes.NewReader(snapshotOf(t, r.s)))
			if err != nil {
				t.Fatal(err)
			}
			check(restored)
			if u := r.s.User("u-oli"); u != nil && u.Disabled {
				r.must(ChangeUser{ID: "u-oli", Disabled: ptr(false)})
				check(r.s) // what is void stays so
			}
		})
	}
}

func TestASessionEndsWhenNobodyUsesItAndAfterHalfADay(t *testing.T) {
	r := withUsers(newRig(t))
	h := HashSecret("s")
	r.must(session("u-ann", "s"))
	began := r.at
	good := func(at time.Time) bool { return r.s.SessionByHash(h, at) != nil }
	if !good(began.Add(SessionIdle-1)) || good(began.Add(SessionIdle)) {
		t.Error("a session that nobody uses lasts longer or shorter")
	}
	r.must(TouchSession{h}) // at once: not worth a change
	if len(r.events) > 0 {
		t.Errorf("a touch at once tells %v", r.events)
	}
	for r.at.Before(began.Add(SessionLife - TouchEvery)) {
		r.at = r.at.Add(TouchEvery)
		r.must(TouchSession{h})
	}
	if !good(began.Add(SessionLife-1)) || good(began.Add(SessionLife)) {
		t.Errorf("a session that is used lasts longer or shorter: %+v", r.s.Sessions(r.at))
	}
	r.at = began.Add(SessionLife)
	r.refused(NotFound, TouchSession{h})
	short := session("u-ann", "short")
	short.ExpiresAt = r.at.Add(time.Minute)
	long := session("u-ann", "long")
	long.ExpiresAt = r.at.AddDate(1, 0, 0)
	r.must(short, long)
	if v := r.s.SessionByHash(HashSecret("long"), r.at); v == nil || !v.ExpiresAt.Equal(r.at.Add(SessionLife)) {
		t.Errorf("a session for a year is %+v", v)
	}
	if r.s.SessionByHash(HashSecret("short"), r.at.Add(time.Minute)) != nil {
		t.Error("a session for a minute lasts longer")
	}
	if len(r.s.sessions) != 2 {
		t.Errorf("what has expired is kept: %v", r.s.sessions)
	}
}

func TestNobodyIsKeptOutByOldSessions(t *testing.T) {
	r := withUsers(newRig(t))
	var bodies []Body
	for i := range maxUserSessions {
		bodies = append(bodies, session("u-ann", fmt.Sprint("ann", i)))
	}
	r.must(bodies...)
	r.at = r.at.Add(TouchEvery)
	r.must(TouchSession{HashSecret("ann0")}, session("u-ann", "one more"))
	if r.s.SessionByHash(HashSecret("ann0"), r.at) == nil || r.s.SessionByHash(HashSecret("ann1"), r.at) != nil || len(r.s.sessions) != maxUserSessions {
		t.Error("it is not the session that was seen last the longest ago that makes room")
	}
	for u := range maxSessions/maxUserSessions - 1 {
		r.must(user(fmt.Sprint("user", u), Viewer))
		for i := range maxUserSessions {
			r.must(session(fmt.Sprint("u-user", u), fmt.Sprint(u, i)))
		}
	}
	r.must(session("u-vic", "vic"))
	if len(r.s.sessions) != maxSessions || r.s.SessionByHash(HashSecret("vic"), r.at) == nil {
		t.Errorf("there are %d sessions", len(r.s.sessions))
	}
}

func TestThereIsAnEndToTokensAndCodes(t *testing.T) {
	r := withUsers(newRig(t))
	for i := range maxAPITokens {
		r.must(r.apiToken(fmt.Sprint(i), "", Viewer))
	}
	r.refused(Conflict, r.apiToken("more", "", Viewer))
	for i := range maxCodes {
		r.must(r.loginCode(fmt.Sprint("c", i), "", Viewer))
	}
	r.refused(Conflict, r.loginCode("more", "", Viewer))
	r.must(RedeemLogin{SecretHash: HashSecret("c7"), Session: session("", "s")})
	r.must(r.loginCode("more", "", Viewer)) // in place of the one that was used
	r.at = r.at.Add(24 * time.Hour)
	if r.s.APITokenByHash(HashSecret("5"), r.at) != nil || len(r.s.APITokens(r.at)) != 0 {
		t.Error("a token is good after its time")
	}
	r.must(r.apiToken("again", "", Viewer))
	r.must(r.loginCode("once again", "", Viewer))
	if len(r.s.apiTokens) != 1 || len(r.s.codes) != 1 {
		t.Errorf("what has expired is kept: %d tokens, %d codes", len(r.s.apiTokens), len(r.s.codes))
	}
}

func TestFailedSignInsAreToldOnceAMinuteAName(t *testing.T) {
	r := withUsers(newRig(t))
	before := len(r.s.audit)
	try := func(items ...FailedLogins) {
		t.Helper()
		r.must(NoteFailedLogins{items})
	}
	for range 30 { // a second apart
		try(FailedLogins{Name: "ANN", From: "192.0.2.9", Count: 200}, FailedLogins{Name: "hunter2", From: "192.0.2.9", Count: 3},
			FailedLogins{Name: "swordfish", From: "192.0.2.8", Count: 4}, FailedLogins{Name: "oli"})
	}
	if got := len(r.s.audit) - before; got != 2 {
		t.Fatalf("half a minute of them gives %d records", got)
	}
	wantFirst := []string{`sign-ins refused for names that nobody has: 7, the last from "192.0.2.8"`, `sign-ins refused for user ann: 200, the last from "192.0.2.9"`}
	for i, a := range r.s.Audit(2) {
		if a.What != wantFirst[i] {
			t.Errorf("the record is %+v", a)
		}
	}
	if all := string(snapshotOf(t, r.s)); strings.Contains(all, "hunter2") || strings.Contains(all, "swordfish") {
		t.Error("what somebody typed is kept, which may be a password")
	}
	r.at = r.at.Add(time.Minute)
	try(FailedLogins{Name: "ann", Count: 1})
	if got := len(r.s.audit) - before; got != 3 {
		t.Errorf("after a minute there are %d records", got)
	}
}

// Hashes are in the log and in snapshots. Nobody else gets to see them.
func TestSecretsAreNotShown(t *testing.T) {
	r := people(t)
	secrets := []string{string(phc)}
	for _, text := range []string{"ann's session", "ann", "link of ann", "link"} {
		secrets = append(secrets, string(HashSecret(text)))
	}
	bodies := []Body{user("eve", Viewer), ChangeUser{ID: "u-eve", PasswordHash: ptr(phc + "x")}, session("u-ann", "x"),
		RedeemLogin{SecretHash: HashSecret("link"), Session: session("", "y")}}
	secrets = append(secrets, string(HashSecret("x")), string(HashSecret("y")))
	var shown []string
	show := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, string(b), fmt.Sprintf("%v %+v %#v", v, v, v))
		if _, event := v.(Event); !event { // a verb that fits no pointer shows all that is behind it
			shown = append(shown, fmt.Sprintf("%s %q %x", v, v, v))
		}
	}
	for _, b := range bodies {
		shown = append(shown, fmt.Sprintf("%v %+v %#v", b, b, b))
		result, err := r.do(b)
		if err != nil {
			t.Fatal(err)
		}
		show(result)
		for _, ev := range r.events {
			show(ev)
		}
	}
	for _, v := range r.s.Users() {
		show(*v)
	}
	for _, v := range r.s.Sessions(r.at) {
		show(*v)
	}
	for _, v := range r.s.APITokens(r.at) {
		show(*v)
	}
	for _, v := range r.s.codes {
		show(*v)
	}
	show(r.s.Audit(1000))
	for _, text := range shown {
		for _, secret := range secrets {
			if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
				t.Errorf("%s is in %s", secret, text)
			}
		}
	}
	if whole := string(snapshotOf(t, r.s)); !strings.Contains(whole, secrets[0]) || !strings.Contains(whole, secrets[1]) {
		t.Error("a snapshot lacks them")
	}
}

func TestASnapshotThatWouldLetSomebodyInIsRefused(t *testing.T) {
	r := people(t)
	r.must(session("u-ann", "s"))
	whole := string(snapshotOf(t, r.s))
	if _, err := Restore(strings.NewReader(whole)); err != nil {
		t.Fatal(err)
	}
	hash := string(HashSecret("ann's session"))
	for name, c := range map[string][2]string{
		"a user of no role":           {`"name":"vic","role":"viewer"`, `"name":"vic","role":"king"`},
		"a user twice by name":        {`"id":"u-vic","name":"vic"`, `"id":"u-vic","name":"oli"`},
		"a user twice by id":          {`"id":"u-vic","name":"vic"`, `"id":"u-oli","name":"vic"`},
		"a user called like nobody":   {`"name":"vic"`, `"name":"local"`},
		"a user with a bad password":  {`"password_hash":"$argon2id`, `"password_hash":"argon2id`},
		"no admin":                    {`"name":"ann","role":"admin"`, `"name":"ann","role":"operator"`},
		"a session of nobody":         {`"user_id":"u-ann","from"`, `"user_id":"u-nobody","from"`},
		"a session with a role":       {`"user_id":"u-ann","from"`, `"user_id":"u-ann","role":"admin","from"`},
		"a session of no user":        {`"user_id":"u-ann","from"`, `"from"`},
		"a session without a hash":    {`"secret_hash":"` + hash + `"`, `"secret_hash":""`},
		"a session of another hash":   {`"secret_hash":"` + hash + `"`, `"secret_hash":"` + string(HashSecret("x")) + `"`},
		"a session for ever":          {`"expires_at":"2026-03-02T00:00:04Z","secret_hash":"` + hash, `"expires_at":"2027-03-02T00:00:04Z","secret_hash":"` + hash},
		"a token that may more":       {`"name":"vic","role":"viewer","user_id"`, `"name":"vic","role":"admin","user_id"`},
		"a token of no role":          {`"name":"ci","role":"operator"`, `"name":"ci","role":"root"`},
		"a token known by another's":  {string(HashSecret("ci")), string(HashSecret("vic"))},
		"a code of no kind":           {`"kind":"login"`, `"kind":"back door"`},
		"a code for a first user":     {`"kind":"login","role":"admin"`, `"kind":"setup"`},
		"a code known by a token's":   {string(HashSecret("link")), string(HashSecret("vic"))},
		"an audit record changed":     {`ann made user vic, viewer`, `ann made user vic, admin!`},
		"an audit record of no place": {`"seq":2,`, `"seq":3,`},
	} {
		if !strings.Contains(whole, c[0]) {
			t.Fatalf("%s: %q is not in\n%s", name, c[0], whole)
		}
		if _, err := Restore(strings.NewReader(strings.Replace(whole, c[0], c[1], 1))); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

// A backup that is restored may know a token that was revoked after it was made.
func TestANewEpochKeepsNoAPIToken(t *testing.T) {
	r := people(t)
	r.must(PutCluster{Cluster{ID: "c1"}})
	before := r.s.Clone()
	old := r.command(RaiseEpoch{Reason: "restored", By: "ann"})
	old.Version = 2
	if _, _, err := before.Apply(r.index, old); err != nil || len(before.apiTokens) == 0 {
		t.Fatalf("an entry of before leaves %d tokens (%v)", len(before.apiTokens), err)
	}
	r.must(RaiseEpoch{Reason: "restored", By: "ann"})
	if n := len(r.s.apiTokens); n != 0 {
		t.Errorf("%d tokens are left", n)
	}
	gone := 0
	for _, e := range r.events {
		if e.Type == EventAPITokenDeleted {
			gone++
		}
	}
	if gone != len(before.apiTokens) {
		t.Errorf("of %d tokens %d were told to be gone", len(before.apiTokens), gone)
	}
	r.must(r.apiToken("ci", "u-ann", Viewer))
}
