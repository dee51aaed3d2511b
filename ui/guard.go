package ui

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/door"
)

// policy lets the page load nothing from anywhere else, run no script but its
// own files, and be framed by nobody.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// guard is the door: which names this node answers to, who may change anything,
// and what a browser is told to be careful about.
func guard(cfg Config, next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		api.NewProblem(http.StatusForbidden, "a page of another site asked for this; open this node's own dashboard").WriteTo(w)
	}))
	inner := cross.Handler(noForms(next))
	hosts := make([]string, len(cfg.Hosts))
	for i, h := range cfg.Hosts {
		hosts[i] = strings.ToLower(h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		// A name that is not ours may be a page elsewhere whose name was made to
		// point here (DNS rebinding); no such page can have an address for a name.
		if !ourHost(r.Host, hosts) {
			api.NewProblem(http.StatusMisdirectedRequest, "this node does not answer to that name; use its address, or add the name to its configuration").WriteTo(w)
			return
		}
		if door.Exposed(r) {
			toTLS(w, r)
			return
		}
		if r.TLS != nil {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		inner.ServeHTTP(w, r)
	})
}

// noForms refuses to change anything for what a form could have sent.
func noForms(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if writes(r.Method) && formType(r.Header.Get("Content-Type")) {
			api.NewProblem(http.StatusUnsupportedMediaType, "that is how a form of a page sends; send JSON as application/json, or an image as application/octet-stream").WriteTo(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// toTLS answers what came in the clear from another host. A page is shown where it
// is; what may carry a password or a token is refused, so that whoever sends it
// finds out that it was sent in the clear.
func toTLS(w http.ResponseWriter, r *http.Request) {
	if writes(r.Method) || r.Header.Get("Authorization") != "" {
		api.NewProblem(http.StatusUpgradeRequired, "this node is reached by https from other hosts; what you sent went over the network in the clear: change the password or the token if there was one in it").WriteTo(w)
		return
	}
	w.Header().Set("Location", "https://"+r.Host+r.URL.RequestURI())
	w.WriteHeader(http.StatusPermanentRedirect)
}

func writes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions && method != http.MethodTrace
}

// formType reports whether a form of any page could send this type without asking
// (the Fetch standard's CORS-safelisted types).
func formType(header string) bool {
	kind, _, _ := mime.ParseMediaType(header)
	return kind == "text/plain" || kind == "multipart/form-data" || kind == "application/x-www-form-urlencoded"
}

// ourHost reports whether a Host header names this node.
func ourHost(host string, hosts []string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	if name == "localhost" || slices.Contains(hosts, name) {
		return true
	}
	addr, err := netip.ParseAddr(name)
	return err == nil && (addr.IsLoopback() || len(hosts) == 0)
}

// ourOrigin reports whether the page that opens a socket is this node's own or
// one of the origins that were configured. The comparison is exact: no pattern,
// and a missing origin is none of ours.
func ourOrigin(r *http.Request, origins []string) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	scheme := "http://"
	if r.TLS != nil {
		scheme = "https://"
	}
	return strings.EqualFold(origin, scheme+r.Host) || slices.Contains(origins, origin)
}
