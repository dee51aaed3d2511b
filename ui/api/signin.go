package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/door"
)

// Who is the caller, as the page asks for itself.
type Who struct {
	Name string     `json:"name" doc:"Empty for who is not signed in"`
	Role fleet.Role `json:"role" enum:"viewer,operator,admin" doc:"Empty for who is not signed in"`
	// Account says whether there is a password to change.
	Account bool `json:"account" doc:"A person with an account, and not a login link, a token or the node's own socket"`
	Setup   bool `json:"setup" doc:"Nobody has an account yet: the setup code makes the first"`
}

// SignIn is the body of POST /session: a name with its password, or the code of a
// login link.
type SignIn struct {
	Name     string `json:"name,omitempty" maxLength:"64"`
	Password string `json:"password,omitempty" maxLength:"1024"`
	Code     string `json:"code,omitempty" maxLength:"64" doc:"Of a login link; in place of name and password"`
}

// SetUp is the body of POST /setup.
type SetUp struct {
	Code     string `json:"code" maxLength:"64" doc:"As lpmos up or lpmos setup-code prints it"`
	Name     string `json:"name" maxLength:"64" doc:"Of the first administrator"`
	Password string `json:"password" maxLength:"1024"`
}

// NewPassword is the body of POST /me/password.
type NewPassword struct {
	Old string `json:"old" maxLength:"1024"`
	New string `json:"new" maxLength:"1024"`
}

// LinkFor is the body of POST /login-links.
type LinkFor struct {
	User string `json:"user,omitempty" maxLength:"64" doc:"Name of whom the link signs in; without one it is an administrator without an account"`
}

// OneCode is a code that works once.
type OneCode struct {
	Code      string    `json:"code"`
	ExpiresAt time.Time `json:"expires_at"`
}

// request is what signing in needs to know of the request beside its body.
type request struct{ r *http.Request }

type requestKey struct{}

// cookieOut answers with a cookie.
type cookieOut struct {
	SetCookie *http.Cookie `header:"Set-Cookie"`
	Body      Who
}

type noCookieOut struct {
	SetCookie *http.Cookie `header:"Set-Cookie"`
}

func (s *Server) signInRoutes() {
	route(s, http.MethodGet, "/session", 200, door.Anyone, "Who am I", s.whoAmI)
	route(s, http.MethodPost, "/session", 200, door.Anyone, "Sign in", s.signIn)
	route(s, http.MethodDelete, "/session", 204, door.Anyone, "Sign out", s.signOut)
	route(s, http.MethodPost, "/setup", 200, door.Anyone, "Make the first administrator", s.setUp)
	route(s, http.MethodPost, "/me/password", 204, door.Viewer, "Change one's own password", s.changeOwn)
	route(s, http.MethodPost, "/login-links", 201, door.Local, "Make a link that signs in once", s.newLink)
	route(s, http.MethodPost, "/setup-codes", 201, door.Local, "Make a setup code, while nobody has an account", s.newSetupCode)
}

// withRequest lets handlers see the request itself.
func withRequest(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), requestKey{}, request{r}))
}

func requestOf(ctx context.Context) *http.Request {
	q, _ := ctx.Value(requestKey{}).(request)
	return q.r
}

// WhoIs is a caller as the page shows them.
func (s *Server) WhoIs(c door.Caller) Who {
	return Who{Name: c.Name, Role: c.Role, Account: c.HasAccount(), Setup: !s.door.HasUsers()}
}

func (s *Server) whoAmI(ctx context.Context, _ *struct{}) (*struct{ Body Who }, error) {
	return &struct{ Body Who }{s.WhoIs(door.CallerOf(ctx))}, nil
}

func (s *Server) signIn(ctx context.Context, in *struct{ Body SignIn }) (*cookieOut, error) {
	r := requestOf(ctx)
	from := door.AddressOf(r)
	var secret string
	var session *fleet.Session
	var err error
	switch b := in.Body; {
	case b.Code != "" && (b.Name != "" || b.Password != ""):
		return nil, fieldProblem("code", "give a name with its password, or a code, and not both")
	case b.Code != "":
		secret, session, err = s.door.Redeem(ctx, from, b.Code)
	default:
		secret, session, err = s.door.Login(ctx, from, b.Name, b.Password)
	}
	return s.signedIn(r, secret, session, err)
}

// signedIn answers who has a session now, or why there is none.
func (s *Server) signedIn(r *http.Request, secret string, session *fleet.Session, err error) (*cookieOut, error) {
	if p := doorProblem(err); p != nil {
		return nil, p
	}
	if err != nil {
		return nil, err
	}
	if session == nil {
		return nil, errors.New("the cluster did not say which session was made")
	}
	who := Who{Name: fleet.LocalName, Role: session.Role, Account: session.UserID != ""}
	s.cfg.Cluster.View(func(st *fleet.State) {
		if u := st.User(session.UserID); u != nil {
			who.Name, who.Role = u.Name, u.Role
		}
		who.Setup = !st.HasUsers()
	})
	return &cookieOut{SetCookie: s.door.Cookie(r, secret), Body: who}, nil
}

func (s *Server) signOut(ctx context.Context, _ *struct{}) (*noCookieOut, error) {
	if err := s.door.End(ctx, door.CallerOf(ctx)); err != nil {
		return nil, err
	}
	return &noCookieOut{s.door.Cookie(requestOf(ctx), "")}, nil
}

func (s *Server) setUp(ctx context.Context, in *struct{ Body SetUp }) (*cookieOut, error) {
	r := requestOf(ctx)
	if err := goodAccount(in.Body.Name, in.Body.Password); err != nil {
		return nil, err
	}
	secret, session, err := s.door.Setup(ctx, door.AddressOf(r), in.Body.Code, in.Body.Name, in.Body.Password)
	return s.signedIn(r, secret, session, err)
}

func (s *Server) changeOwn(ctx context.Context, in *struct{ Body NewPassword }) (*noCookieOut, error) {
	if err := noToken(ctx, "change a password"); err != nil {
		return nil, err
	}
	c := door.CallerOf(ctx)
	if !c.HasAccount() {
		return nil, NewProblem(http.StatusConflict, "there is no password to change: you have not come by an account")
	}
	if err := door.CheckPassword(c.Name, in.Body.New); err != nil {
		return nil, fieldProblem("new", err.Error())
	}
	err := s.door.CheckOwn(ctx, c, in.Body.Old)
	switch p := doorProblem(err); {
	case p != nil && p.Status == http.StatusUnauthorized:
		return nil, fieldProblem("old", "the old password is another one")
	case p != nil:
		return nil, p
	case err != nil:
		return nil, err
	}
	phc, err := s.door.Hash(ctx, in.Body.New)
	if err != nil {
		return nil, err
	}
	if _, err := s.cfg.Cluster.Propose(ctx, fleet.ChangeUser{ID: c.UserID, PasswordHash: &phc, By: c.Name}); err != nil {
		return nil, err
	}
	// The change has ended every session of the account, this one too.
	return &noCookieOut{s.door.Cookie(requestOf(ctx), "")}, nil
}

func (s *Server) newLink(ctx context.Context, in *struct{ Body LinkFor }) (*struct{ Body OneCode }, error) {
	id := ""
	if in.Body.User != "" {
		u, err := s.userNamed(in.Body.User)
		if err != nil {
			return nil, err
		}
		id = u.ID
	}
	code, expires, err := s.door.NewLoginCode(ctx, id, who(ctx))
	return &struct{ Body OneCode }{OneCode{code, expires}}, err
}

func (s *Server) newSetupCode(ctx context.Context, _ *struct{}) (*struct{ Body OneCode }, error) {
	if s.door.HasUsers() {
		return nil, NewProblem(http.StatusConflict, door.ErrSetUp.Error())
	}
	code, expires, err := s.door.NewSetupCode(ctx, who(ctx))
	return &struct{ Body OneCode }{OneCode{code, expires}}, err
}

// doorProblem tells a refusal of the door; anything else stays what it is.
func doorProblem(err error) *Problem {
	var refused *door.Refused
	switch {
	case errors.Is(err, door.ErrSetUp):
		return NewProblem(http.StatusConflict, err.Error())
	case errors.As(err, &refused) && refused.Wait > 0:
		p := NewProblem(http.StatusTooManyRequests, err.Error())
		p.header = http.Header{"Retry-After": {strconv.Itoa(int(math.Ceil(refused.Wait.Seconds())))}}
		return p
	case errors.As(err, &refused):
		return NewProblem(http.StatusUnauthorized, err.Error())
	}
	return nil
}
