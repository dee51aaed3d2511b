package fleet

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"github.com/lpmos/lpmos/agent/wire"
)

// The progress of installs is nearly all that a busy cluster writes, and reading
// it with the general reader was a fifth of all processor time there (make
// bench-raft). What is here writes the very bytes of encoding/json and reads the
// very bytes that were written; whatever looks different is left to encoding/json,
// so that the form in the log is one and the same (FuzzQuickAdvance compares).

// encodeBody gives the JSON of a body.
func encodeBody(b Body) ([]byte, error) {
	if a, ok := b.(Advance); ok {
		if raw, ok := encodeAdvance(a); ok {
			return raw, nil
		}
	}
	return json.Marshal(b)
}

// encodeAdvance is json.Marshal; ok is false for what it does not know how to write.
func encodeAdvance(a Advance) (raw []byte, ok bool) {
	if a.Items == nil {
		return nil, false
	}
	w := writer{raw: make([]byte, 0, 16+len(a.Items)*(224+64)), ok: true}
	w.put(`{"Items":[`)
	for i, it := range a.Items {
		p := it.Progress
		if i > 0 {
			w.put(`,`)
		}
		w.put(`{"TaskID":`)
		w.text(it.TaskID)
		w.put(`,"Generation":`)
		w.whole(it.Generation)
		w.put(`,"Progress":{"stage":`)
		w.text(string(p.Stage))
		w.put(`,"percentage":`)
		w.number(p.Percentage)
		if p.Message != "" {
			w.put(`,"message":`)
			w.text(p.Message)
		}
		w.put(`,"details":{"bytes_downloaded":`)
		w.whole(p.Details.BytesDownloaded)
		w.put(`,"bytes_total":`)
		w.whole(p.Details.BytesTotal)
		if p.Details.BytesWritten != 0 {
			w.put(`,"bytes_written":`)
			w.whole(p.Details.BytesWritten)
		}
		w.put(`,"speed_mbps":`)
		w.number(p.Details.SpeedMbps)
		w.put(`}}}`)
	}
	w.put(`]}`)
	return w.raw, w.ok
}

// decodeAdvance is json.Unmarshal; ok is false for what encodeAdvance would not
// have written, which may be as good.
func decodeAdvance(raw []byte) (a Advance, ok bool) {
	r := reader{rest: raw, ok: true}
	r.skip(`{"Items":[`)
	a.Items = make([]AdvanceItem, 0, 1)
	for r.ok {
		var it AdvanceItem
		p := &it.Progress
		r.skip(`{"TaskID":`)
		it.TaskID = string(r.text())
		r.skip(`,"Generation":`)
		it.Generation = r.whole()
		r.skip(`,"Progress":{"stage":`)
		p.Stage = stageOf(r.text())
		r.skip(`,"percentage":`)
		p.Percentage = r.number()
		if r.has(`,"message":`) {
			p.Message = string(r.text())
		}
		r.skip(`,"details":{"bytes_downloaded":`)
		p.Details.BytesDownloaded = r.whole()
		r.skip(`,"bytes_total":`)
		p.Details.BytesTotal = r.whole()
		if r.has(`,"bytes_written":`) {
			p.Details.BytesWritten = r.whole()
		}
		r.skip(`,"speed_mbps":`)
		p.Details.SpeedMbps = r.number()
		r.skip(`}}}`)
		a.Items = append(a.Items, it)
		if !r.has(`,`) {
			break
		}
	}
	r.skip(`]}`)
	return a, r.ok && len(r.rest) == 0
}

// stageOf spares a known stage its own copy.
func stageOf(b []byte) wire.Stage {
	for _, s := range wire.Stages {
		if string(b) == string(s) {
			return s
		}
	}
	return wire.Stage(b)
}

// writer appends JSON.
type writer struct {
	raw []byte
	ok  bool // everything so far could be written
}

func (w *writer) put(s string)   { w.raw = append(w.raw, s...) }
func (w *writer) whole(n uint64) { w.raw = strconv.AppendUint(w.raw, n, 10) }

// number writes what encoding/json writes without an exponent.
func (w *writer) number(f float64) {
	if a := math.Abs(f); a != 0 && !(a >= 1e-6 && a < 1e21) {
		w.ok = false
		return
	}
	w.raw = strconv.AppendFloat(w.raw, f, 'f', -1, 64)
}

// text writes a string in which nothing has to be escaped.
func (w *writer) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x80 || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			w.ok = false
			return
		}
	}
	w.raw = append(append(append(w.raw, '"'), s...), '"')
}

// reader takes JSON off the front of rest.
type reader struct {
	rest []byte
	ok   bool // everything so far was as expected
}

func (r *reader) has(s string) bool {
	if !r.ok || len(r.rest) < len(s) || string(r.rest[:len(s)]) != s {
		return false
	}
	r.rest = r.rest[len(s):]
	return true
}

func (r *reader) skip(s string) { r.ok = r.has(s) }

// text reads a string in which nothing is escaped.
func (r *reader) text() []byte {
	if !r.has(`"`) {
		r.ok = false
		return nil
	}
	end := bytes.IndexByte(r.rest, '"')
	if end < 0 {
		r.ok = false
		return nil
	}
	s := r.rest[:end]
	for _, c := range s {
		if c < ' ' || c >= 0x80 || c == '\\' {
			r.ok = false
			return nil
		}
	}
	r.rest = r.rest[end+1:]
	return s
}

// digits takes decimal digits.
func (r *reader) digits() []byte {
	n := 0
	for n < len(r.rest) && r.rest[n] >= '0' && r.rest[n] <= '9' {
		n++
	}
	d := r.rest[:n]
	r.rest = r.rest[n:]
	if n == 0 {
		r.ok = false
	}
	return d
}

// whole reads a number of up to 19 digits, which a uint64 holds whatever they are.
func (r *reader) whole() (n uint64) {
	d := r.digits()
	if len(d) > 19 || len(d) > 1 && d[0] == '0' {
		r.ok = false
		return 0
	}
	for _, c := range d {
		n = n*10 + uint64(c-'0')
	}
	return n
}

// number reads a number without an exponent.
func (r *reader) number() float64 {
	all := r.rest
	r.has(`-`)
	before := r.digits()
	if len(before) > 1 && before[0] == '0' {
		r.ok = false
	}
	if r.has(`.`) {
		r.digits()
	}
	if !r.ok || len(r.rest) > 0 && (r.rest[0] == 'e' || r.rest[0] == 'E') {
		r.ok = false
		return 0
	}
	f, err := strconv.ParseFloat(string(all[:len(all)-len(r.rest)]), 64)
	if err != nil {
		r.ok = false
	}
	return f
}
