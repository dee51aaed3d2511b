package door

import (
	"context"
	"net"
	"net/http"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Caller is who asks. The zero value is somebody who is not signed in.
type Caller struct {
	Name string     // in sentences and in the audit
	Role fleet.Role // "" for nobody
	From string     // address, or "socket"

	UserID  string // of a person with an account; of a token, whose it is
	Session string // its id, if it came by one
	Token   string // its id, if it came by an API token
	Local   bool   // holds the node's data directory

	secret fleet.Secret // hash of what it showed
}

// SignedIn reports whether it is known who asks.
func (c Caller) SignedIn() bool { return c.Role != "" }

// HasAccount reports whether it is a person who has signed in to an account.
func (c Caller) HasAccount() bool { return c.UserID != "" && c.Token == "" }

// personID tells people apart. All who hold a node's files are one.
func (c Caller) personID() string {
	if c.UserID == "" {
		return fleet.LocalName
	}
	return c.UserID
}

// At is who asks by the node's own socket: whoever may open that file may change
// the node's files too, so there is nothing to keep from them.
var atTheNode = Caller{Name: fleet.LocalName, Role: fleet.Admin, From: "socket", Local: true}

type callerKey struct{}

// CallerOf is who asks.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// With says who asks. What is done on their behalf carries their name into the log.
func With(ctx context.Context, c Caller) context.Context {
	if c.SignedIn() {
		ctx = fleet.WithOrigin(ctx, fleet.Origin{Name: c.Name, From: c.From, ActorID: c.personID(), ActorRole: c.Role, ByToken: c.Token != ""})
	}
	return context.WithValue(ctx, callerKey{}, c)
}

// As lets a handler take every request for one of this caller.
func As(c Caller, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(With(r.Context(), c))) })
}

// AtTheNode is for requests that came by the node's own socket.
func AtTheNode(h http.Handler) http.Handler { return As(atTheNode, h) }

// AddressOf is where a request came from, without the port.
func AddressOf(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return "socket"
	}
	return host
}
