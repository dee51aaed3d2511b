package door

import (
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Need is what a route asks of who calls it.
type Need string

// The needs. A route has exactly one.
const (
	Anyone   Need = "anyone" // also who is not signed in
	Viewer   Need = "viewer"
	Operator Need = "operator"
	Admin    Need = "admin"
	// Local is who holds the node's data directory, and nobody over the network.
	Local Need = "local"
	// Inside says that the handler is another Mux, which has the needs.
	Inside Need = "inside"
)

// Met reports whether the caller may.
func (n Need) Met(c Caller) bool {
	switch n {
	case Anyone, Inside:
		return true
	case Viewer, Operator, Admin:
		return c.Role != "" && c.Role.AtLeast(fleet.Role(n))
	case Local:
		return c.Local
	}
	return false
}

// Mux is a mux of which each route says what it needs: a route that does not is a
// mistake, which is found when the program starts, and nobody is let in by it.
type Mux struct {
	mux   *http.ServeMux
	needs map[string]Need // by pattern
	// Refuse answers who may not: 401 to who is not signed in, else 403.
	Refuse func(w http.ResponseWriter, r *http.Request, need Need)
}

// NewMux makes a mux without routes.
func NewMux(refuse func(w http.ResponseWriter, r *http.Request, need Need)) *Mux {
	return &Mux{mux: http.NewServeMux(), needs: map[string]Need{}, Refuse: refuse}
}

// Need says what a pattern needs. It has to be said before the pattern is handled.
func (m *Mux) Need(pattern string, need Need) {
	switch need {
	case Anyone, Viewer, Operator, Admin, Local, Inside:
		m.needs[pattern] = need
	default:
		panic(fmt.Sprintf("door: route %q needs %q, which is no need", pattern, need))
	}
}

// HandleFunc is http.ServeMux's. It panics for a pattern whose need nobody said.
func (m *Mux) HandleFunc(pattern string, f func(http.ResponseWriter, *http.Request)) {
	need, said := m.needs[pattern]
	if !said {
		panic(fmt.Sprintf("door: route %q says not who may call it", pattern))
	}
	m.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if !need.Met(CallerOf(r.Context())) {
			m.Refuse(w, r, need)
			return
		}
		f(w, r)
	})
}

// Handle says what a pattern needs and handles it.
func (m *Mux) Handle(pattern string, need Need, h http.Handler) {
	m.Need(pattern, need)
	m.HandleFunc(pattern, h.ServeHTTP)
}

// Handler is http.ServeMux's: what would answer a request.
func (m *Mux) Handler(r *http.Request) (http.Handler, string) { return m.mux.Handler(r) }

// ServeHTTP answers a request.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.mux.ServeHTTP(w, r) }

// Routes are all patterns with what they need, for tests that walk them.
func (m *Mux) Routes() map[string]Need { return maps.Clone(m.needs) }

// Patterns are all patterns in order.
func (m *Mux) Patterns() []string { return slices.Sorted(maps.Keys(m.needs)) }
