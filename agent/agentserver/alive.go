package agentserver

import (
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// beatEvery is how often a node that has not answered yet says that it is at
// work. An agent leaves a node that says nothing for five seconds.
const beatEvery = 2 * time.Second

// Alive serves h and, for as long as an answer is not there, sends an interim one
// (102, RFC 2518 section 10.1) now and then. By that an agent tells a node that
// waits, for a person or for the other nodes, from one that was stopped or cut
// off, whose silence looks the same. It is for what agents ask: firmware may not
// know interim answers.
func Alive(h http.Handler) http.Handler { return alive(h, beatEvery) }

func alive(h http.Handler, every time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !r.ProtoAtLeast(1, 1) {
			h.ServeHTTP(w, r)
			return
		}
		a := &aliveWriter{w: w, header: maps.Clone(w.Header())}
		a.mu.Lock() // the first tick may come before its timer is kept
		a.beat = time.AfterFunc(every, func() { a.tick(every) })
		a.mu.Unlock()
		defer a.begin() // for a handler that writes nothing, or panics
		h.ServeHTTP(a, r)
	})
}

// aliveWriter is a ResponseWriter that may be ticked beside the handler that
// writes to it. The handler's header is kept apart: an interim answer carries the
// header there is, in the middle of it being set.
type aliveWriter struct {
	w      http.ResponseWriter
	header http.Header
	beat   *time.Timer

	mu    sync.Mutex
	begun bool // the answer, or its end
}

// tick says that the node is at work.
func (a *aliveWriter) tick(again time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		return
	}
	a.w.WriteHeader(http.StatusProcessing)
	a.beat.Reset(again)
}

// begin ends the ticking and hands the header over, once.
func (a *aliveWriter) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun {
		return
	}
	a.begun = true
	a.beat.Stop()
	maps.Copy(a.w.Header(), a.header)
}

func (a *aliveWriter) Header() http.Header {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.begun { // for trailers
		return a.w.Header()
	}
	return a.header
}

func (a *aliveWriter) WriteHeader(status int) {
	a.begin()
	a.w.WriteHeader(status)
}

func (a *aliveWriter) Write(p []byte) (int, error) {
	a.begin()
	return a.w.Write(p)
}

// ReadFrom lets the kernel copy a file to the connection.
func (a *aliveWriter) ReadFrom(r io.Reader) (int64, error) {
	a.begin()
	return io.Copy(a.w, r)
}

// Flush sends what is there.
func (a *aliveWriter) Flush() {
	a.begin()
	_ = http.NewResponseController(a.w).Flush() // what cannot be flushed is sent at the end
}

// Unwrap is for http.ResponseController.
func (a *aliveWriter) Unwrap() http.ResponseWriter { return a.w }
