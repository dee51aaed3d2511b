package api

import (
	"reflect"
	"sync"

	"github.com/lpmos/lpmos/agent/wire"
)

var problemType = reflect.TypeFor[Problem]()

// keptPlans bounds the plans remembered; each is shared with the fleet's state
// for as long as that has it too.
const keptPlans = 4096

// planMemory keeps the plans that were shown, so that a person who approves one
// that is no longer true can be told what has changed.
type planMemory struct {
	mu     sync.Mutex
	byHash map[string]*wire.Plan
	order  []string // ring, oldest at next
	next   int
}

func (m *planMemory) remember(hash string, p *wire.Plan) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byHash == nil {
		m.byHash = map[string]*wire.Plan{}
	}
	if m.byHash[hash] != nil {
		return
	}
	m.byHash[hash] = p
	if len(m.order) < keptPlans {
		m.order = append(m.order, hash)
		return
	}
	delete(m.byHash, m.order[m.next])
	m.order[m.next] = hash
	m.next = (m.next + 1) % keptPlans
}

func (m *planMemory) find(hash string) *wire.Plan {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.byHash[hash]
}
