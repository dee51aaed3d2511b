package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Role is what a person, or a program with a token, may do.
type Role string

// The roles; each may do all that those before it may.
const (
	Viewer   Role = "viewer"   // looks, and is told no secrets
	Operator Role = "operator" // makes, approves and cancels tasks
	Admin    Role = "admin"    // users, tokens, images, nodes, backups
)

var roles = []Role{Viewer, Operator, Admin}

// Valid reports whether it is a role at all.
func (r Role) Valid() bool { return slices.Contains(roles, r) }

// AtLeast reports whether the role may do what the other may. What is no role may
// nothing.
func (r Role) AtLeast(least Role) bool {
	return r.Valid() && least.Valid() && slices.Index(roles, r) >= slices.Index(roles, least)
}

// Secret is a hash that stands for a password or another secret. Who prints it,
// or a value it is in, sees that it is one and not which.
type Secret string

// HashSecret is how a random secret (a session, a token, a code) is known here: by
// the SHA-256 of its text, in hex. Passwords are not random and are hashed at the
// edge, slowly.
func HashSecret(text string) Secret {
	sum := sha256.Sum256([]byte(text))
	return Secret(hex.EncodeToString(sum[:]))
}

func (s Secret) String() string {
	if s == "" {
		return "(none)"
	}
	return "(secret)"
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// isHash reports whether the secret is one of HashSecret.
func (s Secret) isHash() bool {
	return len(s) == 2*sha256.Size && strings.Trim(string(s), "0123456789abcdef") == ""
}

// User is a person who may sign in.
type User struct {
	ID           string    `json:"id"`
	Name         string    `json:"name"` // in lower case, no two have the same
	Role         Role      `json:"role"`
	PasswordHash Secret    `json:"-"` // PHC text; empty: signs in with links alone
	Disabled     bool      `json:"disabled,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
	ChangedAt    time.Time `json:"changed_at"`
}

// Session is one browser, or one command line, that somebody has signed in at.
type Session struct {
	ID         string `json:"id"` // the first 16 digits of SecretHash
	SecretHash Secret `json:"-"`
	// UserID is empty for who signed in by holding a node's data directory. Role
	// then says what the session may; with a user, the user's role does.
	UserID    string    `json:"user_id,omitempty"`
	Role      Role      `json:"role,omitempty"`
	From      string    `json:"from,omitempty"` // address
	CreatedAt time.Time `json:"created_at"`
	SeenAt    time.Time `json:"seen_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

const (
	// SessionIdle is how long a session lasts that nobody uses.
	SessionIdle = 30 * time.Minute
	// SessionLife is how long one lasts at most.
	SessionLife = 12 * time.Hour
	// TouchEvery is how often the use of a session is worth an entry of the log.
	TouchEvery = 5 * time.Minute
)

// Open reports whether the session is good at that time.
func (v *Session) Open(at time.Time) bool {
	return at.Before(v.ExpiresAt) && at.Before(v.SeenAt.Add(SessionIdle))
}

// APIToken lets a program in.
type APIToken struct {
	ID         string `json:"id"`
	Name       string `json:"name"`
	SecretHash Secret `json:"-"`
	Role       Role   `json:"role"`
	// UserID is whose token it is: it may no more than its user, and goes when the
	// user is disabled or deleted. Empty: it is nobody's, and lasts.
	UserID    string    `json:"user_id,omitempty"`
	By        string    `json:"by,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Open reports whether the token is good at that time.
func (v *APIToken) Open(at time.Time) bool { return at.Before(v.ExpiresAt) }

// The kinds of codes.
const (
	CodeSetup = "setup" // makes the first user
	CodeLogin = "login" // gives one session
)

// OneUseCode is good for one thing, once.
type OneUseCode struct {
	ID         string    `json:"id"`
	Kind       string    `json:"kind"`
	SecretHash Secret    `json:"-"`
	UserID     string    `json:"user_id,omitempty"` // of a login; empty: for no user, and Role says what it gives
	Role       Role      `json:"role,omitempty"`
	By         string    `json:"by,omitempty"`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	UsedAt     time.Time `json:"used_at,omitzero"`
}

// Open reports whether the code can be used at that time.
func (v *OneUseCode) Open(at time.Time) bool { return v.UsedAt.IsZero() && at.Before(v.ExpiresAt) }

// User by id, or nil.
func (s *State) User(id string) *User { return s.users[id] }

// UserByName finds the user of that name, in whatever case, or nil.
func (s *State) UserByName(name string) *User {
	name = strings.ToLower(name)
	for _, u := range s.users {
		if u.Name == name {
			return u
		}
	}
	return nil
}

// Users sorted by name.
func (s *State) Users() []*User {
	out := sorted(s.users)
	slices.SortStableFunc(out, func(a, b *User) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// HasUsers reports whether anybody can sign in yet. While there are users, one of
// them is an admin who is not disabled.
func (s *State) HasUsers() bool { return len(s.users) > 0 }

// SessionByHash gives the session if it is good at that time, else nil.
func (s *State) SessionByHash(h Secret, at time.Time) *Session {
	if !h.isHash() {
		return nil
	}
	if v := s.sessions[sessionID(h)]; v != nil && v.SecretHash == h && v.Open(at) {
		return v
	}
	return nil
}

// sessionID is the session's public name. It does not help to guess the rest.
func sessionID(h Secret) string { return string(h[:16]) }

// Sessions that are good at that time, sorted by id.
func (s *State) Sessions(at time.Time) []*Session { return open(s.sessions, at) }

// APITokenByHash gives the token if it is good at that time, else nil.
func (s *State) APITokenByHash(h Secret, at time.Time) *APIToken {
	for _, v := range s.apiTokens {
		if v.SecretHash == h && v.Open(at) {
			return v
		}
	}
	return nil
}

// APITokens that are good at that time, sorted by id.
func (s *State) APITokens(at time.Time) []*APIToken { return open(s.apiTokens, at) }

// CodeByHash gives the code if it can be used at that time, else nil.
func (s *State) CodeByHash(h Secret, at time.Time) *OneUseCode {
	for _, v := range s.codes {
		if v.SecretHash == h && v.Open(at) {
			return v
		}
	}
	return nil
}

func open[T any, P interface {
	*T
	Open(time.Time) bool
}](m map[string]*T, at time.Time) []*T {
	return slices.DeleteFunc(sorted(m), func(v *T) bool { return !P(v).Open(at) })
}

// Origin is who asked for a command, as the door they came through knows them.
type Origin struct {
	Name string `json:"name,omitempty"` // of the person or program; empty: nobody, or a machine
	From string `json:"from,omitempty"` // address, or "socket"

	ActorID   string `json:"actor_id,omitempty"`   // of the user, or LocalName; a token's is its owner's
	ActorRole Role   `json:"actor_role,omitempty"` // what they may
	ByToken   bool   `json:"by_token,omitempty"`   // a program asked, not a person
}

// AskedBy is the command as somebody has asked for it.
func (c Command) AskedBy(o Origin) Command {
	c.Actor, c.From, c.ActorID, c.ActorRole, c.ByToken = o.Name, o.From, o.ActorID, o.ActorRole, o.ByToken
	return c
}

type originKey struct{}

// WithOrigin says who asks for what is proposed with the context.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginOf is who asks; its zero value if nobody has said.
func OriginOf(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}

// by is who did it: the one the door has let in, else who the command names.
func (c Command) by(named string) string {
	if c.Actor != "" {
		return c.Actor
	}
	return named
}
