package door

import (
	"net"
	"net/http"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// secureCookie is sent by browsers to this very host over TLS alone (RFC 6265bis
// section 4.1.3.2).
const secureCookie = "__Host-lpmos"

// CookieName is the name of the session's cookie for a request. Over plain HTTP,
// which is answered on loopback alone, it bears the cluster's id: browsers do not
// tell ports apart, and several clusters may be tried on one host.
func (d *Door) CookieName(r *http.Request) string {
	if r.TLS != nil {
		return secureCookie
	}
	id := "00000000"
	d.cfg.Cluster.View(func(s *fleet.State) {
		if c := s.Cluster(); c != nil && len(c.ID) >= 8 {
			id = c.ID[:8]
		}
	})
	return "lpmos-" + id
}

// Cookie gives a browser its session, or with an empty secret takes it away.
func (d *Door) Cookie(r *http.Request, secret string) *http.Cookie {
	c := &http.Cookie{Name: d.CookieName(r), Value: secret, Path: "/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode}
	if secret == "" {
		c.MaxAge = -1
	}
	return c
}

// Exposed reports whether a request came in the clear from elsewhere.
func Exposed(r *http.Request) bool {
	if r.TLS != nil {
		return false
	}
	tcp, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback()
}
