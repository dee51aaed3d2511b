package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNobodyWaitsForAnAnswerAfterAnInterrupt(t *testing.T) {
	silent, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := readLine(ctx, silent); !errors.Is(err, context.Canceled) {
		t.Errorf("reading a line gave: %v", err)
	}
}

func TestReadLine(t *testing.T) {
	for text, want := range map[string]string{"DISK1\n": "DISK1", " DISK1 \r\nmore\n": "DISK1", "\n": ""} {
		if line, err := readLine(t.Context(), strings.NewReader(text)); err != nil || line != want {
			t.Errorf("%q was read as %q (%v), want %q", text, line, err, want)
		}
	}
	if line, err := readLine(t.Context(), strings.NewReader("DISK1")); err == nil {
		t.Errorf("a line that was cut was taken as %q", line)
	}
}

func TestNoTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, f := range []any{null, new(bytes.Buffer), nil} {
		if isTerminal(f) {
			t.Errorf("%v was taken for a terminal", f)
		}
	}
}

func TestAnUploadTellsHowFarItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, make([]byte, 3_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out bytes.Buffer
	now := time.Unix(1_000_000, 0)
	u := &upload{file: f, total: 3_000_000, out: &out, now: func() time.Time { return now }}
	if info, err := u.Stat(); err != nil || info.Size() != 3_000_000 {
		t.Fatalf("the file's size is not told: %v", err)
	}
	if n, err := u.Read(make([]byte, 1_000_000)); n != 1_000_000 || err != nil {
		t.Fatalf("read %d: %v", n, err)
	}
	if got, want := out.String(), clearLine+"1 MB of 3 MB sent"; got != want {
		t.Errorf("it said %q, want %q", got, want)
	}
	for _, c := range []struct {
		after time.Duration
		lines int
	}{{199 * time.Millisecond, 1}, {time.Millisecond, 2}} {
		now = now.Add(c.after)
		if _, err := u.Read(make([]byte, 1_000_000)); err != nil || strings.Count(out.String(), "sent") != c.lines {
			t.Errorf("it said %q (%v), want %d figures", out.String(), err, c.lines)
		}
	}
}

func TestImageName(t *testing.T) {
	for from, want := range map[string]string{
		"debian-12.raw":                          "debian-12",
		"/srv/ubuntu-24.04.img.zst":              "ubuntu-24.04",
		"tiny":                                   "tiny",
		"https://example.org/a/fedora-42.raw.xz": "fedora-42",
		"http://example.org/x.img.gz?sig=a.b":    "x",
	} {
		if got := imageName(from); got != want {
			t.Errorf("%s is called %q, want %q", from, got, want)
		}
	}
}
