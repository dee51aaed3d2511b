package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/lpmos/lpmos/appliance/config"
)

// S51: an event is one line, short, and says nothing to a terminal, whatever is in it.
func TestS51_LogInjection(t *testing.T) {
	type odd struct{ Name string }
	for _, format := range []string{"json", "text"} {
		for _, value := range []string{"x\n{\"level\":\"ERROR\",\"msg\":\"forged\"}", "x\r\nlevel=ERROR msg=forged", "\x1b[2J\x1b]0;owned\x07", "\u202egpj.exe", "\u2028level=ERROR", "\x00\x7f\u0085", "\xff\xfe",
			strings.Repeat("A", 1<<20), strings.Repeat("\x1b", 1<<20), strings.Repeat("\"\\", 1<<19)} {
			var out bytes.Buffer
			log := logger(&out, config.Config{LogLevel: "debug", LogFormat: format})
			log.With("node", value).Warn("a machine reports", "serial", value, "who", odd{value}, "err", fmt.Errorf("wrapped: %w", errors.New(value)))
			text := out.String()
			if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
				t.Errorf("%s: %.20q makes %d lines", format, value, strings.Count(text, "\n"))
			}
			if len(text) > 4<<10 || !strings.Contains(value, "\\") && len(text) > 2<<10 {
				t.Errorf("%s: %.20q makes a line of %d bytes", format, value, len(text))
			}
			if i := strings.IndexFunc(strings.TrimSuffix(text, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
				t.Errorf("%s: %.20q brings %q into the log", format, value, text[i:min(len(text), i+4)])
			}
			if format == "json" {
				var event map[string]any
				if err := json.Unmarshal(out.Bytes(), &event); err != nil || event["level"] != "WARN" || event["msg"] != "a machine reports" {
					t.Errorf("%.20q: %v, %v", value, event, err)
				}
			}
		}
	}
}

// S42: a log that a stranger can write to stays small, and says what it left out.
func TestS42_ALogIsNotFilled(t *testing.T) {
	var out bytes.Buffer
	h := newCalm(slog.NewJSONHandler(&out, nil))
	at := time.Unix(1700000000, 0)
	say := func(message string) {
		t.Helper()
		if err := h.WithAttrs([]slog.Attr{slog.String("a", "b")}).Handle(t.Context(), slog.NewRecord(at, slog.LevelWarn, message, 0)); err != nil {
			t.Fatal(err)
		}
	}
	for range 100_000 {
		say("an address was not lent")
	}
	say("the disk is full")
	if n := strings.Count(out.String(), "\n"); n != calmMost+1 {
		t.Errorf("%d lines, want %d", n, calmMost+1)
	}
	if !strings.Contains(out.String(), "the disk is full") {
		t.Error("what matters was left out with the rest")
	}
	at = at.Add(calmSpan)
	out.Reset()
	say("an address was not lent")
	if !strings.Contains(out.String(), `"left_out_before":99900`) {
		t.Errorf("later it says %s", out.String())
	}
	out.Reset()
	say("an address was not lent")
	if strings.Contains(out.String(), "left_out") || out.Len() == 0 {
		t.Errorf("and then %s", out.String())
	}
	for i := range 5 * calmKinds {
		say(fmt.Sprint("made up ", i))
	}
	if n := len(h.said.by); n > calmKinds {
		t.Errorf("%d sayings are counted", n)
	}
}
