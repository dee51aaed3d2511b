package ui

import (
	"io"
	"path"
	"regexp"
	"strings"
	"testing"
)

// What a browser may load before the fleet is on the screen.
const (
	firstLoadBytes    = 60_000 // of bodies, as they are sent to a browser that takes gzip
	firstLoadRequests = 6      // the socket is one more
)

var (
	comments = regexp.MustCompile(`(?s)<!--.*?-->|/\*.*?\*/`)
	// An address without a file, as the tab's picture has it, is not asked for.
	assets = regexp.MustCompile(`<(?:link|script|img)\b[^>]*?\s(?:src|href)="([^"#:]+)"`)
	// Imports that stand at the start of a line are fetched with their module; an
	// import() is not.
	imports = regexp.MustCompile(`(?m)^(?:import|export)\b(?:[^'";(]*\bfrom)?\s*['"]([^'"]+)['"]`)
	sheets  = regexp.MustCompile(`@import\s+(?:url\()?['"]?([^'")]+)|url\(['"]?([^'")]+)['"]?\)`)
)

// TestFirstLoadIsSmall walks from the page to everything that it and its modules
// name, as a browser does, and adds up what is sent.
func TestFirstLoadIsSmall(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.Static = Static() })
	loaded := map[string]int{}
	load(t, u, "/", loaded)
	total := 0
	for name, n := range loaded {
		t.Logf("%6d  %s", n, name)
		total += n
	}
	t.Logf("%6d bytes in %d requests", total, len(loaded))
	for _, must := range []string{"/", "/main.js", "/style.css", "/feed.js"} {
		if loaded[must] == 0 {
			t.Errorf("the walk has not met %s, so it does not see what a browser loads", must)
		}
	}
	if total > firstLoadBytes {
		t.Errorf("the first load is %d bytes; at most %d", total, firstLoadBytes)
	}
	if len(loaded) > firstLoadRequests {
		t.Errorf("the first load is %d requests; at most %d", len(loaded), firstLoadRequests)
	}
}

// load asks for a path and for all it names that a browser fetches with it.
func load(t *testing.T, u *UI, name string, loaded map[string]int) {
	t.Helper()
	if _, done := loaded[name]; done {
		return
	}
	loaded[name] = len(body(t, u, name, "gzip"))
	text := comments.ReplaceAllString(string(body(t, u, name, "identity")), "")
	find := imports
	switch path.Ext(name) {
	case "", ".html":
		find = assets
	case ".css":
		find = sheets
	}
	for _, found := range find.FindAllStringSubmatch(text, -1) {
		next := strings.Join(found[1:], "")
		if strings.Contains(next, "//") {
			t.Errorf("%s names %s on another host", name, next)
			continue
		}
		if !strings.HasPrefix(next, "data:") {
			load(t, u, path.Join("/", path.Dir(name), next), loaded)
		}
	}
}

func body(t *testing.T, u *UI, name, encoding string) []byte {
	t.Helper()
	res := get(u, "GET", name, "Accept-Encoding", encoding)
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("%s answered %d (%v)", name, res.StatusCode, err)
	}
	return b
}
