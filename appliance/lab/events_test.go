package lab

import (
	"context"
	"strings"
	"sync"
	"testing"
)

// events collects what the rack prints.
type events struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{}
}

func newEvents() *events { return &events{grown: make(chan struct{})} }

func (e *events) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.text.Write(p)
	close(e.grown)
	e.grown = make(chan struct{})
	return len(p), nil
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.text.String()
}

func (e *events) wait(ctx context.Context, t *testing.T, word string) {
	t.Helper()
	for {
		e.mu.Lock()
		text, grown := e.text.String(), e.grown
		e.mu.Unlock()
		if strings.Contains(text, word) {
			return
		}
		select {
		case <-grown:
		case <-ctx.Done():
			t.Fatalf("the rack never said %q:\n%s", word, text)
		}
	}
}
