package netboot

import (
	"context"
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
	fleet      Fleet
	neighbours Neighbours // nil: this node is alone
	files      *Files
	kernelArgs string
	paths      paths
	lent       func(netip.Addr) string // the MAC of the machine that this node has lent the address to, or ""
	pin        string
	claim      func(mac string, addr netip.Addr) (string, error)
	lends      func(netip.Addr) bool // whether this node lends addresses of that one's network
	strangers  *strangers
	turns      *turns
	sightings  *Sightings
	stats      *counters
	log        *slog.Logger
	now        func() time.Time
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
		if path, ok := pathOf(name); ok {
			h.script(w, r, path)
			return
		}
		h.file(w, r, name)
	}
}

// begin makes the path of a boot for whoever asks without one: a machine whose
// address another server lent, or that boots by a file of a fixed name. It leads to
// a script only from this address and, if this node lent it, for its machine.
func (h *bootHTTP) begin(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("mac") {
		h.stats.add("http.script.no path")
		http.NotFound(w, r) // whoever knows a MAC would get its script
		return
	}
	from := peer(r)
	h.stats.add("http.stub")
	h.text(w, r, stubScript(nodeAddr(r), h.paths.new(h.lent(from), from)))
}

// script is the stub for a machine that has not said who it is, and the
// machine's own script for one that has. A MAC that makes no sense gets the
// disk: it must not get the stub again, or the machine would go round for ever.
func (h *bootHTTP) script(w http.ResponseWriter, r *http.Request, path string) {
	q := r.URL.Query()
	if !h.paths.formed(path) {
		h.stats.add("http.not found")
		http.NotFound(w, r)
		return
	}
	if !q.Has("mac") {
		h.stats.add("http.stub")
		h.text(w, r, stubScript(nodeAddr(r), path))
		return
	}
	mac, ok := ParseMAC(q.Get("mac"))
	if !ok {
		h.stats.add("http.script.bad mac")
		h.log.Warn("boot script asked for without a proper MAC; the machine boots its disk", "mac", clip(q.Get("mac")), "from", r.RemoteAddr)
		h.text(w, r, localScript("this machine did not say who it is", 0))
		return
	}
	leads := h.paths.leads(path, mac, peer(r))
	// Where this node lends the addresses, a machine that is known has its own. Whoever
	// comes from another and says its MAC is somebody else.
	if fixed, known := h.fleet.Address(mac); known && fixed != peer(r) && h.paths.forWhoever(path, peer(r)) && h.lends(peer(r)) {
		leads = false
	}
	if !leads {
		h.stats.add("http.script.wrong path")
		h.log.Warn("a boot script was asked for that is another machine's, or too late", "mac", mac, "from", r.RemoteAddr)
		http.NotFound(w, r)
		return
	}
	m := Machine{MAC: mac, Addr: peer(r), Firmware: Firmware{Stage: StageIPXE, ArchCode: -1}}
	m.UUID, _ = ParseUUID(q.Get("uuid"))
	switch q.Get("platform") {
	case "efi":
		m.Firmware.Platform = "uefi"
	case "pcbios":
		m.Firmware.Platform = "bios"
	}
	d := h.fleet.Decide(r.Context(), m)
	if d.LocalDrive < 0 || d.LocalDrive > 0x7f {
		d.LocalDrive = 0
	}
	switch {
	case d.Counted:
		h.strangers.forget(mac)
	case d.Action == BootAgent && r.Method == http.MethodGet && h.strangers.held(mac, h.now()):
		// Nobody wants anything of it: it may be a server that runs.
		d.Action, d.Reason = BootLocal, strangerTried
	}
	var claim string
	if d.Action == BootAgent {
		var err error
		if claim, err = h.claim(mac, m.Addr); err != nil {
			h.log.Warn("no claim code for a machine; it boots its disk", "mac", mac, "from", r.RemoteAddr, "err", err)
			d.Action, d.Reason = BootLocal, "no claim code can be made for it"
		}
	}
	var script string
	switch d.Action {
	case BootHold:
		script = holdScript(nodeAddr(r), title(d))
	case BootAgent:
		script = agentScript{Node: nodeAddr(r), Others: h.others(nodeAddr(r)), MAC: mac, Pin: h.pin, Claim: claim,
			Title: title(d), KernelArgs: h.kernelArgs, Now: h.now(), Drive: d.LocalDrive}.String()
	default:
		// A machine that has come this far needs a script even when nothing was
		// meant to be booted.
		script = localScript(title(d), d.LocalDrive)
	}
	h.stats.add("http.script")
	h.sightings.netboots(mac, h.now())
	h.sightings.holds(mac, m.Addr)
	what := "to boot its own disk"
	switch d.Action {
	case BootAgent:
		what = "to start the agent"
	case BootHold:
		what = "to wait"
	}
	h.sightings.Add(Sighting{At: h.now(), MAC: mac, Kind: KindScript, Addr: m.Addr, Text: "was told " + what + because(d.Reason)})
	if r.Method == http.MethodGet {
		h.served(r.Context(), m, d)
	}
	h.text(w, r, script)
}

// served tells the fleet, and waits a moment for it to be written down. A machine
// is not kept from booting by nodes that cannot agree just now.
func (h *bootHTTP) served(ctx context.Context, m Machine, d Decision) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), servedTime)
	told := make(chan struct{})
	go func() {
		defer close(told)
		defer cancel()
		if err := h.fleet.BootServed(ctx, m, d); err != nil {
			h.log.Warn("could not record that a machine was told what to boot", "mac", m.MAC, "action", d.Action, "err", err)
		}
	}()
	moment := time.NewTimer(servedWait)
	defer moment.Stop()
	select {
	case <-told:
	case <-moment.C:
	}
}

// servedWait is how long a script waits for the fleet to be told, and servedTime
// how long that may take beside it.
const (
	servedWait = 500 * time.Millisecond
	servedTime = 10 * time.Second
)

// others are the nodes a machine may turn to when this one is gone.
func (h *bootHTTP) others(own netip.AddrPort) []string {
	if h.neighbours == nil {
		return nil
	}
	return h.neighbours.Nodes(own)
}

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

// file serves one boot file, in ranges if asked. Those that are long are served in
// turns; what needs no bytes, because the machine asks for none or has them, does not
// wait.
func (h *bootHTTP) file(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := h.files.find(name)
	if !ok {
		h.stats.add("http.not found")
		h.log.Debug("unknown boot file asked for", "name", clip(name), "from", r.RemoteAddr)
		http.NotFound(w, r)
		return
	}
	h.stats.add("http.file")
	from, name := peer(r), strings.TrimLeft(name, "/")
	mac, waited := h.sightings.holder(from), ""
	tell := func(format string, args ...any) {
		if mac != "" && r.Method == http.MethodGet {
			h.sightings.Add(Sighting{At: h.now(), MAC: mac, Kind: KindHTTP, Addr: from, Text: fmt.Sprintf(format, args...)})
		}
	}
	if r.Method == http.MethodGet && f.size >= turnBytes && !has(r, f) {
		began := h.now()
		done, err := h.turns.take(r.Context(), from, func(before int) {
			h.stats.add("http.wait")
			waited = " after waiting"
			tell("waits for its turn to fetch %s: %s before it", name, machines(before))
		})
		if err != nil {
			h.stats.add("http.wait.given up")
			tell("gave up waiting for its turn to fetch %s after %s", name, h.now().Sub(began).Round(100*time.Millisecond))
			return
		}
		defer done()
		if waited != "" {
			waited += " for " + h.now().Sub(began).Round(100*time.Millisecond).String()
		}
	}
	tell("fetches %s over HTTP%s", name, waited)
	w.Header().Set("ETag", f.etag)
	w.Header().Set("Content-Type", "application/octet-stream")
	content, done := f.content()
	defer done()
	http.ServeContent(w, r, "", time.Time{}, content)
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

// because appends a reason to a sentence.
func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}
