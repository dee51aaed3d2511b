package fleet

import (
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// phc is the hash of a password, as far as the rules look at it.
const phc = Secret("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA")

// user is a command that makes a user of that name and role.
func user(name string, role Role) PutUser {
	return PutUser{ID: "u-" + name, Name: name, Role: role, PasswordHash: phc, By: "ann"}
}

func ptr[T any](v T) *T { return &v }

// withUsers gives a rig with an admin, ann, an operator, oli, and a viewer, vic.
func withUsers(r *rig) *rig {
	r.must(user("ann", Admin), user("oli", Operator), user("vic", Viewer))
	return r
}

// session is a sign-in with a secret of that name.
func session(userID, secret string) CreateSession {
	return CreateSession{SecretHash: HashSecret(secret), UserID: userID, From: "192.0.2.7"}
}

func (r *rig) apiToken(name, userID string, role Role) CreateAPIToken {
	return CreateAPIToken{ID: "k-" + name, Name: name, SecretHash: HashSecret(name), Role: role, UserID: userID, ExpiresAt: r.at.Add(24 * time.Hour), By: "ann"}
}

func (r *rig) setupCode(name string) CreateCode {
	return CreateCode{ID: "c-" + name, Kind: CodeSetup, SecretHash: HashSecret(name), ExpiresAt: r.at.Add(15 * time.Minute), By: LocalName}
}

func (r *rig) loginCode(name, userID string, role Role) CreateCode {
	return CreateCode{ID: "c-" + name, Kind: CodeLogin, SecretHash: HashSecret(name), UserID: userID, Role: role, ExpiresAt: r.at.Add(10 * time.Minute), By: LocalName}
}

// writePeople puts every kind of command about people into a log, and some that
// are refused.
func writePeople(r *rig, do func(Body)) {
	do(r.setupCode("first"))
	do(RedeemSetup{SecretHash: HashSecret("wrong"), User: user("eve", Admin)}) // refused
	do(RedeemSetup{SecretHash: HashSecret("first"), User: user("ann", Viewer)})
	do(RedeemSetup{SecretHash: HashSecret("first"), User: user("bob", Admin)}) // refused
	do(user("bob", Operator))
	do(user("eve", Viewer))
	do(user("BOB", Viewer)) // refused
	do(session("u-bob", "s1"))
	do(session("u-ann", "s2"))
	checked := session("u-ann", "s3")
	checked.Checked = HashSecret(string(phc))
	do(checked)
	checked.Checked = HashSecret("another")
	do(checked) // refused
	do(session("u-ann", "s4"))
	r.at = r.at.Add(TouchEvery)
	do(TouchSession{SecretHash: HashSecret("s1")})
	do(EndSession{SecretHash: HashSecret("s2")})
	do(EndSession{ID: sessionID(HashSecret("s3")), By: "bob"})
	do(r.apiToken("ci", "", Operator))
	do(r.apiToken("bobs", "u-bob", Operator))
	do(r.apiToken("old", "", Viewer))
	do(DeleteAPIToken{ID: "k-old", By: "ann"})
	do(r.loginCode("link", "", Admin))
	do(r.loginCode("for bob", "u-bob", ""))
	do(RedeemLogin{SecretHash: HashSecret("link"), Session: session("", "s5")})
	do(RedeemLogin{SecretHash: HashSecret("link"), Session: session("", "s6")}) // refused
	do(ChangeUser{ID: "u-bob", Role: ptr(Viewer), By: "ann"})
	do(ChangeUser{ID: "u-ann", Disabled: ptr(true), By: "bob"}) // refused
	do(ChangeUser{ID: "u-eve", Disabled: ptr(true), PasswordHash: ptr(phc + "x"), By: "ann"})
	do(DeleteUser{ID: "u-eve", By: "ann"})
	do(NoteFailedLogins{[]FailedLogins{{Name: "ann", From: "192.0.2.9", Count: 7}, {Name: "hunter2", From: "192.0.2.9", Count: 1}}})
}

// anyPersonBody is anyBody of what concerns people.
func anyPersonBody(t *rapid.T, r *rig) Body {
	name := rapid.SampledFrom([]string{"ann", "bob", "eve"}).Draw(t, "user name")
	id := "u-" + name
	role := rapid.SampledFrom([]Role{Viewer, Operator, Admin, Admin, "king"}).Draw(t, "role")
	secret := HashSecret(rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "secret"))
	thing := "k-" + rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "thing")
	expires := r.at.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "lasts")) * time.Second)
	of := rapid.SampledFrom([]string{"", id}).Draw(t, "of")
	switch rapid.IntRange(0, 12).Draw(t, "person kind") {
	case 0, 1:
		return PutUser{ID: id, Name: name, Role: role, PasswordHash: phc, By: "ann"}
	case 2, 3:
		b := ChangeUser{ID: id, By: "ann"}
		switch rapid.IntRange(0, 2).Draw(t, "what of a user") {
		case 0:
			b.Role = &role
		case 1:
			b.PasswordHash = ptr(Secret(fmt.Sprint("$", rapid.IntRange(0, 2).Draw(t, "password"))))
		default:
			b.Disabled = ptr(rapid.Bool().Draw(t, "disabled"))
		}
		return b
	case 4:
		return DeleteUser{ID: id, By: "ann"}
	case 5:
		return CreateSession{SecretHash: secret, UserID: id, ExpiresAt: expires}
	case 6:
		return TouchSession{SecretHash: secret}
	case 7:
		return EndSession{SecretHash: secret, By: "ann"}
	case 8:
		return CreateAPIToken{ID: thing, Name: name, SecretHash: secret, Role: role, UserID: of, ExpiresAt: expires, By: "ann"}
	case 9:
		return DeleteAPIToken{ID: thing, By: "ann"}
	case 10:
		b := CreateCode{ID: thing, Kind: rapid.SampledFrom([]string{CodeSetup, CodeLogin}).Draw(t, "code kind"), SecretHash: secret, ExpiresAt: expires, By: "ann"}
		if b.Kind == CodeLogin {
			if b.UserID = of; of == "" {
				b.Role = role
			}
		}
		return b
	case 11:
		return RedeemSetup{SecretHash: secret, User: PutUser{ID: id, Name: name}}
	default:
		if rapid.Bool().Draw(t, "failed") {
			return NoteFailedLogins{[]FailedLogins{{Name: name, Count: 3}}}
		}
		return RedeemLogin{SecretHash: secret, Session: CreateSession{SecretHash: HashSecret(thing)}}
	}
}

// checkPeople wants what no sequence of commands may break.
func checkPeople(t *rapid.T, s *State) {
	admins, names := 0, map[string]bool{}
	for _, u := range s.Users() {
		if u.Role == Admin && !u.Disabled {
			admins++
		}
		if names[u.Name] {
			t.Fatalf("there are two users %s", u.Name)
		}
		names[u.Name] = true
	}
	if s.HasUsers() && admins == 0 {
		t.Fatalf("nobody of %v can make others", s.Users())
	}
	for _, v := range s.sessions {
		if u := s.User(v.UserID); v.UserID != "" && (u == nil || u.Disabled || v.CreatedAt.Before(u.ChangedAt)) || v.UserID == "" && !v.Role.Valid() {
			t.Fatalf("session %+v is of user %+v", v, u)
		}
	}
	for _, v := range s.apiTokens {
		if u := s.User(v.UserID); v.UserID != "" && (u == nil || u.Disabled || !u.Role.AtLeast(v.Role)) {
			t.Fatalf("token %+v is of user %+v", v, u)
		}
	}
	for _, v := range s.codes {
		if v.Kind == CodeSetup && v.UsedAt.IsZero() && s.HasUsers() {
			t.Fatalf("setup code %+v makes a first user where there is one", v)
		}
	}
}
