package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// How many there may be at once. A state that anybody could let grow would be a
// way to stop every node.
const (
	maxUsers        = 1000
	maxSessions     = 1000
	maxUserSessions = 100
	maxAPITokens    = 1000
	maxCodes        = 100
)

const (
	// maxTokenLife is how long an API token is good at most.
	maxTokenLife = 366 * 24 * time.Hour
	// maxCodeLife is how long a code is good at most.
	maxCodeLife = 24 * time.Hour
	// touchPause is how soon after the last a touch changes nothing.
	touchPause = time.Minute
	// failuresPause is how long no more is told of failed sign-ins with a name.
	failuresPause = time.Minute
)

// LocalName is how who holds a node's data directory is called; no user is.
const LocalName = "local"

// validUserName reports whether people can be told apart by the name: in the audit
// no name may look like another.
func validUserName(name string) bool {
	return name != "" && len(name) <= 64 && name != LocalName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._@-") == "" &&
		!strings.ContainsAny(name[:1], "._@-")
}

// validPassword reports whether it is the hash of a password in PHC text, or none.
func validPassword(h Secret) bool {
	return h == "" || len(h) <= 512 && h[0] == '$' && !strings.ContainsAny(string(h), " \t\r\n")
}

// check refuses a user that cannot be made.
func (b PutUser) check(s *State) error {
	name := strings.ToLower(b.Name)
	switch {
	case b.ID == "" || s.users[b.ID] != nil:
		return invalid("id", "a new user needs a new id")
	case !validUserName(name):
		return invalid("name", "%.80q is no name for a user: use letters a-z, digits, dot, dash, underscore and @, beginning with a letter or digit, 64 at most; %q is taken by the node's own socket", b.Name, LocalName)
	case !b.Role.Valid():
		return invalid("role", "%.40q is no role; there are viewer, operator and admin", b.Role)
	case !validPassword(b.PasswordHash):
		return invalid("password", "the password of user %s has no hash in PHC text", name)
	case s.UserByName(name) != nil:
		return &Error{Code: Conflict, Field: "name", Message: "there is a user " + name + " already; take another name"}
	case !s.HasUsers() && b.Role != Admin:
		return invalid("role", "the first user has to be an admin, or nobody could make others")
	case len(s.users) >= maxUsers:
		return refuse(Conflict, "there are %d users already; delete those that have left", maxUsers)
	}
	return nil
}

// make makes the user. It has been checked.
func (b PutUser) make(s *State, c Command) *User {
	u := &User{ID: b.ID, Name: strings.ToLower(b.Name), Role: b.Role, PasswordHash: b.PasswordHash, CreatedAt: c.At, ChangedAt: c.At}
	s.putUser(u)
	for _, v := range sorted(s.codes) { // whoever has one of these comes too late
		if v.Kind == CodeSetup && v.UsedAt.IsZero() {
			s.dropCode(v)
		}
	}
	return u
}

func (b PutUser) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	if err := b.check(s); err != nil {
		return nil, err
	}
	u := b.make(s, c)
	s.note(c, AuditRecord{By: b.By, User: u.Name, What: fmt.Sprintf("%s made user %s, %s", who(b.By), u.Name, u.Role)})
	return u, nil
}

func (s *State) putUser(u *User) {
	s.users[u.ID] = u
	s.events = append(s.events, Event{Type: EventUser, ID: u.ID, Name: u.Name, User: u})
}

// lastAdmin reports whether without the user nobody could make others.
func (s *State) lastAdmin(u *User) bool {
	if u.Role != Admin || u.Disabled {
		return false
	}
	for _, other := range s.users {
		if other.ID != u.ID && other.Role == Admin && !other.Disabled {
			return false
		}
	}
	return true
}

func (b ChangeUser) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	old := s.users[b.ID]
	if old == nil {
		return nil, refuse(NotFound, "there is no user %.40s", b.ID)
	}
	u := *old
	var did []string
	if b.Role != nil && *b.Role != u.Role {
		if !b.Role.Valid() {
			return nil, invalid("role", "%.40q is no role; there are viewer, operator and admin", *b.Role)
		}
		u.Role = *b.Role
		did = append(did, "made user "+u.Name+" "+string(u.Role))
	}
	if b.PasswordHash != nil && *b.PasswordHash != u.PasswordHash {
		if !validPassword(*b.PasswordHash) {
			return nil, invalid("password", "the password of user %s has no hash in PHC text", u.Name)
		}
		u.PasswordHash = *b.PasswordHash
		did = append(did, "changed the password of user "+u.Name)
	}
	if b.Disabled != nil && *b.Disabled != u.Disabled {
		u.Disabled = *b.Disabled
		if u.Disabled {
			did = append(did, "disabled user "+u.Name)
		} else {
			did = append(did, "enabled user "+u.Name)
		}
	}
	if len(did) == 0 {
		return old, nil
	}
	if s.lastAdmin(old) && (u.Role != Admin || u.Disabled) {
		return nil, refuse(Conflict, "%s is the last admin who can sign in; make another user admin first", u.Name)
	}
	u.ChangedAt = c.At
	s.putUser(&u)
	sessions := s.endSessionsOf(u.ID)
	if u.Disabled {
		s.dropHeldBy(u.ID)
	} else {
		s.lowerTokensOf(&u)
	}
	s.note(c, AuditRecord{By: b.By, User: u.Name, What: fmt.Sprintf("%s %s; sessions ended by it: %d", who(b.By), strings.Join(did, " and "), sessions)})
	return &u, nil
}

func (b DeleteUser) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	u := s.users[b.ID]
	switch {
	case u == nil:
		return nil, refuse(NotFound, "there is no user %.40s", b.ID)
	case s.lastAdmin(u):
		return nil, refuse(Conflict, "%s is the last admin who can sign in; make another user admin first", u.Name)
	}
	s.endSessionsOf(u.ID)
	s.dropHeldBy(u.ID)
	delete(s.users, u.ID)
	s.events = append(s.events, Event{Type: EventUserDeleted, ID: u.ID, Name: u.Name})
	s.note(c, AuditRecord{By: b.By, User: u.Name, What: who(b.By) + " deleted user " + u.Name})
	return nil, nil
}

// endSessionsOf ends all sessions of a user and says how many there were.
func (s *State) endSessionsOf(userID string) (n int) {
	for _, v := range sorted(s.sessions) {
		if v.UserID == userID {
			s.dropSession(v)
			n++
		}
	}
	return n
}

// endAllSessions has everybody sign in again, and voids what could be used to do
// so: a state that comes from a backup knows sessions that were ended since, and
// codes that were used.
func (s *State) endAllSessions() {
	for _, v := range sorted(s.sessions) {
		s.dropSession(v)
	}
	for _, v := range sorted(s.codes) {
		s.dropCode(v)
	}
}

// dropHeldBy takes away what would let a user in again.
func (s *State) dropHeldBy(userID string) {
	for _, v := range sorted(s.apiTokens) {
		if v.UserID == userID {
			s.dropAPIToken(v)
		}
	}
	for _, v := range sorted(s.codes) {
		if v.UserID == userID {
			s.dropCode(v)
		}
	}
}

// lowerTokensOf keeps the user's tokens from doing more than the user may now.
func (s *State) lowerTokensOf(u *User) {
	for _, v := range sorted(s.apiTokens) {
		if v.UserID == u.ID && !u.Role.AtLeast(v.Role) {
			lower := *v
			lower.Role = u.Role
			s.putAPIToken(&lower)
		}
	}
}

// check refuses a session that cannot be made, for a user or for none.
func (b CreateSession) check(s *State, c Command) error {
	switch {
	case !b.SecretHash.isHash():
		return invalid("secret_hash", "a session is known by the SHA-256 of its secret")
	case s.sessions[sessionID(b.SecretHash)] != nil:
		return invalid("secret_hash", "a new session needs a new secret")
	case !b.ExpiresAt.IsZero() && !c.At.Before(b.ExpiresAt):
		return invalid("expires_at", "a session has to be of use for a while")
	}
	return nil
}

// make makes the session of a user, or with a role of its own. It has been checked.
func (b CreateSession) make(s *State, c Command, userID string, role Role) *Session {
	v := &Session{ID: sessionID(b.SecretHash), SecretHash: b.SecretHash, UserID: userID, Role: role, From: cut(b.From),
		CreatedAt: c.At, SeenAt: c.At, ExpiresAt: c.At.Add(SessionLife)}
	if !b.ExpiresAt.IsZero() && b.ExpiresAt.Before(v.ExpiresAt) {
		v.ExpiresAt = b.ExpiresAt.UTC()
	}
	for _, old := range sorted(s.sessions) {
		if !old.Open(c.At) {
			s.dropSession(old)
		}
	}
	// Who signs in is never kept out by sessions that were forgotten somewhere.
	s.dropLeastSeen(maxUserSessions, func(o *Session) bool { return o.UserID == userID })
	s.dropLeastSeen(maxSessions, func(*Session) bool { return true })
	s.putSession(v)
	return v
}

// dropLeastSeen makes room for one more session of a sort.
func (s *State) dropLeastSeen(most int, of func(*Session) bool) {
	all := slices.DeleteFunc(sorted(s.sessions), func(v *Session) bool { return !of(v) })
	if len(all) < most {
		return
	}
	slices.SortStableFunc(all, func(a, b *Session) int { return cmp.Or(a.SeenAt.Compare(b.SeenAt), cmp.Compare(a.ID, b.ID)) })
	for _, v := range all[:len(all)-most+1] {
		s.dropSession(v)
	}
}

func (s *State) putSession(v *Session) {
	s.sessions[v.ID] = v
	s.events = append(s.events, Event{Type: EventSession, ID: v.ID, Session: v})
}

func (s *State) dropSession(v *Session) {
	delete(s.sessions, v.ID)
	s.events = append(s.events, Event{Type: EventSessionEnded, ID: v.ID})
}

func (b CreateSession) apply(s *State, c Command) (any, error) {
	u := s.users[b.UserID]
	switch {
	case u == nil:
		return nil, refuse(NotFound, "there is no user %.40s", b.UserID)
	case u.Disabled:
		return nil, refuse(Conflict, "user %s is disabled; an admin can enable the user again", u.Name)
	}
	if b.Checked != "" && b.Checked != HashSecret(string(u.PasswordHash)) {
		return nil, refuse(Conflict, "the password of user %s was changed meanwhile; %s", u.Name, signIn)
	}
	if err := b.check(s, c); err != nil {
		return nil, err
	}
	v := b.make(s, c, u.ID, "")
	s.note(c, AuditRecord{By: u.Name, User: u.Name, From: v.From, What: u.Name + " signed in", Result: "signed_in"})
	return v, nil
}

const signIn = "sign in again"

func (b TouchSession) apply(s *State, c Command) (any, error) {
	old := s.SessionByHash(b.SecretHash, c.At)
	if old == nil {
		return nil, refuse(NotFound, "the session has ended; %s", signIn)
	}
	if c.At.Before(old.SeenAt.Add(touchPause)) {
		return old, nil
	}
	v := *old
	v.SeenAt = c.At
	s.putSession(&v)
	return &v, nil
}

func (b EndSession) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	id := b.ID
	if b.SecretHash.isHash() {
		id = sessionID(b.SecretHash)
	}
	v := s.sessions[id]
	if v == nil || b.SecretHash != "" && v.SecretHash != b.SecretHash {
		return nil, nil
	}
	s.dropSession(v)
	whose, by := s.holder(v.UserID), b.By
	did := who(by) + " ended a session of " + whose
	if by == "" || by == whose {
		by, did = whose, whose+" signed out"
	}
	s.note(c, AuditRecord{By: by, User: whose, What: did, Result: "signed_out"})
	return nil, nil
}

// holder is the name of a user, or of who is none.
func (s *State) holder(userID string) string {
	if u := s.users[userID]; u != nil {
		return u.Name
	}
	return LocalName
}

func (b CreateAPIToken) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	u := s.users[b.UserID]
	switch {
	case b.ID == "" || s.apiTokens[b.ID] != nil:
		return nil, invalid("id", "a new API token needs a new id")
	case !validTokenName(b.Name):
		return nil, invalid("name", "an API token needs a name, by which people know what it is for: 100 bytes that can be printed at most, with no space at its ends")
	case !b.SecretHash.isHash() || s.secretInUse(b.SecretHash):
		return nil, invalid("secret_hash", "an API token is known by the SHA-256 of its secret, a new one")
	case !b.Role.Valid():
		return nil, invalid("role", "%.40q is no role; there are viewer, operator and admin", b.Role)
	case b.UserID != "" && u == nil:
		return nil, refuse(NotFound, "there is no user %.40s", b.UserID)
	case u != nil && u.Disabled:
		return nil, refuse(Conflict, "user %s is disabled; an admin can enable the user again", u.Name)
	case u != nil && !u.Role.AtLeast(b.Role):
		return nil, invalid("role", "user %s is %s, and a token may not do more", u.Name, u.Role)
	case !c.At.Before(b.ExpiresAt) || b.ExpiresAt.After(c.At.Add(maxTokenLife)):
		return nil, invalid("expires_at", "an API token has to expire, within a year")
	case len(open(s.apiTokens, c.At)) >= maxAPITokens:
		return nil, refuse(Conflict, "there are %d API tokens already; delete those that nobody uses", maxAPITokens)
	}
	for _, old := range sorted(s.apiTokens) {
		if !old.Open(c.At) {
			s.dropAPIToken(old)
		}
	}
	for _, old := range sorted(s.apiTokens) {
		if old.Name == b.Name { // who revokes one by name shall not revoke another
			return nil, &Error{Code: Conflict, Field: "name", Message: fmt.Sprintf("there is an API token %q already, %s; take another name, or revoke that one", old.Name, old.ID)}
		}
	}
	v := &APIToken{ID: b.ID, Name: b.Name, SecretHash: b.SecretHash, Role: b.Role, UserID: b.UserID, By: b.By, CreatedAt: c.At, ExpiresAt: b.ExpiresAt.UTC()}
	s.putAPIToken(v)
	s.note(c, AuditRecord{By: b.By, What: fmt.Sprintf("%s made API token %s (%q), %s, good until %s", who(b.By), v.ID, v.Name, v.Role, v.ExpiresAt.Format(time.RFC3339))})
	return v, nil
}

// validTokenName reports whether people can read the name as it is. Which letters
// there are beyond ASCII is no rule, since nodes may know different ones: the API asks.
func validTokenName(name string) bool {
	return name != "" && len(name) <= 100 && strings.Trim(name, " ") == name &&
		!strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\ufffd' })
}

// secretInUse reports whether a token or a code is known by the hash.
func (s *State) secretInUse(h Secret) bool {
	for _, v := range s.apiTokens {
		if v.SecretHash == h {
			return true
		}
	}
	for _, v := range s.codes {
		if v.SecretHash == h {
			return true
		}
	}
	return false
}

func (s *State) putAPIToken(v *APIToken) {
	s.apiTokens[v.ID] = v
	s.events = append(s.events, Event{Type: EventAPIToken, ID: v.ID, Name: v.Name, APIToken: v})
}

func (s *State) dropAPIToken(v *APIToken) {
	delete(s.apiTokens, v.ID)
	s.events = append(s.events, Event{Type: EventAPITokenDeleted, ID: v.ID, Name: v.Name})
}

func (b DeleteAPIToken) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	v := s.apiTokens[b.ID]
	if v == nil {
		return nil, refuse(NotFound, "there is no API token %.40s", b.ID)
	}
	s.dropAPIToken(v)
	s.note(c, AuditRecord{By: b.By, What: fmt.Sprintf("%s deleted API token %s (%q)", who(b.By), v.ID, v.Name)})
	return nil, nil
}

func (b CreateCode) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	u := s.users[b.UserID]
	switch {
	case b.ID == "" || s.codes[b.ID] != nil:
		return nil, invalid("id", "a new code needs a new id")
	case b.Kind != CodeSetup && b.Kind != CodeLogin:
		return nil, invalid("kind", "%.40q is no kind of code; there are setup and login", b.Kind)
	case !b.SecretHash.isHash() || s.secretInUse(b.SecretHash):
		return nil, invalid("secret_hash", "a code is known by the SHA-256 of its secret, a new one")
	case !c.At.Before(b.ExpiresAt) || b.ExpiresAt.After(c.At.Add(maxCodeLife)):
		return nil, invalid("expires_at", "a code has to expire, within a day")
	case b.Kind == CodeSetup && s.HasUsers():
		return nil, refuse(Conflict, "this cluster has users already; sign in, or print a login link with lpmos login-link")
	case b.Kind == CodeSetup && (b.UserID != "" || b.Role != ""):
		return nil, invalid("user_id", "a setup code makes the first admin, and is for nobody yet")
	case b.Kind == CodeLogin && b.UserID != "" && u == nil:
		return nil, refuse(NotFound, "there is no user %.40s", b.UserID)
	case b.Kind == CodeLogin && u != nil && u.Disabled:
		return nil, refuse(Conflict, "user %s is disabled; an admin can enable the user again", u.Name)
	case b.Kind == CodeLogin && (u == nil) != b.Role.Valid():
		return nil, invalid("role", "a login link is for a user, or says by a role what it gives")
	case len(open(s.codes, c.At)) >= maxCodes:
		return nil, refuse(Conflict, "there are %d unused codes already; wait until some have expired", maxCodes)
	}
	for _, old := range sorted(s.codes) {
		if !c.At.Before(old.ExpiresAt) {
			s.dropCode(old)
		}
	}
	for len(s.codes) >= maxCodes { // those that were used make room
		used := slices.DeleteFunc(sorted(s.codes), func(v *OneUseCode) bool { return v.UsedAt.IsZero() })
		s.dropCode(slices.MinFunc(used, func(a, b *OneUseCode) int { return a.UsedAt.Compare(b.UsedAt) }))
	}
	v := &OneUseCode{ID: b.ID, Kind: b.Kind, SecretHash: b.SecretHash, UserID: b.UserID, Role: b.Role, By: b.By, CreatedAt: c.At, ExpiresAt: b.ExpiresAt.UTC()}
	s.putCode(v)
	what, name := "a setup code", ""
	if v.Kind == CodeLogin {
		what, name = "a login link for "+s.holder(v.UserID), s.holder(v.UserID)
	}
	s.note(c, AuditRecord{By: b.By, User: name, What: who(v.By) + " made " + what + ", good until " + v.ExpiresAt.Format(time.RFC3339)})
	return v, nil
}

func (s *State) putCode(v *OneUseCode) {
	s.codes[v.ID] = v
	s.events = append(s.events, Event{Type: EventCode, ID: v.ID, Code: v})
}

func (s *State) dropCode(v *OneUseCode) {
	delete(s.codes, v.ID)
	s.events = append(s.events, Event{Type: EventCodeDeleted, ID: v.ID})
}

// code finds a code that can be used. A wrong one, one that was used and one that
// has expired read the same: who tries codes learns nothing.
func (s *State) code(kind string, h Secret, at time.Time) (*OneUseCode, error) {
	if v := s.CodeByHash(h, at); v != nil && v.Kind == kind {
		return v, nil
	}
	again := "print a new one with lpmos setup-code"
	if kind == CodeLogin {
		again = "print a new one with lpmos login-link"
	}
	return nil, refuse(Precondition, "this code is not good: it is not known, was used or has expired; %s", again)
}

// use marks a code. It is the compare-and-set: whoever finds it open here is the first.
func (s *State) use(v *OneUseCode, at time.Time) {
	used := *v
	used.UsedAt = at
	s.putCode(&used)
}

func (b RedeemSetup) apply(s *State, c Command) (any, error) {
	v, err := s.code(CodeSetup, b.SecretHash, c.At)
	if err != nil {
		return nil, err
	}
	first := b.User
	first.Role = Admin
	if err := first.check(s); err != nil {
		return nil, err
	}
	s.use(v, c.At)
	u := first.make(s, c)
	s.note(c, AuditRecord{By: u.Name, User: u.Name, What: u.Name + " is the first user, admin, by setup code " + v.ID})
	return u, nil
}

func (b RedeemLogin) apply(s *State, c Command) (any, error) {
	v, err := s.code(CodeLogin, b.SecretHash, c.At)
	if err != nil {
		return nil, err
	}
	if err := b.Session.check(s, c); err != nil {
		return nil, err
	}
	s.use(v, c.At)
	got := b.Session.make(s, c, v.UserID, v.Role)
	whose := s.holder(v.UserID)
	s.note(c, AuditRecord{By: whose, User: whose, From: got.From, Result: "signed_in",
		What: whose + " signed in with a login link that " + who(v.By) + " made"})
	return got, nil
}

// failedSignIn is the result of the records of NoteFailedLogins.
const failedSignIn = "sign_in_refused"

// apply tells names that are known alone: what else people type where a name is
// asked for may be a password.
func (b NoteFailedLogins) apply(s *State, c Command) (any, error) {
	unknown := FailedLogins{}
	for _, it := range b.Items {
		if it.Count < 1 {
			continue
		}
		if u := s.UserByName(it.Name); u != nil {
			s.noteFailed(c, u.Name, it)
			continue
		}
		unknown.Count += it.Count
		unknown.From = it.From
	}
	if unknown.Count > 0 {
		s.noteFailed(c, "", unknown)
	}
	return nil, nil
}

func (s *State) noteFailed(c Command, name string, it FailedLogins) {
	for i := len(s.audit) - 1; i >= 0 && s.audit[i].At.After(c.At.Add(-failuresPause)); i-- {
		if s.audit[i].Result == failedSignIn && s.audit[i].User == name {
			return
		}
	}
	whose := "user " + name
	if name == "" {
		whose = "names that nobody has"
	}
	s.note(c, AuditRecord{User: name, From: it.From, Result: failedSignIn, What: fmt.Sprintf("sign-ins refused for %s: %d, the last from %s", whose, it.Count, quoteOrNone(it.From))})
}
