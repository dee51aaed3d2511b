package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Somebody may use an address of the range without having been lent it: a printer
// with an address by hand, a machine of the server that was here before. So an
// address that its machine has not had before is asked for on the wire, as RFC 5227
// has it, before it is offered.

const (
	arpWait      = 300 * time.Millisecond // for an answer; EDK2 collects offers for 4 s, iPXE asks again after 1 s
	arpAgain     = 120 * time.Millisecond // one lost frame is no proof
	arpGood      = time.Minute            // how long nobody's answer holds
	arpAtOnce    = 64                     // addresses asked for at a time, and
	arpASecond   = 100                    // in a second; beyond, offers go out unasked: a flood of strangers is none of ARP
	arpWaiters   = 128                    // DISCOVERs that wait for an answer; beyond, too, they are offered what is not asked for
	arpKept      = 1024                   // answers remembered
	arpTries     = 8                      // addresses tried for one DISCOVER
	arpClaimMost = 16                     // addresses one card may keep from being lent: a router that answers for all of them is no conflict
)

// prober asks on one link whether addresses are in use: by ARP on its own wire, by
// ICMP echo past relays (echo.go).
type prober struct {
	kind  string // "arp" or "echo": what it counts begins with
	link  link
	send  func(addr netip.Addr) error // asks once
	wait  time.Duration
	again time.Duration
	stats *counters
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex
	rate   pace
	asking map[netip.Addr]*arpQuestion
	free   map[netip.Addr]time.Time // when nobody answered
}

// arpQuestion is one address that is asked for; several may wait for the answer.
type arpQuestion struct {
	done chan struct{} // closed when it is known
	card string        // who uses the address; empty if nobody does
}

func newProber(kind string, l link, stats *counters, log *slog.Logger, now func() time.Time) *prober {
	return &prober{kind: kind, link: l, stats: stats, log: log, now: now,
		asking: map[netip.Addr]*arpQuestion{}, free: map[netip.Addr]time.Time{}}
}

// newARPProber asks by ARP.
func newARPProber(l link, send func([]byte, net.HardwareAddr) error, stats *counters, log *slog.Logger, now func() time.Time) *prober {
	p := newProber("arp", l, stats, log, now)
	p.wait, p.again = arpWait, arpAgain
	p.send = func(addr netip.Addr) error { return send(arpProbe(l.mac, addr), broadcastCard) }
	return p
}

// ask finds out which card uses the address: none, or that is not known, if it is
// empty. It takes as long as an answer is waited for.
func (p *prober) ask(ctx context.Context, addr netip.Addr) (card string) {
	p.mu.Lock()
	if at, ok := p.free[addr]; ok && p.now().Sub(at) < arpGood {
		p.mu.Unlock()
		return ""
	}
	q, running := p.asking[addr]
	if !running {
		if len(p.asking) >= arpAtOnce || !p.rate.allow(p.now(), time.Second, arpASecond) {
			p.mu.Unlock()
			p.stats.add(p.kind + ".not asked")
			return ""
		}
		q = &arpQuestion{done: make(chan struct{})}
		p.asking[addr] = q
	}
	p.mu.Unlock()
	if !running {
		go p.question(addr, q)
	}
	select {
	case <-q.done:
	case <-ctx.Done():
		return ""
	}
	return q.card
}

// question asks twice and waits.
func (p *prober) question(addr netip.Addr, q *arpQuestion) {
	p.stats.add(p.kind + ".asked")
	end := time.NewTimer(p.wait)
	defer end.Stop()
	again := time.NewTimer(p.again)
	defer again.Stop()
	for {
		if err := p.send(addr); err != nil {
			p.stats.add(p.kind + ".send failed")
			p.log.Debug("could not ask who uses an address", "interface", p.link.Name, "addr", addr, "err", err)
		}
		select {
		case <-again.C:
			continue
		case <-q.done:
			return
		case <-end.C:
		}
		p.answer(addr, "")
		return
	}
}

// answer ends a question.
func (p *prober) answer(addr netip.Addr, card string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q, ok := p.asking[addr]
	if !ok {
		return
	}
	delete(p.asking, addr)
	q.card = card
	close(q.done)
	if card != "" {
		p.stats.add(p.kind + ".in use")
		delete(p.free, addr)
		return
	}
	now := p.now()
	if len(p.free) >= arpKept {
		for a, at := range p.free {
			if now.Sub(at) >= arpGood {
				delete(p.free, a)
			}
		}
	}
	if len(p.free) < arpKept {
		p.free[addr] = now
	}
}

// hear takes an ARP packet off the wire. Its sender has the address it names.
func (p *prober) hear(b []byte) {
	card, addr, ok := parseARP(b)
	if ok && card != p.link.mac.String() {
		p.answer(addr, card)
	}
}

// serve listens until ctx ends.
func (p *prober) serve(ctx context.Context, s *rawSocket) error {
	return s.listen(ctx, "ARP on "+p.link.Name, p.stats, p.log, func(packet []byte, _ net.HardwareAddr) { p.hear(packet) })
}

// The layout of an ARP packet for IPv4 over Ethernet (RFC 826).
const (
	arpLen     = 28
	arpRequest = 1
	arpReply   = 2
)

// arpProbe asks who has addr, without claiming any itself (RFC 5227 section 2.1.1).
func arpProbe(own net.HardwareAddr, addr netip.Addr) []byte {
	b := make([]byte, arpLen)
	binary.BigEndian.PutUint16(b[0:], 1) // Ethernet
	binary.BigEndian.PutUint16(b[2:], unix.ETH_P_IP)
	b[4], b[5] = 6, 4
	binary.BigEndian.PutUint16(b[6:], arpRequest)
	copy(b[8:14], own)
	copy(b[24:28], addr.AsSlice())
	return b
}

// parseARP reads who says to have which address. ok is false for what is no ARP of
// IPv4 over Ethernet and for probes, whose sender has none.
func parseARP(b []byte) (card string, addr netip.Addr, ok bool) {
	if len(b) < arpLen || binary.BigEndian.Uint16(b) != 1 || binary.BigEndian.Uint16(b[2:]) != unix.ETH_P_IP || b[4] != 6 || b[5] != 4 {
		return "", addr, false
	}
	if op := binary.BigEndian.Uint16(b[6:]); op != arpRequest && op != arpReply {
		return "", addr, false
	}
	card, isCard := macOf(net.HardwareAddr(b[8:14]))
	addr = addrField(b[14:18])
	return card, addr, isCard && addr.IsValid()
}

// openARP opens the socket that asks and hears.
func openARP(l link) (*rawSocket, error) {
	s, err := openRaw(l.index, unix.ETH_P_ARP, true)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", l.Name, err)
	}
	// Only what is of IPv4 and names a sender: what a large network's machines ask
	// each other for all day is dropped by the kernel where it can be.
	filter := []bpf.Instruction{
		bpf.LoadAbsolute{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipFalse: 3},
		bpf.LoadAbsolute{Off: 14, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: 64},
		bpf.RetConstant{Val: 0},
	}
	if err := s.only(filter); err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: %w", l.Name, err), s.Close())
	}
	return s, nil
}

// arpWaiting are the machines whose DISCOVERs wait to hear whether an address is in
// use. A machine that asks again meanwhile has its answer coming. The zero value is
// ready.
type arpWaiting struct {
	mu sync.Mutex
	by map[string]bool // by MAC, whether it counts
	n  int             // that count
}

// enter notes a machine. It is not first if it waits already, and there is no room for
// it to be asked for when too many wait.
func (w *arpWaiting) enter(mac string) (first, room bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, waits := w.by[mac]; waits {
		return false, false
	}
	if w.by == nil {
		w.by = map[string]bool{}
	}
	if room = w.n < arpWaiters; room {
		w.n++
	}
	w.by[mac] = room
	return true, room
}

func (w *arpWaiting) leave(mac string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by[mac] {
		w.n--
	}
	delete(w.by, mac)
}

// prober finds out who uses an address that the machine may be offered; nil if nobody
// is to be asked.
func (r *responder) prober(req request) func(context.Context, netip.Addr) string {
	if r.past(req) {
		return r.echo
	}
	return r.probe
}

// unused finds an address for a stranger that nobody uses, and keeps those from
// being offered that somebody does. A machine that has had its address is not
// asked to wait.
func (r *responder) unused(ctx context.Context, req request) (addr netip.Addr, ok bool) {
	mac := req.machine.MAC
	for range arpTries {
		addr, ok = r.choose(req)
		probe := r.prober(req)
		if !ok || probe == nil {
			return addr, ok
		}
		if fixed, known := r.fixed(mac); known && fixed == addr {
			return addr, true
		}
		if lease, had := r.leases.Of(mac); had && lease.Addr == addr {
			return addr, true
		}
		card := probe(ctx, addr)
		if card == "" || card == mac || !r.leases.InUse(addr, card) {
			return addr, true
		}
		who := "the card " + card
		if card == echoed {
			who = card
		}
		r.tell(req, fmt.Sprintf("is not offered %s: %s uses it without having been lent it", addr, who))
		if r.mayComplain() {
			r.log.Warn("an address of the range is in use by a machine that was not lent it; it is lent to nobody for a while",
				"interface", r.link.Name, "addr", addr, "card", card, "for", declineRest)
		}
	}
	return netip.Addr{}, false
}
