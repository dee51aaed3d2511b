package netboot

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// tftpSim is a sender and a client of RFC 7440 on a path that loses, doubles and
// reorders, in a time of its own.
type tftpSim struct {
	rng   *rand.Rand
	s     *tftpSender
	now   time.Time
	round time.Duration
	lost  float64 // of 1
	twice float64
	late  float64 // comes behind others that were sent after it
	each  bool    // the client acknowledges every block it has no use for

	queue tftpQueue
	order int

	have    int64 // what the client has in order; -1: not even the options
	heard   int   // of the window
	gap     bool  // it has said that a block is missing
	waiting int   // its timer
	blocks  int   // that were sent to it
	largest int   // burst
}

// tftpEvent happens at the server, or at the client.
type tftpEvent struct {
	at    time.Time
	order int
	do    func()
}

type tftpQueue []tftpEvent

func (q tftpQueue) Len() int { return len(q) }
func (q tftpQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q tftpQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *tftpQueue) Push(x any)   { *q = append(*q, x.(tftpEvent)) }
func (q *tftpQueue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

func (m *tftpSim) in(d time.Duration, do func()) {
	m.order++
	heap.Push(&m.queue, tftpEvent{m.now.Add(d), m.order, do})
}

// travel is what the path does to a packet.
func (m *tftpSim) travel(arrive func()) {
	n := 1
	if m.rng.Float64() < m.twice {
		n = 2
	}
	for range n {
		if m.rng.Float64() < m.lost {
			continue
		}
		took := m.round / 2
		if m.rng.Float64() < m.late {
			took += time.Duration(m.rng.Int64N(int64(m.round)))
		}
		m.in(took, arrive)
	}
}

func (m *tftpSim) send(b tftpBurst) {
	m.blocks += b.n
	m.largest = max(m.largest, b.n)
	for i := range b.n {
		m.travel(func() { m.client(b.from + int64(i)) })
	}
}

// client takes a block, as RFC 7440 section 4 has it.
func (m *tftpSim) client(block int64) {
	if block != m.have+1 {
		if block > m.have && !m.gap || m.each {
			m.gap, m.heard = true, 0
			m.acknowledge()
		}
		return
	}
	m.gap = false
	m.have++
	m.heard++
	if block == 0 || m.heard == int(m.s.window) || block == m.s.last {
		m.heard = 0
		m.acknowledge()
	}
	m.waiting++
	m.patience(m.waiting)
}

// patience is the client's timer: it says again what it has.
func (m *tftpSim) patience(of int) {
	m.in(time.Second, func() {
		if of == m.waiting && m.have >= 0 && m.have < m.s.last {
			m.heard = 0
			m.acknowledge()
			m.patience(of)
		}
	})
}

func (m *tftpSim) acknowledge() {
	number := uint16(m.have)
	m.travel(func() {
		if !m.s.done() {
			m.send(m.s.acknowledge(number, m.now))
		}
	})
}

// run lets everything happen until the file is there or the sender gives up.
func (m *tftpSim) run() error {
	m.now = time.Unix(1700000000, 0)
	begin := m.now
	m.have = m.s.first - 1
	m.send(m.s.start(m.now))
	for !m.s.done() {
		if due := m.s.due(); len(m.queue) == 0 || due.Before(m.queue[0].at) {
			m.now = due
			b, err := m.s.expire(m.now)
			if err != nil {
				return fmt.Errorf("after %v: %w", m.now.Sub(begin), err)
			}
			m.send(b)
			continue
		}
		e := heap.Pop(&m.queue).(tftpEvent)
		m.now = e.at
		e.do()
		if m.s.next-m.s.first > max(m.s.window, 1) || m.s.next > m.s.last+1 {
			return fmt.Errorf("blocks %d to %d are on their way, with a window of %d and %d blocks", m.s.first, m.s.next-1, m.s.window, m.s.last)
		}
	}
	if m.have != m.s.last {
		return fmt.Errorf("the client has %d blocks of %d", m.have, m.s.last)
	}
	return nil
}

func TestTFTPWindowsOnEveryPath(t *testing.T) {
	for _, path := range []struct {
		name              string
		lost, twice, late float64
		each              bool
		waste             float64 // at most so many times the blocks are sent
	}{
		{name: "a good one", waste: 1},
		{name: "doubling everything", twice: 1, waste: 1.05},
		{name: "doubling everything to a client that answers everything", twice: 1, each: true, waste: 3},
		{name: "losing", lost: 0.02, waste: 3},
		{name: "losing a tenth", lost: 0.1, waste: 12},
		{name: "reordering", late: 0.02, waste: 5},
		{name: "doing all of it", lost: 0.02, twice: 0.05, late: 0.02, waste: 10},
		{name: "doing all of it to a client that answers everything", lost: 0.02, twice: 0.05, late: 0.02, each: true, waste: 10},
	} {
		most := 0.0
		for _, window := range []int{1, 2, 4, 16, 64} {
			for _, options := range []bool{true, false} {
				if window > 1 && !options {
					continue // nobody has agreed to it
				}
				for seed := range uint64(20) {
					m := &tftpSim{
						rng: rand.New(rand.NewPCG(seed, uint64(window))), s: newTFTPSender(200_000, 512, window, options, 0),
						round: 2 * time.Millisecond, lost: path.lost, twice: path.twice, late: path.late, each: path.each,
					}
					err := m.run()
					if err != nil && !(path.lost > 0 && errors.Is(err, errTFTPSilent)) { // nobody can help a request whose first three answers are lost
						t.Fatalf("%s, window %d, seed %d: %v", path.name, window, seed, err)
					}
					got := float64(m.blocks) / float64(m.s.last+1)
					most = max(most, got)
					if got > path.waste {
						t.Errorf("%s, window %d, seed %d: sent %.2f times the file", path.name, window, seed, got)
					}
				}
			}
		}
		t.Logf("%s: %.2f times the file at most", path.name, most)
	}
}

// The number of a block has 16 bits and goes on from 65535 with 0.
func TestTFTPBlockNumbersWrap(t *testing.T) {
	for _, window := range []int{1, 64} {
		for _, lost := range []float64{0, 0.001} {
			m := &tftpSim{rng: rand.New(rand.NewPCG(1, 1)), s: newTFTPSender(200_000*8, 8, window, true, 0), round: time.Millisecond, lost: lost}
			if err := m.run(); err != nil || m.s.last != 200_001 {
				t.Errorf("window %d, losing %v: %v", window, lost, err)
			}
		}
	}
	var b [4]byte
	for n, want := range map[int64]string{1: "\x00\x03\x00\x01", 65535: "\x00\x03\xff\xff", 65536: "\x00\x03\x00\x00", 65537: "\x00\x03\x00\x01"} {
		if tftpBlockHeader(b[:], n); string(b[:]) != want {
			t.Errorf("block %d begins with %q", n, b)
		}
	}
}

// A file whose length is blocks without a rest ends with an empty one.
func TestTFTPLastBlock(t *testing.T) {
	for size, want := range map[int64]int64{0: 1, 1: 1, 511: 1, 512: 2, 513: 2, 1024: 3} {
		if s := newTFTPSender(size, 512, 1, false, 0); s.last != want {
			t.Errorf("%d bytes are %d blocks, want %d", size, s.last, want)
		}
	}
}

// tftpStep is something that happens to a sender, and what it sends then.
type tftpStep struct {
	after time.Duration
	ack   int // -1: the timer
	want  tftpBurst
	err   error
}

// What a sender sends, step by step, of a file of 20 blocks and a rest of nothing.
func TestTFTPSender(t *testing.T) {
	const timer = -1
	ms, sec := time.Millisecond, time.Second
	nothing := tftpBurst{}
	for _, c := range []struct {
		name    string
		window  int
		options bool
		wait    time.Duration
		first   tftpBurst
		steps   []tftpStep
	}{
		{"a forged request without options gets block 1 three times", 1, false, 0, tftpBurst{1, 1}, []tftpStep{
			{sec, timer, tftpBurst{1, 1}, nil}, {sec, timer, tftpBurst{1, 1}, nil}, {sec, timer, nothing, errTFTPSilent}}},
		{"a forged request for a window gets the options three times and not one block", 64, true, 0, tftpBurst{0, 1}, []tftpStep{
			{sec, timer, tftpBurst{0, 1}, nil}, {sec, timer, tftpBurst{0, 1}, nil}, {sec, timer, nothing, errTFTPSilent}}},
		{"nor does it hold a place for long by asking for a long timeout", 64, true, 255 * sec, tftpBurst{0, 1}, []tftpStep{
			{sec, timer, tftpBurst{0, 1}, nil}, {sec, timer, tftpBurst{0, 1}, nil}, {sec, timer, nothing, errTFTPSilent}}},
		{"acknowledgements of what was not sent start nothing", 16, true, 0, tftpBurst{0, 1}, []tftpStep{
			{ms, 1, nothing, nil}, {ms, 65535, nothing, nil}, {ms, 16, nothing, nil}, {ms, 0, tftpBurst{1, 16}, nil}, {ms, 17, nothing, nil}, {ms, 40000, nothing, nil}}},
		{"a block at a time: a doubled acknowledgement doubles nothing", 1, true, 0, tftpBurst{0, 1}, []tftpStep{
			{ms, 0, tftpBurst{1, 1}, nil}, {10 * ms, 0, nothing, nil}, {ms, 1, tftpBurst{2, 1}, nil}, {ms, 1, nothing, nil}, {10 * ms, 1, nothing, nil}}},
		{"windows: a doubled acknowledgement doubles nothing", 4, true, 0, tftpBurst{0, 1}, []tftpStep{
			{4 * ms, 0, tftpBurst{1, 4}, nil}, {ms, 0, nothing, nil}, {3 * ms, 4, tftpBurst{5, 4}, nil}, {ms, 4, nothing, nil}}},
		{"the first block of a window was lost", 4, true, 0, tftpBurst{0, 1}, []tftpStep{
			{4 * ms, 0, tftpBurst{1, 4}, nil}, {4 * ms, 0, tftpBurst{1, 4}, nil}, {ms, 0, nothing, nil}, {3 * ms, 4, tftpBurst{5, 4}, nil}}},
		{"another was lost", 4, true, 0, tftpBurst{0, 1}, []tftpStep{
			{4 * ms, 0, tftpBurst{1, 4}, nil}, {4 * ms, 2, tftpBurst{3, 4}, nil}, {4 * ms, 6, tftpBurst{7, 4}, nil}}},
		{"a client that acknowledges more than it need is sent nothing twice", 4, true, 0, tftpBurst{0, 1}, []tftpStep{
			{4 * ms, 0, tftpBurst{1, 4}, nil}, {4 * ms, 4, tftpBurst{5, 4}, nil}, {ms, 5, tftpBurst{9, 1}, nil}, {ms, 6, tftpBurst{10, 1}, nil}, {ms, 4, nothing, nil}}},
		{"the end of the file", 16, true, 0, tftpBurst{0, 1}, []tftpStep{
			{ms, 0, tftpBurst{1, 16}, nil}, {ms, 16, tftpBurst{17, 5}, nil}, {ms, 21, nothing, nil}}},
		{"the timer follows the round trip, and gives it more time each time", 16, true, 0, tftpBurst{0, 1}, []tftpStep{
			{20 * ms, 0, tftpBurst{1, 16}, nil}, {60 * ms, timer, tftpBurst{1, 16}, nil}, {120 * ms, timer, tftpBurst{1, 16}, nil}, {240 * ms, timer, tftpBurst{1, 16}, nil}}},
		{"but not less than 50 ms", 1, true, 0, tftpBurst{0, 1}, []tftpStep{
			{ms, 0, tftpBurst{1, 1}, nil}, {50 * ms, timer, tftpBurst{1, 1}, nil}}},
		{"nor more than a second", 1, true, 0, tftpBurst{0, 1}, []tftpStep{
			{900 * ms, 0, tftpBurst{1, 1}, nil}, {sec, timer, tftpBurst{1, 1}, nil}, {sec, timer, tftpBurst{1, 1}, nil}}},
		{"a timeout that was asked for is kept", 1, true, 3 * sec, tftpBurst{0, 1}, []tftpStep{
			{ms, 0, tftpBurst{1, 1}, nil}, {3 * sec, timer, tftpBurst{1, 1}, nil}, {3 * sec, timer, tftpBurst{1, 1}, nil}, {3 * sec, timer, tftpBurst{1, 1}, nil},
			{3 * sec, timer, tftpBurst{1, 1}, nil}, {3 * sec, timer, tftpBurst{1, 1}, nil}, {3 * sec, timer, nothing, errTFTPSilent}}},
		{"an answer to what was sent twice measures nothing", 1, true, 0, tftpBurst{0, 1}, []tftpStep{
			{sec, timer, tftpBurst{0, 1}, nil}, {ms, 0, tftpBurst{1, 1}, nil}, {sec, timer, tftpBurst{1, 1}, nil}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := time.Unix(1700000000, 0)
			s := newTFTPSender(20*512, 512, c.window, c.options, c.wait)
			if got := s.start(now); got != c.first {
				t.Fatalf("it begins with %v, want %v", got, c.first)
			}
			for i, step := range c.steps {
				now = now.Add(step.after)
				var got tftpBurst
				var err error
				if step.ack == timer {
					if due := s.due(); !due.Equal(now) {
						t.Fatalf("step %d: due %v later, want %v", i, due.Sub(now.Add(-step.after)), step.after)
					}
					got, err = s.expire(now)
				} else {
					got = s.acknowledge(uint16(step.ack), now)
				}
				if got != step.want || err != step.err {
					t.Fatalf("step %d: sends %v, %v, want %v, %v", i, got, err, step.want, step.err)
				}
			}
		})
	}
}

// Who acknowledged once and then no more is given up, and so is who says the same for ever.
func TestTFTPSenderGivesUp(t *testing.T) {
	for _, c := range []struct {
		name   string
		window int
		stuck  bool
	}{{"silent", 1, false}, {"silent in a window", 64, false}, {"stuck", 16, true}} {
		now := time.Unix(1700000000, 0)
		s := newTFTPSender(1<<20, 1468, c.window, true, 0)
		s.start(now)
		now = now.Add(time.Millisecond)
		begin, sent := now, s.acknowledge(0, now).n
		for {
			if c.stuck {
				now = now.Add(2 * time.Millisecond)
				sent += s.acknowledge(0, now).n
				if now.Before(s.due()) {
					continue
				}
			}
			now = s.due()
			b, err := s.expire(now)
			if err != nil {
				break
			}
			sent += b.n
		}
		if took := now.Sub(begin); !c.stuck && took < tftpPatience || took > 3*tftpPatience {
			t.Errorf("%s: given up after %v", c.name, took)
		}
		if sent > (tftpMost+1)*c.window {
			t.Errorf("%s: %d blocks were sent", c.name, sent)
		}
	}
}

// FuzzTFTPAnswers: whatever a client acknowledges and however long it takes, what is sent
// lies in the file and in the window, nothing but the options before they are confirmed,
// and it comes to an end.
func FuzzTFTPAnswers(f *testing.F) {
	f.Add(uint16(3000), uint8(16), true, []byte{0, 0, 1, 0, 16, 2, 0, 16, 2})
	f.Add(uint16(40), uint8(1), false, []byte{0, 1, 0, 0, 1, 0, 255, 255, 9})
	f.Add(uint16(0), uint8(64), true, []byte{0, 0, 200, 0, 0, 200, 0, 1, 255})
	f.Fuzz(func(t *testing.T, size uint16, window uint8, options bool, script []byte) {
		w := int(window%tftpWindow) + 1
		if !options {
			w = 1
		}
		now := time.Unix(1700000000, 0)
		s := newTFTPSender(int64(size), 8, w, options, 0)
		check := func(b tftpBurst) {
			t.Helper()
			if b.n == 0 {
				return
			}
			if b.n < 0 || b.n > w || b.from < s.first || b.from+int64(b.n) > s.last+1 || b.from+int64(b.n) != s.next || s.next-s.first > int64(w) {
				t.Fatalf("%+v is sent by %+v", b, *s)
			}
			if !s.answered && (b.n != 1 || b.from > 0 && options) {
				t.Fatalf("%+v is sent before the client has said a word", b)
			}
		}
		check(s.start(now))
		for ; len(script) >= 3 && !s.done(); script = script[3:] {
			now = now.Add(time.Duration(script[2]) * time.Millisecond)
			if !now.Before(s.due()) {
				b, err := s.expire(now)
				if err != nil {
					return
				}
				check(b)
			}
			before := s.first
			check(s.acknowledge(uint16(script[0])<<8|uint16(script[1]), now))
			if s.first < before {
				t.Fatal("what was acknowledged is not any more")
			}
		}
		for range tftpMost {
			if s.done() {
				return
			}
			now = s.due()
			b, err := s.expire(now)
			if err != nil {
				return
			}
			check(b)
		}
		t.Fatal("it goes on for ever")
	})
}
