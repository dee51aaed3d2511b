package ui

import (
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/lpmos/lpmos/ui/api/apitest"
)

// newUI is a dashboard on a fleet with a machine in every state.
func newUI(t testing.TB, change ...func(*Config)) (*apitest.Node, *UI) {
	t.Helper()
	node := apitest.NewNode()
	if err := apitest.Gallery(node); err != nil {
		t.Fatal(err)
	}
	cfg := Config{API: node.Config(), Static: fstest.MapFS{
		"index.html":   {Data: []byte("<!doctype html>" + strings.Repeat("<p>hello</p>", 100))},
		"main.js":      {Data: []byte("import './store.js'")},
		"sub/page.css": {Data: []byte("p{}")},
	}}
	for _, f := range change {
		f(&cfg)
	}
	u, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return node, u
}

func get(u http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:8080"
	for i := 0; i+1 < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	apitest.SignedIn(u).ServeHTTP(w, r)
	return w.Result()
}

func TestEveryAnswerTellsTheBrowserToBeCareful(t *testing.T) {
	_, u := newUI(t)
	for _, path := range []string{"/", "/main.js", "/api/v1/health", "/nothing", "/openapi.json", "/ws"} {
		h := get(u, "GET", path).Header
		for name, want := range map[string]string{
			"Content-Security-Policy":    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
			"X-Content-Type-Options":     "nosniff",
			"Referrer-Policy":            "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	_, free := newUI(t)
	_, bound := newUI(t, func(c *Config) { c.Hosts = []string{"lpmos.example", "10.77.0.1"} })
	for _, c := range []struct {
		host        string
		free, bound bool
	}{
		{"127.0.0.1:8080", true, true}, {"localhost:8080", true, true}, {"[::1]:8080", true, true}, {"LOCALHOST", true, true},
		{"10.77.0.1:8080", true, true}, {"10.77.0.2", true, false}, {"lpmos.example:8080", false, true}, {"LPMOS.example", false, true},
		{"evil.example:8080", false, false}, {"lpmos.example.evil.example", false, false}, {"localhost.evil.example", false, false},
		{"127.0.0.1.evil.example", false, false}, {"", false, false}, {"0x7f.1", false, false},
	} {
		for name, want := range map[*UI]bool{free: c.free, bound: c.bound} {
			res := get(name, "GET", "/api/v1/health", "Host", c.host, "Sec-Fetch-Site", "same-origin", "Origin", "http://"+c.host)
			if ok := res.StatusCode == 200; ok != want || !ok && res.StatusCode != 421 {
				t.Errorf("host %q (bound %v) answered %d", c.host, name == bound, res.StatusCode)
			}
		}
	}
}

func TestPagesOfOtherSitesChangeNothing(t *testing.T) {
	node, u := newUI(t)
	before := node.Cluster
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
		{"Origin", "http://127.0.0.1:8081"}, {"Sec-Fetch-Site", "cross-site", "Content-Type", "text/plain"},
	} {
		for _, write := range []string{"PUT /api/v1/tasks/t-03/approve", "POST /api/v1/tasks", "DELETE /api/v1/tasks/t-03", "POST /api/v1/images"} {
			method, path, _ := strings.Cut(write, " ")
			if res := get(u, method, path, header...); res.StatusCode != 403 {
				t.Errorf("%s with %v answered %d", write, header, res.StatusCode)
			}
		}
	}
	if res := get(u, "DELETE", "/api/v1/tasks/t-14", "Sec-Fetch-Site", "same-origin"); res.StatusCode != 204 {
		t.Errorf("our own page was answered %d", res.StatusCode)
	}
	if before.Watchers() != 0 {
		t.Error("somebody watches")
	}
}

func TestSocketIsForOurPagesAlone(t *testing.T) {
	_, u := newUI(t, func(c *Config) { c.Origins = []string{"https://lpmos.example"} })
	for _, origin := range []string{"https://evil.example", "null", "https://127.0.0.1.evil", "http://127.0.0.1:8081", "https://127.0.0.1:8080", "http://127.0.0.1:8080.evil.example", "https://x.lpmos.example", ""} {
		res := get(u, "GET", "/ws", "Origin", origin, "Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
		if res.StatusCode != 403 {
			t.Errorf("origin %q was answered %d", origin, res.StatusCode)
		}
	}
	// Ours get past the door; that it is no real connection is another matter.
	for _, origin := range []string{"http://127.0.0.1:8080", "https://lpmos.example"} {
		if res := get(u, "GET", "/ws", "Origin", origin); res.StatusCode != http.StatusUpgradeRequired {
			t.Errorf("origin %q was answered %d", origin, res.StatusCode)
		}
	}
}

func TestStaticFiles(t *testing.T) {
	_, u := newUI(t)
	res := get(u, "GET", "/", "Accept-Encoding", "br, gzip;q=0.8")
	if res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "gzip" || res.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("/ answered %d %v", res.StatusCode, res.Header)
	}
	z, err := gzip.NewReader(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	plain := get(u, "GET", "/index.html", "Accept-Encoding", "gzip;q=0")
	body, err := io.ReadAll(plain.Body)
	if err != nil || string(body) != string(packed) || plain.Header.Get("Content-Encoding") != "" {
		t.Errorf("packed and plain differ (%v)", err)
	}
	if plain.Header.Get("ETag") == res.Header.Get("ETag") {
		t.Error("packed and plain have one ETag")
	}
	again := get(u, "GET", "/", "Accept-Encoding", "gzip", "If-None-Match", res.Header.Get("ETag"))
	if again.StatusCode != 304 {
		t.Errorf("an unchanged page answered %d", again.StatusCode)
	}
	if head := get(u, "HEAD", "/main.js"); head.StatusCode != 200 || head.Header.Get("Content-Type") != "text/javascript; charset=utf-8" {
		t.Errorf("HEAD answered %d %v", head.StatusCode, head.Header)
	}
	for path, want := range map[string]int{"/sub": 404, "/sub/": 404, "/sub/page.css": 200, "/none.js": 404, "/.git/config": 404, "/index.html/": 404} {
		if res := get(u, "GET", path); res.StatusCode != want {
			t.Errorf("%s answered %d, want %d", path, res.StatusCode, want)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "TRACE", "OPTIONS"} {
		for _, path := range []string{"/", "/main.js", "/ws", "/api/v1/events", "/api/v1/health"} {
			if res := get(u, method, path, "Sec-Fetch-Site", "same-origin"); res.StatusCode != 405 {
				t.Errorf("%s %s answered %d", method, path, res.StatusCode)
			}
		}
	}
}

func TestFilesAreReadAnewWhileTheyAreEdited(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	_, u := newUI(t, func(c *Config) { c.Static, c.Reload = root.FS(), true })
	for _, text := range []string{"one", "two"} {
		write("index.html", text)
		res := get(u, "GET", "/")
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != text {
			t.Errorf("read %q (%v), want %q", b, err, text)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/link", "/../etc/passwd", "/%2e%2e/etc/passwd", "/.", "//etc/passwd"} {
		if res := get(u, "GET", path); res.StatusCode == 200 {
			b, err := io.ReadAll(res.Body)
			if string(b) != "two" {
				t.Errorf("%s answered %q (%v)", path, b, err)
			}
		}
	}
}

// TestEmbeddedPageIsWhole: every file that the page names is in the binary.
func TestEmbeddedPageIsWhole(t *testing.T) {
	files := Static()
	page, err := fs.ReadFile(files, "index.html")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`(?:src|href)="([^"#:]+)"`).FindAllStringSubmatch(string(page), -1)
	modules, err := fs.Glob(files, "*.js")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		text, err := fs.ReadFile(files, m)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, regexp.MustCompile(`(?:from|import|import\()\s*'(\./[^']+)'`).FindAllStringSubmatch(string(text), -1)...)
	}
	if len(names) < 2 {
		t.Fatalf("the page names %d files", len(names))
	}
	for _, n := range names {
		name := strings.TrimPrefix(strings.TrimPrefix(n[1], "./"), "/")
		if name == "" {
			continue
		}
		if _, err := fs.Stat(files, name); err != nil {
			t.Errorf("%s is named and not there", name)
		}
	}
}
