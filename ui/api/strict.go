package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// The limits of a JSON document from outside. The size is limited where it is read.
const (
	maxDepth  = 25
	maxTokens = 10_000
)

// decodeJSON is json.Unmarshal for documents from outside.
func decodeJSON(data []byte, v any) error {
	if err := CheckJSON(data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// CheckJSON refuses a document that two readers could understand in two ways or
// that costs more to read than it can be worth: not UTF-8, a name given twice in
// one object (RFC 8259 section 4), half a surrogate pair (section 8.2), more
// than 25 levels or 10,000 tokens, or anything after its end.
func CheckJSON(data []byte) error {
	if !utf8.Valid(data) {
		return errors.New("the JSON is not UTF-8")
	}
	if loneSurrogate(data) {
		return errors.New("the JSON has half a surrogate pair in a string")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	w := walker{dec: dec}
	if err := w.value(0); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("there is something after the end of the JSON")
	}
	return nil
}

type walker struct {
	dec    *json.Decoder
	tokens int
}

func (w *walker) token() (json.Token, error) {
	w.tokens++
	if w.tokens > maxTokens {
		return nil, fmt.Errorf("the JSON has more than %d tokens", maxTokens)
	}
	t, err := w.dec.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("the JSON cannot be read at byte %d: %w", w.dec.InputOffset(), err)
	}
	return t, nil
}

// value reads one value; depth is bounded, so the recursion is.
func (w *walker) value(depth int) error {
	t, err := w.token()
	if err != nil {
		return err
	}
	d, ok := t.(json.Delim)
	if !ok {
		return nil
	}
	if depth >= maxDepth {
		return fmt.Errorf("the JSON is more than %d levels deep", maxDepth)
	}
	var names map[string]bool
	if d == '{' {
		names = map[string]bool{}
	}
	for w.dec.More() {
		if names != nil {
			t, err := w.token()
			if err != nil {
				return err
			}
			name, _ := t.(string)
			if names[name] {
				return fmt.Errorf("the JSON names %.80q twice in one object", name)
			}
			names[name] = true
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
	}
	_, err = w.token()
	return err
}

// loneSurrogate looks for \uD800 to \uDFFF that is not a high one followed by a
// low one. Outside of strings a backslash is an error that the decoder finds.
func loneSurrogate(data []byte) bool {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		r, ok := escaped(data[i:])
		if !ok {
			i++ // skips what is escaped, another backslash perhaps
			continue
		}
		i += 5
		switch {
		case r >= 0xDC00 && r <= 0xDFFF:
			return true
		case r >= 0xD800 && r <= 0xDBFF:
			low, ok := escaped(data[i+1:])
			if !ok || low < 0xDC00 || low > 0xDFFF {
				return true
			}
			i += 6
		}
	}
	return false
}

// escaped reads a \uXXXX at the start of b.
func escaped(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		r <<= 4
		switch {
		case c >= '0' && c <= '9':
			r |= rune(c - '0')
		case c >= 'a' && c <= 'f':
			r |= rune(c-'a') + 10
		case c >= 'A' && c <= 'F':
			r |= rune(c-'A') + 10
		default:
			return 0, false
		}
	}
	return r, true
}
