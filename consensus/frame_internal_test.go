package consensus

import (
	"bytes"
	"testing"
)

// FuzzFrames: what came over a connection for proposals is read to its end or not at
// all, never for more than was sent; an answer that was written is read as it was.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 'a', 'b', 'c'}, uint32(16))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1}, uint32(1<<20))
	f.Add(answer{said: saidNotTaken, at: entered{Index: 7, Term: 2}, words: "no"}.bytes(), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, atMost uint32) {
		atMost %= 1 << 20
		if frame, err := readFrame(bytes.NewReader(b), atMost); err == nil && (len(frame) > len(b)-4 || len(frame) > int(atMost)) {
			t.Fatalf("%d bytes became a frame of %d", len(b), len(frame))
		}
		a, err := readAnswer(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again, err := readAnswer(bytes.NewReader(a.bytes())); err != nil || again != a {
			t.Fatalf("%+v became %+v, %v", a, again, err)
		}
	})
}
