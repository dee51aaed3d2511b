package agentserver

import (
	"sync"
	"time"
)

// waiters are the long polls that are held, by machine.
type waiters struct {
	mu   sync.Mutex
	held map[string]map[chan struct{}]struct{}
}

func (w *waiters) wait(machineID string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		w.held = map[string]map[chan struct{}]struct{}{}
	}
	if w.held[machineID] == nil {
		w.held[machineID] = map[chan struct{}]struct{}{}
	}
	ch := make(chan struct{})
	w.held[machineID][ch] = struct{}{}
	return ch
}

func (w *waiters) leave(machineID string, ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held[machineID], ch)
	if len(w.held[machineID]) == 0 {
		delete(w.held, machineID)
	}
}

func (w *waiters) wake(machineID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.held[machineID] {
		close(ch)
	}
	delete(w.held, machineID)
}

// contacts remembers when each machine's agent was last heard: here, and by
// others. The two are kept apart, or nodes would tell each other for ever what
// each has from the other.
type contacts struct {
	mu           sync.Mutex
	here, others map[string]time.Time
}

func (c *contacts) touch(machineID string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.here == nil {
		c.here = map[string]time.Time{}
	}
	c.here[machineID] = now
}

func (c *contacts) told(machineID string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.others == nil {
		c.others = map[string]time.Time{}
	}
	if at.After(c.others[machineID]) {
		c.others[machineID] = at
	}
}

func (c *contacts) last(machineID string) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if here, others := c.here[machineID], c.others[machineID]; !others.After(here) {
		return here
	} else {
		return others
	}
}

func (c *contacts) since(since time.Time) map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]time.Time{}
	for id, at := range c.here {
		if at.After(since) {
			out[id] = at
		}
	}
	return out
}

// consoleLines is how much of a machine's console is kept.
const consoleLines = 400

// consoles keeps the end of what each agent printed.
type consoles struct {
	mu   sync.Mutex
	ring map[string][]string
}

func (c *consoles) add(machineID string, lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ring == nil {
		c.ring = map[string][]string{}
	}
	kept := c.ring[machineID]
	for _, l := range lines {
		kept = append(kept, cleanString(l))
	}
	if n := len(kept) - consoleLines; n > 0 {
		kept = append([]string(nil), kept[n:]...)
	}
	c.ring[machineID] = kept
}

func (c *consoles) lines(machineID string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.ring[machineID]...)
}
