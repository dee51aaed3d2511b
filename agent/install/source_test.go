package install

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// silent is a peer that has gone without a word.
type silent struct{ closed chan struct{} }

func (s silent) Read([]byte) (int, error) { <-s.closed; return 0, errors.New("closed") }
func (s silent) Close() error             { close(s.closed); return nil }

func member(b []byte) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// Whatever a source does to a chunk, it is noticed, told to the node and fetched
// again, and the disk is right in the end.
func TestS38_SourceFaults(t *testing.T) {
	image := gptImage(t, 17*mib)
	const size = 32 * mib
	raw := image[3*chunkBytes : 4*chunkBytes]
	wrong := bytes.Clone(raw)
	wrong[0]++
	sound := newSource(t, image, 512)
	for _, c := range []struct {
		name   string
		serve  func(m []byte) (io.ReadCloser, error)
		reason string
	}{
		{"no connection", func([]byte) (io.ReadCloser, error) { return nil, errors.New("connection refused") }, "connection refused"},
		{"cut", func(m []byte) (io.ReadCloser, error) { return member(m[:len(m)/2]) }, "cut short"},
		{"cut in the checksum", func(m []byte) (io.ReadCloser, error) { return member(m[:len(m)-3]) }, "cut short"},
		{"a broken line", func(m []byte) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(m[:1000]), broken{})), nil
		}, "reset by peer"},
		{"nothing", func([]byte) (io.ReadCloser, error) { return member(nil) }, "cut short"},
		{"no gzip", func([]byte) (io.ReadCloser, error) { return member([]byte(strings.Repeat("<html>", 9))) }, "invalid header"},
		{"other bytes", func([]byte) (io.ReadCloser, error) { return member(gz(t, wrong)) }, "its SHA-256 is"},
		{"another chunk of the image", func([]byte) (io.ReadCloser, error) { return member(sound.members[0]) }, "its SHA-256 is"},
		{"a short chunk", func([]byte) (io.ReadCloser, error) { return member(gz(t, raw[:len(raw)-1])) }, "cut short"},
		{"a long chunk", func([]byte) (io.ReadCloser, error) { return member(gz(t, append(bytes.Clone(raw), 0))) }, "more than"},
		{"a second member", func(m []byte) (io.ReadCloser, error) { return member(append(bytes.Clone(m), m...)) }, "after the gzip member"},
		{"a broken checksum", func(m []byte) (io.ReadCloser, error) {
			m = bytes.Clone(m)
			m[len(m)-8]++
			return member(m)
		}, "checksum"},
		{"no end", func([]byte) (io.ReadCloser, error) { return io.NopCloser(new(emptyBlocks)), nil }, "on the wire"},
		{"silence", func([]byte) (io.ReadCloser, error) { return silent{make(chan struct{})}, nil }, "nothing came for"},
	} {
		src := sound.again()
		src.fault = func(i, attempt int, m []byte) (io.ReadCloser, error) {
			if i == 3 && attempt <= 2 {
				return c.serve(m)
			}
			return nil, nil
		}
		g := grantFor(src.man, size, wire.Contents{})
		d := newMemDisk(size, 512)
		err := installTo(context.Background(), g, src, d, func(o *Options) {
			if c.name == "silence" {
				o.StallTimeout = 100 * time.Millisecond
			}
		})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if !bytes.Equal(d.view[3*chunkBytes:4*chunkBytes], raw) {
			t.Errorf("%s: the chunk on the disk is wrong", c.name)
		}
		if src.fetches[3] != 3 || len(src.bad) != 2 {
			t.Errorf("%s: %d fetches, and the node was told of %v", c.name, src.fetches[3], src.bad)
			continue
		}
		if b := src.bad[0]; b.Index != 3 || b.URL != "3" || !strings.Contains(b.Reason, c.reason) {
			t.Errorf("%s: the node was told %+v, want %q in it", c.name, b, c.reason)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset by peer") }

// emptyBlocks is a gzip member that goes on for ever without giving a byte.
type emptyBlocks struct{ header bool }

func (e *emptyBlocks) Read(p []byte) (int, error) {
	if !e.header {
		e.header = true
		return copy(p, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}), nil
	}
	// Stored blocks of no bytes: 00, length 0, its complement.
	n := len(p) / 5 * 5
	for i := 0; i < n; i += 5 {
		copy(p[i:], []byte{0, 0, 0, 0xff, 0xff})
	}
	return n, nil
}

func TestTheNodeAnswersOddly(t *testing.T) {
	image := gptImage(t, 17*mib)
	const size = 32 * mib
	src := newSource(t, image, 512)
	src.next = func(n int, req wire.NextRequest) (wire.NextResponse, error) {
		switch n {
		case 1, 2, 5:
			return wire.NextResponse{}, errors.New("no route to host")
		case 3:
			return wire.NextResponse{RetryAfterMS: 10}, nil
		case 6: // what nobody asked for, and one chunk twice
			i := req.Need[0]
			return wire.NextResponse{Fetch: []wire.ChunkSource{{Index: -1}, {Index: 99}, {Index: 1 << 30}, {Index: i, URL: fmt.Sprint(i)}, {Index: i, URL: fmt.Sprint(i)}}}, nil
		}
		return wire.NextResponse{}, nil
	}
	var messages []string
	g := grantFor(src.man, size, wire.Contents{})
	d := newMemDisk(size, 512)
	err := installTo(context.Background(), g, src, d, func(o *Options) {
		o.Report = func(p wire.Progress) { messages = append(messages, p.Message) }
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{"no route to host", "knows no source"} {
		if !slices.ContainsFunc(messages, func(m string) bool { return strings.Contains(m, why) }) {
			t.Errorf("people were not told that the install waits because of %q", why)
		}
	}
	for i, n := range src.fetches {
		if n != 1 {
			t.Errorf("chunk %d was fetched %d times", i, n)
		}
	}
}

func TestAFinalAnswerEndsTheInstall(t *testing.T) {
	src := newSource(t, gptImage(t, 17*mib), 512)
	src.next = func(n int, _ wire.NextRequest) (wire.NextResponse, error) {
		if n == 1 {
			return wire.NextResponse{}, nil
		}
		return wire.NextResponse{}, &wire.TaskError{Code: wire.CodeInternal, Message: "the task was cancelled"}
	}
	g := grantFor(src.man, 32*mib, wire.Contents{})
	err := installTo(context.Background(), g, src, newMemDisk(32*mib, 512), nil)
	if code(err) != wire.CodeInternal || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("%v", err)
	}
}

func TestNoRequestAsksForMoreThanAWindow(t *testing.T) {
	raw := make([]byte, chunkBytes)
	raw[7] = 7
	const chunks = 3*window + 5
	src := &memSource{members: map[int][]byte{}, fetches: map[int]int{}, got: map[int]bool{}}
	src.man = wire.Manifest{Version: 1, SizeBytes: chunks * chunkBytes, ChunkBytes: chunkBytes, SectorBytes: 512}
	member := gz(t, raw)
	var want []int
	for i := range chunks {
		src.man.Chunks = append(src.man.Chunks, digest(raw))
		src.members[i] = member
		want = append(want, i)
	}
	// Before the first window is through, nothing beyond it may be asked for:
	// a resumed install relies on it.
	most, furthest := 0, 0
	done := make(map[int]bool)
	src.next = func(_ int, req wire.NextRequest) (wire.NextResponse, error) {
		most = max(most, len(req.Need))
		for _, i := range req.Got {
			done[i] = true
		}
		furthest = max(furthest, req.Need[len(req.Need)-1]-len(done))
		return wire.NextResponse{}, nil
	}
	f := &fetcher{
		src: src, man: src.man, workers: 3, stall: time.Minute, after: atOnce, pool: new(chunkPool), logf: t.Logf,
		meter: &meter{report: func(wire.Progress) {}, now: time.Now},
	}
	var sunk atomic.Int64
	err := f.run(t.Context(), want, func(int, []byte) error { sunk.Add(1); return nil })
	if err != nil || sunk.Load() != chunks {
		t.Fatalf("%d of %d chunks, %v", sunk.Load(), chunks, err)
	}
	if most > window || furthest >= window {
		t.Errorf("asked for %d chunks at once, and for one %d beyond what is here; want less than %d", most, furthest, window)
	}
}

func TestADiskThatFails(t *testing.T) {
	image := gptImage(t, 17*mib)
	src := newSource(t, image, 512)
	const size = 32 * mib
	g := grantFor(src.man, size, wire.Contents{})
	seedAt := int64(size - seedFromEnd)
	for _, c := range []struct {
		name string
		off  int64
		code string
		says string
	}{
		{"a chunk", 3 * chunkBytes, wire.CodeVerifyFailed, "chunk 3"},
		{"a zero chunk", 2 * chunkBytes, wire.CodeVerifyFailed, "chunk 2"},
		{"the seed", seedAt, wire.CodeVerifyFailed, "seed"},
		{"the boot record", 0, wire.CodeVerifyFailed, "boot record"},
		{"the first chunk", 512, wire.CodeVerifyFailed, "first chunk"},
	} {
		d := newMemDisk(size, 512)
		d.spoil = func(off int64, p []byte) []byte {
			// The wipe goes well: it writes other bytes at these places.
			if off == c.off && (len(p) == chunkBytes || len(p) == chunkBytes-512 || len(p) == 512 && !allZero(p)) {
				p[len(p)-1] ^= 0x10
			}
			return p
		}
		err := installTo(context.Background(), g, src, d, nil)
		if code(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %s naming %q", c.name, err, c.code, c.says)
		}
		if !allZero(d.view[:512]) {
			t.Errorf("%s: the disk would start", c.name)
		}
	}
	d := newMemDisk(size, 512)
	d.spoil = func(off int64, p []byte) []byte {
		if off == 0 && allZero(p) {
			p[1] = 1 // a wipe that does not take
		}
		return p
	}
	if err := installTo(context.Background(), g, src, d, nil); code(err) != wire.CodeDiskError || !strings.Contains(err.(*wire.TaskError).Details, "still there") {
		t.Errorf("a wipe that does not take: %v", err)
	}
}

func FuzzInflate(f *testing.F) {
	raw := []byte("a chunk of a few bytes")
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:10])
	name := digest(raw)
	f.Fuzz(func(t *testing.T, in []byte) {
		var z inflater
		out := make([]byte, len(raw))
		if err := z.chunk(bytes.NewReader(in), name, out); err == nil && !bytes.Equal(out, raw) {
			t.Errorf("%x passes for the chunk", in)
		}
	})
}
