package install

import (
	"sync"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// speedWindow is the stretch of time a speed is the mean of.
const speedWindow = 5 * time.Second

// meter keeps the figures of one install and reports them. Its methods may be
// called from several goroutines; reports are made one after another, and the
// percentage in them never falls.
type meter struct {
	report func(wire.Progress)
	now    func() time.Time

	mu      sync.Mutex
	current wire.Progress
	doing   string // what the stage does when nothing is wrong
	chunks  int    // to fetch in all
	good    int    // fetched and verified
	useful  uint64
	samples []sample // of the last speedWindow, oldest first
}

// sample is a number of bytes that had arrived by a point in time.
type sample struct {
	at    time.Time
	bytes uint64
}

// stage begins a stage at its first percent.
func (m *meter) stage(s wire.Stage, message string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current.Stage = s
	m.doing, m.current.Message = message, message
	m.at(0)
}

// progress reports that a part of the current stage, between 0 and 1, is done.
func (m *meter) progress(part float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at(part)
}

// message reports a sentence with the figures as they are.
func (m *meter) message(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current.Message = s
	m.report(m.current)
}

// recovered takes a message of trouble back.
func (m *meter) recovered() { m.message(m.doing) }

// at moves the percentage and reports; the caller holds the lock.
func (m *meter) at(part float64) {
	from, to, _ := m.current.Stage.Span()
	part = max(0, min(1, part))
	m.current.Percentage = max(m.current.Percentage, from+(to-from)*part)
	m.report(m.current)
}

// expect adds chunks to those that have to be fetched, or takes some away.
func (m *meter) expect(chunks int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks += chunks
}

// fetched counts bytes that came over the wire, for a chunk that was good or
// for one that was not. The total is an estimate until the last chunk is here:
// how far the missing ones were compressed shows only then.
func (m *meter) fetched(bytes uint64, good bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := &m.current.Details
	d.BytesDownloaded += bytes
	if good {
		m.good++
		m.useful += bytes
	}
	if m.good > 0 {
		rest := uint64(max(0, m.chunks-m.good))
		d.BytesTotal = d.BytesDownloaded + rest*(m.useful/uint64(m.good))
	}
	now := m.now()
	m.samples = append(m.samples, sample{now, d.BytesDownloaded})
	for len(m.samples) > 2 && now.Sub(m.samples[0].at) > speedWindow {
		m.samples = m.samples[1:]
	}
	first := m.samples[0]
	if span := now.Sub(first.at).Seconds(); span > 0 {
		d.SpeedMbps = float64(d.BytesDownloaded-first.bytes) * 8 / 1e6 / span
	}
}

// wrote counts bytes of the image put on the disk.
func (m *meter) wrote(bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current.Details.BytesWritten += uint64(bytes)
}
