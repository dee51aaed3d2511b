package install

import (
	"slices"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestMeter(t *testing.T) {
	now := time.Unix(0, 0)
	var last wire.Progress
	m := &meter{report: func(p wire.Progress) { last = p }, now: func() time.Time { return now }}
	m.stage(wire.StageDownloading, "x")
	m.progress(0.5)
	if last.Percentage != 40 {
		t.Errorf("half of the download is %v %%", last.Percentage)
	}
	m.progress(0.1)
	if last.Percentage != 40 {
		t.Errorf("back to %v %%", last.Percentage)
	}
	m.progress(7)
	if last.Percentage != 60 {
		t.Errorf("more than all of the download is %v %%", last.Percentage)
	}

	m.expect(11)
	for range 10 {
		now = now.Add(time.Second)
		m.fetched(1e6, true)
	}
	m.progress(1)
	if d := last.Details; d.BytesDownloaded != 10e6 || d.BytesTotal != 11e6 || d.SpeedMbps != 8 {
		t.Errorf("a megabyte a second for ten of eleven chunks is %+v", d)
	}
	m.fetched(500, false)
	m.fetched(1e6, true)
	m.progress(1)
	if d := last.Details; d.BytesDownloaded != 11e6+500 || d.BytesTotal != d.BytesDownloaded {
		t.Errorf("all chunks and a bad one are %+v", d)
	}
	// Two seconds of ten times the speed show after the window has passed.
	for range 60 {
		now = now.Add(100 * time.Millisecond)
		m.fetched(1e6, true)
	}
	m.progress(1)
	if s := last.Details.SpeedMbps; s < 79 || s > 81 {
		t.Errorf("ten megabytes a second are %v Mbit/s", s)
	}
}

func TestBackoff(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 0, 2: 0, 3: 250 * time.Millisecond, 4: 500 * time.Millisecond, 8: 8 * time.Second, 9: 10 * time.Second, 1 << 30: 10 * time.Second} {
		if got := backoff(n); got != want {
			t.Errorf("after %d failures %v, want %v", n, got, want)
		}
	}
}

func TestWipeSpans(t *testing.T) {
	const size = 100 * mib
	got := wipeSpans(size, []wire.Partition{
		{StartBytes: 10 * mib, SizeBytes: 20 * mib},
		{StartBytes: 30 * mib, SizeBytes: 512},
		{StartBytes: 90 * mib, SizeBytes: 500 * mib},              // its end is not on this disk
		{StartBytes: 500 * mib, SizeBytes: mib},                   // nor is any of this
		{StartBytes: 1 << 63, SizeBytes: 1 << 63}, {SizeBytes: 0}, // nonsense
	})
	journalAt, behind := int64(98*mib), int64(98*mib+8192)
	want := []span{
		{0, mib},
		{92 * mib, 6 * mib}, {behind, 2*mib - 8192},
		{10 * mib, mib}, {29 * mib, mib},
		{30 * mib, 512},
		{90 * mib, mib}, {99 * mib, mib},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, s := range got {
		if s.off < behind && s.off+s.n > journalAt {
			t.Errorf("%v wipes the journal", s)
		}
	}
}
