package agent

import (
	"strings"
	"sync"

	"github.com/lpmos/lpmos/agent/wire"
)

// nodes are those an agent may talk to, and the one it talks to now. It stays
// with that one until it must leave it: nodes are alike, and an agent that went
// to and fro would ask each for what only the last was told. It may be used by
// several goroutines.
type nodes struct {
	mu   sync.Mutex
	list []string // base URLs, own first
	at   int
	gone map[string]bool // fell silent and were not heard since
}

func newNodes(list []string) *nodes { return &nodes{list: list, gone: map[string]bool{}} }

// now is the node in use.
func (n *nodes) now() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.list[n.at]
}

func (n *nodes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.list)
}

// heard notes that a node has answered.
func (n *nodes) heard(base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.gone, base)
}

// silent leaves a node that does not answer.
func (n *nodes) silent(base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone[base] = true
	n.leave(base)
}

// turn leaves a node that answers but cannot help.
func (n *nodes) turn(base string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leave(base)
}

// leave goes to the next node that is not known to be silent, or to the next if
// all others are, so that each has its turn. Whoever comes late, after somebody
// else has left the node already, stays where the other went.
func (n *nodes) leave(base string) {
	if n.list[n.at] != base {
		return
	}
	for i := 1; i < len(n.list); i++ {
		if next := (n.at + i) % len(n.list); !n.gone[n.list[next]] {
			n.at = next
			return
		}
	}
	n.at = (n.at + 1) % len(n.list)
}

// learn takes a node's word for which nodes there are. The one in use stays, and
// so do those known before for which there is room: a node that is away now may
// be the one that is left in the end.
func (n *nodes) learn(told []string) {
	if len(told) == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if list := wire.Nodes([]string{n.list[n.at]}, told, n.list); len(list) > 0 {
		n.list, n.at = list, 0
	}
}

// away reports whether the URL is below a node that has fallen silent and that
// was left for another: asking it once more is time lost.
func (n *nodes) away(where string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	base := below(where, n.list)
	return base != "" && n.gone[base] && n.list[n.at] != base
}

// of is the node whose URL this is below, or "".
func (n *nodes) of(where string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return below(where, n.list)
}

// below finds the base URL that the URL is below, with TLS or without: a node
// answers to both on one port.
func below(where string, bases []string) string {
	host := func(s string) string {
		scheme, s, _ := strings.Cut(s, "://")
		s, _, _ = strings.Cut(s, "/")
		if port := map[string]string{"http": ":80", "https": ":443"}[scheme]; !strings.Contains(s[strings.LastIndex(s, "]")+1:], ":") {
			s += port
		}
		return s
	}
	for _, base := range bases {
		if host(base) == host(where) {
			return base
		}
	}
	return ""
}
