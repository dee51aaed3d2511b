package netboot

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// bootHTTP serves scripts and boot files.
type bootHTTP struct {
	files     *Files
	scripts   *scripts
	profiles  Profiles
	turns     *turns
	sightings *Sightings
	stats     *counters
	log       *slog.Logger
	now       func() time.Time
	within    func(size int64) time.Duration // in which a machine has to take a file
}

// sendTime is how long a machine may take for a file, which is longer than over any link
// that boots machines. There are so many connections in all, and who takes nothing would
// keep its own for ever.
func sendTime(size int64) time.Duration {
	const slowest = 16 << 10 // bytes in a second
	return 10*time.Minute + time.Duration(size/slowest)*time.Second
}

// ServeHTTP answers GET and HEAD below /boot/.
func (h *bootHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, BootPath)
	if !ok {
		http.NotFound(w, r)
		return
	}
	switch name {
	case scriptStub:
		h.begin(w, r)
	case FileAutoexec:
		h.stats.add("http.autoexec")
		h.text(w, r, autoexecScript(nodeAddr(r)))
	default:
		if rest, ok := strings.CutPrefix(name, profileAnswers); ok {
			h.answer(w, r, rest)
			return
		}
		if rest, ok := strings.CutPrefix(name, profileFiles); ok {
			h.profileFile(w, r, rest)
			return
		}
		if path, ok := pathOf(name); ok {
			h.script(w, r, path)
			return
		}
		h.file(w, r, name)
	}
}

// begin is for a machine that does not have the path of its boot.
func (h *bootHTTP) begin(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("mac") {
		h.stats.add("http.script.no path")
		http.NotFound(w, r) // whoever knows a MAC would get its script
		return
	}
	h.stats.add("http.stub")
	h.text(w, r, h.scripts.begin(ipxe{}, nodeAddr(r), peer(r)))
}

// script is the stub for a machine that has not said who it is, and the
// machine's own script for one that has.
func (h *bootHTTP) script(w http.ResponseWriter, r *http.Request, path string) {
	q := r.URL.Query()
	if !h.scripts.paths.formed(path) {
		h.stats.add("http.not found")
		http.NotFound(w, r)
		return
	}
	if !q.Has("mac") {
		h.stats.add("http.stub")
		h.text(w, r, ipxe{}.stub(nodeAddr(r), path))
		return
	}
	script, served, ok := h.scripts.of(r.Context(), ipxe{}, scriptAsk{
		node: nodeAddr(r), from: peer(r), path: path, looks: r.Method == http.MethodHead, mac: q.Get("mac"), uuid: q.Get("uuid"), platform: q.Get("platform"), built: q.Get("arch"),
	})
	if !ok {
		http.NotFound(w, r)
		return
	}
	h.stats.add("http.script")
	if r.Method == http.MethodGet && served != nil {
		h.served(served)
	}
	h.text(w, r, script)
}

// served tells the fleet, and waits a moment for it to be written down. A machine
// is not kept from booting by nodes that cannot agree just now.
func (h *bootHTTP) served(tell func()) {
	told := make(chan struct{})
	go func() {
		defer close(told)
		tell()
	}()
	moment := time.NewTimer(servedWait)
	defer moment.Stop()
	select {
	case <-told:
	case <-moment.C:
	}
}

// servedWait is how long a script waits for the fleet to be told.
const servedWait = 500 * time.Millisecond

// text answers with a script. Scripts hold the time and a decision: nobody may
// keep one.
func (h *bootHTTP) text(w http.ResponseWriter, r *http.Request, script string) {
	w.Header().Set("Content-Type", "text/plain; charset=us-ascii")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", fmt.Sprint(len(script)))
	if r.Method == http.MethodHead {
		return
	}
	// A client that has gone needs no answer.
	_, _ = io.WriteString(w, script)
}

// file serves one boot file.
func (h *bootHTTP) file(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := h.files.find(name)
	if !ok {
		h.stats.add("http.not found")
		h.log.Debug("unknown boot file asked for", "name", clip(hidePath(name)), "from", r.RemoteAddr)
		h.tellMissing(peer(r), name)
		http.NotFound(w, r)
		return
	}
	h.send(w, r, f, strings.TrimLeft(name, "/"))
}

// send serves a file, in ranges if asked. Those that are long are served in turns; what
// needs no bytes, because the machine asks for none or has them, does not wait.
func (h *bootHTTP) send(w http.ResponseWriter, r *http.Request, f file, name string) {
	h.stats.add("http.file")
	from := peer(r)
	mac, waited := h.sightings.holder(from), ""
	tell := func(step Step, format string, args ...any) {
		if mac != "" && r.Method == http.MethodGet {
			h.sightings.Add(Sighting{At: h.now(), MAC: mac, Kind: KindHTTP, Addr: from, Step: step, File: name, Size: f.size, Text: fmt.Sprintf(format, args...)})
		}
	}
	if r.Method == http.MethodGet && f.size >= turnBytes && !has(r, f) {
		began := h.now()
		done, err := h.turns.take(r.Context(), from, func(before int) {
			h.stats.add("http.wait")
			waited = " after waiting"
			tell(StepAsked, "waits for its turn to fetch %s: %s before it", name, machines(before))
		})
		if err != nil {
			h.stats.add("http.wait.given up")
			tell(StepStopped, "gave up waiting for its turn to fetch %s after %s", name, h.now().Sub(began).Round(100*time.Millisecond))
			return
		}
		defer done()
		if waited != "" {
			waited += " for " + h.now().Sub(began).Round(100*time.Millisecond).String()
		}
	}
	w.Header().Set("ETag", f.etag)
	w.Header().Set("Content-Type", "application/octet-stream")
	content, done := f.content()
	defer done()
	timed, end := http.NewResponseController(w), time.Now().Add(h.within(f.size))
	_ = timed.SetWriteDeadline(end) // a writer without is no connection
	defer func() {
		if time.Now().Before(end) { // or what is left is not to be waited for either
			_ = timed.SetWriteDeadline(time.Time{})
		}
	}()
	h.watched(w, r, name, waited, f.size, func(w http.ResponseWriter) { http.ServeContent(w, r, "", time.Time{}, content) })
}

// has says whether the machine has the file and asks if it is still the same (RFC 9110
// section 13.1.2).
func has(r *http.Request, f file) bool {
	for _, tag := range strings.Split(r.Header.Get("If-None-Match"), ",") {
		if strings.TrimPrefix(strings.TrimSpace(tag), "W/") == f.etag {
			return true
		}
	}
	return false
}

func machines(n int) string {
	if n == 1 {
		return "1 other is"
	}
	return fmt.Sprintf("%d others are", n)
}

// nodeAddr is the address the request came in on: the one address the machine
// is known to reach. The Host header is the client's word and is not used.
func nodeAddr(r *http.Request) netip.AddrPort {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(a.String()); err == nil {
			return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
	}
	return netip.AddrPort{}
}

// peer is the address a request came from.
func peer(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}
