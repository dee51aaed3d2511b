package netboot

import (
	"encoding/binary"
	"errors"
	"time"
)

const (
	tftpTimeout  = time.Second           // to wait for an answer of somebody who has not answered yet, and at most
	tftpSoonest  = 50 * time.Millisecond // to wait at least: a client may be busy with what it got
	tftpPatience = 6 * time.Second       // for somebody who has answered before

	// tftpFirst is how often a packet is sent to somebody who has not answered yet:
	// the request may be forged, and what is sent then hits somebody who never asked.
	// tftpTries is how often later, at least, when it is known who listens, and
	// tftpMost how often at most.
	tftpFirst = 3
	tftpTries = 6
	tftpMost  = 40
)

// How a transfer ends early.
var (
	errTFTPSilent  = errors.New("no answer")
	errTFTPRefused = errors.New("nobody listens there any more")
	errTFTPAnother = errors.New("the client has asked for something else")
	errTFTPLong    = errors.New("it took too long")
	errTFTPStop    = errors.New("the node stops")
	errTFTPPanic   = errors.New("panic")
)

// tftpSender decides what of a file is sent, and when. It has no socket and no clock:
// what comes in and the time are told to it, and it answers with blocks to be sent.
//
// Blocks are counted from 1 and never wrap in here; block 0 is the answer to the
// options. Those from first up to next, which is not one of them, are on their way.
//
// A window (RFC 7440) is sent at once and begun anew behind the last block that the
// client has in order, as its acknowledgements tell. One that was doubled on its way
// must not double what is sent (the sorcerer's apprentice, RFC 1123 section 4.2.3.1),
// and looks like a client that has seen a gap. They are told apart by time: what was sent
// less than a round trip ago, no acknowledgement is about.
type tftpSender struct {
	window int64
	last   int64         // number of the last block, which is shorter than the others
	wait   time.Duration // what the client asked for with RFC 2349; 0: as measured

	first, next int64
	sent        time.Time // when the newest of them left
	again       bool      // one of them was sent more than once, so an answer measures nothing
	tries       int       // since the client has acknowledged anything new
	progress    time.Time // when it did
	answered    bool      // it has acknowledged anything at all

	round, varies, least time.Duration // of the round trip: smoothed, its deviation (RFC 6298), the shortest
}

// newTFTPSender is about size bytes in blocks of so many, options says whether the
// client has to confirm some first.
func newTFTPSender(size int64, block int, window int, options bool, wait time.Duration) *tftpSender {
	s := &tftpSender{window: int64(window), last: size/int64(block) + 1, wait: wait, first: 1, next: 1}
	if options {
		s.first, s.next = 0, 0
	}
	return s
}

// tftpBurst is what to send now: n blocks, none if n is 0.
type tftpBurst struct {
	from int64
	n    int
}

// done says whether the client has everything.
func (s *tftpSender) done() bool { return s.first > s.last }

// start begins.
func (s *tftpSender) start(now time.Time) tftpBurst {
	s.progress, s.tries = now, 1
	return s.fresh(now)
}

// fresh sends what may be sent and has not been.
func (s *tftpSender) fresh(now time.Time) tftpBurst {
	from, end := s.next, min(s.first+s.window, s.last+1)
	if s.first == 0 {
		end = 1
	}
	if end <= from {
		return tftpBurst{}
	}
	s.next, s.sent = end, now
	return tftpBurst{from, int(end - from)}
}

// resend sends everything from the first that the client lacks.
func (s *tftpSender) resend(now time.Time) tftpBurst {
	s.tries++
	s.again = true
	s.next = s.first
	return s.fresh(now)
}

// acknowledge takes the number of the last block that the client has in order.
func (s *tftpSender) acknowledge(number uint16, now time.Time) tftpBurst {
	before := s.first - 1
	got := before + int64(number-uint16(before))
	if got >= s.next {
		return tftpBurst{} // never sent, or long ago
	}
	least := s.least
	if least == 0 {
		least = tftpSoonest
	}
	about := now.Sub(s.sent) >= least-least/4 // it can be about what was sent last
	if got < s.first {
		// Nothing new. A client that gets a block a time has nothing to say with it.
		if !s.answered || s.window == 1 || !about || s.tries >= tftpMost {
			return tftpBurst{}
		}
		return s.resend(now)
	}
	if got == s.next-1 && !s.again {
		s.measure(now.Sub(s.sent))
	}
	s.first, s.progress, s.answered, s.tries = got+1, now, true, 0
	if s.first < s.next && about {
		return s.resend(now) // a gap
	}
	s.tries = 1
	s.again = s.again && s.first < s.next
	return s.fresh(now)
}

// measure is a round trip (RFC 6298 section 2).
func (s *tftpSender) measure(took time.Duration) {
	if s.round == 0 {
		s.round, s.varies, s.least = took, took/2, took
		return
	}
	s.varies += ((s.round - took).Abs() - s.varies) / 4
	s.round += (took - s.round) / 8
	s.least = min(s.least, took)
}

// due is when expire is to be called if nothing comes.
func (s *tftpSender) due() time.Time {
	wait := tftpTimeout
	switch {
	case !s.answered: // who knows whose request it was
	case s.wait > 0:
		wait = s.wait
	case s.round > 0:
		wait = min(max(s.round+4*s.varies, tftpSoonest)<<min(s.tries-1, 5), tftpTimeout)
	}
	return s.sent.Add(wait)
}

// expire is called when nothing has come for as long as due says.
func (s *tftpSender) expire(now time.Time) (tftpBurst, error) {
	over := s.tries >= tftpTries && now.Sub(s.progress) >= tftpPatience
	if !s.answered {
		over = s.tries >= tftpFirst
	}
	if over || s.tries >= tftpMost {
		return tftpBurst{}, errTFTPSilent
	}
	return s.resend(now), nil
}

// tftpBlockHeader is what block number n begins with.
func tftpBlockHeader(b []byte, n int64) {
	binary.BigEndian.PutUint16(b, tftpData)
	binary.BigEndian.PutUint16(b[2:], uint16(n))
}
