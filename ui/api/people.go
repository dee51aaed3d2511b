package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// User is a person with an account. The hash of the password is not part of it.
type User struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      fleet.Role `json:"role" enum:"viewer,operator,admin"`
	Disabled  bool       `json:"disabled"`
	CreatedAt time.Time  `json:"created_at"`
	ChangedAt time.Time  `json:"changed_at"`
	Sessions  int        `json:"sessions" doc:"How many are open"`
}

// UserList is every user, by name.
type UserList struct {
	Users []User `json:"users"`
}

// NewUser is the body of POST /users.
type NewUser struct {
	Name     string `json:"name" maxLength:"64"`
	Role     string `json:"role" enum:"viewer,operator,admin"`
	Password string `json:"password" maxLength:"1024"`
}

// UserChange is the body of PATCH /users/{id}: what is absent stays.
type UserChange struct {
	Role     *string `json:"role,omitempty" enum:"viewer,operator,admin"`
	Disabled *bool   `json:"disabled,omitempty" doc:"Ends every session at once, on every node"`
	Password *string `json:"password,omitempty" maxLength:"1024" doc:"Ends every session, too"`
}

// APIToken is a key of a program. The key itself is shown once, when it is made.
type APIToken struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Role      fleet.Role `json:"role" enum:"viewer,operator,admin"`
	By        string     `json:"by" doc:"Who made it"`
	User      string     `json:"user" doc:"Whose it is: it goes with the account. Empty for one made at the node itself"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
}

// APITokenList is every API token that is good, by name.
type APITokenList struct {
	Tokens []APIToken `json:"tokens"`
}

// Session is one browser or command line that somebody has signed in at.
type Session struct {
	ID        string     `json:"id"`
	User      string     `json:"user" doc:"Its name; local for who signed in with a link of no account"`
	Role      fleet.Role `json:"role" enum:"viewer,operator,admin"`
	From      string     `json:"from" doc:"The address it was begun from"`
	Own       bool       `json:"own" doc:"The one that this was asked with"`
	CreatedAt time.Time  `json:"created_at"`
	SeenAt    time.Time  `json:"seen_at" doc:"To five minutes or so"`
	ExpiresAt time.Time  `json:"expires_at" doc:"Sooner if nobody uses it"`
}

// SessionList is every session that is good.
type SessionList struct {
	Sessions []Session `json:"sessions"`
}

// NewAPIToken is the body of POST /tokens.
type NewAPIToken struct {
	Name string `json:"name" maxLength:"64"`
	Role string `json:"role" enum:"viewer,operator,admin"`
	Days int    `json:"days,omitempty" minimum:"1" maximum:"366" doc:"How long it is good; 90 if not given"`
}

// MadeAPIToken is a token with its key, which is shown this once.
type MadeAPIToken struct {
	APIToken
	Key string `json:"key" doc:"Shown this once. Send it as Authorization: Bearer KEY"`
}

type userID struct {
	ID string `path:"id" maxLength:"64"`
}

type userOut struct{ Body User }

func (s *Server) peopleRoutes() {
	route(s, http.MethodGet, "/users", 200, door.Admin, "List users", s.listUsers)
	route(s, http.MethodPost, "/users", 201, door.Admin, "Make a user", s.createUser)
	route(s, http.MethodPatch, "/users/{id}", 200, door.Admin, "Change a user's role or password, disable or enable", s.changeUser)
	route(s, http.MethodDelete, "/users/{id}", 204, door.Admin, "Forget a user", s.deleteUser)
	route(s, http.MethodGet, "/sessions", 200, door.Admin, "List who is signed in", s.listSessions)
	route(s, http.MethodDelete, "/sessions/{id}", 204, door.Admin, "End a session, on every node at once", s.endSession)
	route(s, http.MethodGet, "/tokens", 200, door.Admin, "List API tokens", s.listTokens)
	route(s, http.MethodPost, "/tokens", 201, door.Admin, "Make an API token", s.createToken)
	route(s, http.MethodDelete, "/tokens/{id}", 204, door.Admin, "Revoke an API token", s.deleteToken)
}

// goodAccount refuses a name or a password that no account may have. What a name
// may look like is the fleet's rule; that it is nobody else's is asked here.
func goodAccount(name, password string) error {
	if name == "" {
		return fieldProblem("name", "say who: name is empty")
	}
	if err := door.CheckPassword(name, password); err != nil {
		return fieldProblem("password", err.Error())
	}
	return nil
}

func (s *Server) viewUser(st *fleet.State, u *fleet.User) User {
	v := User{ID: u.ID, Name: u.Name, Role: u.Role, Disabled: u.Disabled, CreatedAt: u.CreatedAt, ChangedAt: u.ChangedAt}
	for _, e := range st.Sessions(s.cfg.Now()) {
		if e.UserID == u.ID {
			v.Sessions++
		}
	}
	return v
}

func (s *Server) listUsers(context.Context, *struct{}) (*struct{ Body UserList }, error) {
	list := UserList{Users: []User{}}
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, u := range st.Users() {
			list.Users = append(list.Users, s.viewUser(st, u))
		}
	})
	return &struct{ Body UserList }{list}, nil
}

// userNamed finds a user by id or name.
func (s *Server) userNamed(word string) (u *fleet.User, err error) {
	s.cfg.Cluster.View(func(st *fleet.State) {
		if u = st.User(word); u == nil {
			u = st.UserByName(word)
		}
	})
	if u == nil {
		return nil, NewProblem(http.StatusNotFound, "there is no user "+clip(word))
	}
	return u, nil
}

func (s *Server) showUser(result any) (*userOut, error) {
	u, ok := result.(*fleet.User)
	if !ok {
		return nil, fmt.Errorf("the cluster answered with %T for a user", result)
	}
	var out userOut
	s.cfg.Cluster.View(func(st *fleet.State) { out.Body = s.viewUser(st, u) })
	return &out, nil
}

// noToken refuses what would let in who holds a token after it was revoked.
func noToken(ctx context.Context, what string) error {
	if door.CallerOf(ctx).Token == "" {
		return nil
	}
	return NewProblem(http.StatusForbidden, "a token cannot "+what+"; sign in")
}

func (s *Server) createUser(ctx context.Context, in *struct{ Body NewUser }) (*userOut, error) {
	if err := noToken(ctx, "make a user"); err != nil {
		return nil, err
	}
	if err := goodAccount(in.Body.Name, in.Body.Password); err != nil {
		return nil, err
	}
	phc, err := s.door.Hash(ctx, in.Body.Password)
	if err != nil {
		return nil, err
	}
	out, err := s.cfg.Cluster.Propose(ctx, fleet.PutUser{ID: door.NewID("u-"), Name: in.Body.Name, Role: fleet.Role(in.Body.Role), PasswordHash: phc, By: who(ctx)})
	if err != nil {
		return nil, err
	}
	return s.showUser(out)
}

func (s *Server) changeUser(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body UserChange
}) (*userOut, error) {
	u, err := s.userNamed(in.ID)
	if err != nil {
		return nil, err
	}
	// To disable somebody is all that a program may do: it lets nobody in.
	if b := in.Body; b.Role != nil || b.Password != nil || b.Disabled != nil && !*b.Disabled {
		if err := noToken(ctx, "let a user do more or change a password"); err != nil {
			return nil, err
		}
	}
	c := fleet.ChangeUser{ID: u.ID, Disabled: in.Body.Disabled, By: who(ctx)}
	if in.Body.Role != nil {
		role := fleet.Role(*in.Body.Role)
		c.Role = &role
	}
	if in.Body.Password != nil {
		if err := door.CheckPassword(u.Name, *in.Body.Password); err != nil {
			return nil, fieldProblem("password", err.Error())
		}
		phc, err := s.door.Hash(ctx, *in.Body.Password)
		if err != nil {
			return nil, err
		}
		c.PasswordHash = &phc
	}
	if c.Role == nil && c.Disabled == nil && c.PasswordHash == nil {
		return nil, fieldProblem("", "say what is to change: role, disabled or password")
	}
	out, err := s.cfg.Cluster.Propose(ctx, c)
	if err != nil {
		return nil, err
	}
	return s.showUser(out)
}

func (s *Server) deleteUser(ctx context.Context, in *userID) (*nothing, error) {
	u, err := s.userNamed(in.ID)
	if err != nil {
		return nil, err
	}
	_, err = s.cfg.Cluster.Propose(ctx, fleet.DeleteUser{ID: u.ID, By: who(ctx)})
	return nil, err
}

func (s *Server) listSessions(ctx context.Context, _ *struct{}) (*struct{ Body SessionList }, error) {
	list := SessionList{Sessions: []Session{}}
	own := door.CallerOf(ctx).Session
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, e := range st.Sessions(s.cfg.Now()) {
			v := Session{ID: e.ID, User: fleet.LocalName, Role: e.Role, From: e.From, Own: e.ID == own, CreatedAt: e.CreatedAt, SeenAt: e.SeenAt, ExpiresAt: e.ExpiresAt}
			if u := st.User(e.UserID); u != nil {
				v.User, v.Role = u.Name, u.Role
			}
			list.Sessions = append(list.Sessions, v)
		}
	})
	return &struct{ Body SessionList }{list}, nil
}

func (s *Server) endSession(ctx context.Context, in *userID) (*nothing, error) {
	known := false
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, e := range st.Sessions(s.cfg.Now()) {
			known = known || e.ID == in.ID
		}
	})
	if !known {
		return nil, NewProblem(http.StatusNotFound, "there is no session "+clip(in.ID))
	}
	_, err := s.cfg.Cluster.Propose(ctx, fleet.EndSession{ID: in.ID, By: who(ctx)})
	return nil, err
}

func viewToken(st *fleet.State, t *fleet.APIToken) APIToken {
	v := APIToken{ID: t.ID, Name: t.Name, Role: t.Role, By: t.By, CreatedAt: t.CreatedAt, ExpiresAt: t.ExpiresAt}
	if u := st.User(t.UserID); u != nil {
		v.User = u.Name
	}
	return v
}

func (s *Server) listTokens(context.Context, *struct{}) (*struct{ Body APITokenList }, error) {
	list := APITokenList{Tokens: []APIToken{}}
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, t := range st.APITokens(s.cfg.Now()) {
			list.Tokens = append(list.Tokens, viewToken(st, t))
		}
	})
	return &struct{ Body APITokenList }{list}, nil
}

func (s *Server) createToken(ctx context.Context, in *struct{ Body NewAPIToken }) (*struct{ Body MadeAPIToken }, error) {
	if err := noToken(ctx, "make another"); err != nil {
		return nil, err
	}
	if !printable(in.Body.Name, 64) {
		return nil, fieldProblem("name", "the name of a token has 64 bytes at most, of what can be shown")
	}
	life := door.TokenLife
	if in.Body.Days > 0 {
		life = time.Duration(in.Body.Days) * 24 * time.Hour
	}
	key, id := door.NewToken()
	out, err := s.cfg.Cluster.Propose(ctx, fleet.CreateAPIToken{ID: id, Name: in.Body.Name, SecretHash: fleet.HashSecret(key), Role: fleet.Role(in.Body.Role), UserID: door.CallerOf(ctx).UserID,
		ExpiresAt: s.cfg.Now().Add(life).UTC(), By: who(ctx)})
	if err != nil {
		return nil, err
	}
	t, ok := out.(*fleet.APIToken)
	if !ok {
		return nil, fmt.Errorf("the cluster answered with %T for an API token", out)
	}
	made := MadeAPIToken{Key: key}
	s.cfg.Cluster.View(func(st *fleet.State) { made.APIToken = viewToken(st, t) })
	return &struct{ Body MadeAPIToken }{made}, nil
}

func (s *Server) deleteToken(ctx context.Context, in *userID) (*nothing, error) {
	var exact bool
	var named []string
	s.cfg.Cluster.View(func(st *fleet.State) {
		for _, t := range st.APITokens(s.cfg.Now()) {
			exact = exact || t.ID == in.ID
			if t.Name == in.ID {
				named = append(named, t.ID)
			}
		}
	})
	id := in.ID
	if !exact && len(named) > 0 {
		if id = named[0]; len(named) > 1 { // of a time when names could be the same
			return nil, NewProblem(http.StatusConflict, fmt.Sprintf("there are %d tokens named %s: %s; say by its id which one", len(named), clip(in.ID), strings.Join(named, ", ")))
		}
	}
	_, err := s.cfg.Cluster.Propose(ctx, fleet.DeleteAPIToken{ID: id, By: who(ctx)})
	return nil, err
}
