package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

func TestHandlerServesChunksAndManifests(t *testing.T) {
	s := openStore(t, t.TempDir())
	m, digest := mustImport(t, s, diskImage(3*wire.ChunkBytes, 1))
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	get := func(method, path, byteRange string) (*http.Response, []byte) {
		t.Helper()
		req, err := http.NewRequest(method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if byteRange != "" {
			req.Header.Set("Range", byteRange)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, body
	}

	chunk := "/chunk/" + m.Chunks[2]
	resp, whole := get("GET", chunk, "")
	if resp.StatusCode != 200 || resp.ContentLength != int64(len(whole)) ||
		resp.Header.Get("Content-Type") != "application/gzip" || resp.Header.Get("Content-Encoding") != "" ||
		!strings.HasPrefix(resp.Header.Get("ETag"), `"`+m.Chunks[2]) || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("chunk: %s %v", resp.Status, resp.Header)
	}
	if err := verifyMember(bytes.NewReader(whole), m.Chunks[2]); err != nil {
		t.Error(err)
	}
	if resp, body := get("HEAD", chunk, ""); resp.StatusCode != 200 || resp.ContentLength != int64(len(whole)) || len(body) != 0 {
		t.Errorf("HEAD: %s, length %d", resp.Status, resp.ContentLength)
	}
	if resp, part := get("GET", chunk, "bytes=100-"); resp.StatusCode != 206 || !bytes.Equal(part, whole[100:]) {
		t.Errorf("range: %s, %d bytes", resp.Status, len(part))
	}
	if resp, _ := get("GET", chunk, "bytes=99999999-"); resp.StatusCode != 416 {
		t.Errorf("range behind the end: %s", resp.Status)
	}
	if resp, _ := get("POST", chunk, ""); resp.StatusCode != 405 || resp.Header.Get("Allow") == "" {
		t.Errorf("POST: %s", resp.Status)
	}
	resp, body := get("GET", "/manifest/"+digest, "")
	var got wire.Manifest
	if err := json.Unmarshal(body, &got); err != nil || got.Digest() != digest || sha(body) != digest {
		t.Errorf("manifest: %s %v", resp.Status, err)
	}
	for _, path := range []string{
		"/", "/chunk/", "/chunk", "/manifest/" + m.Chunks[2], "/chunk/" + digest,
		"/chunk/" + strings.ToUpper(m.Chunks[2]), chunk + "/", chunk + "0", "/chunk/..%2fmanifests%2f" + digest + ".json",
		"/chunk/../manifests/" + digest + ".json", "//chunk/" + m.Chunks[2], "/tmp/", "/chunk/" + strings.Repeat("0", 64),
	} {
		if resp, _ := get("GET", path, ""); resp.StatusCode != 404 {
			t.Errorf("%s: %s, want 404", path, resp.Status)
		}
	}
}

func FuzzHandlerPath(f *testing.F) {
	s := openStore(f, f.TempDir())
	m, digest := mustImport(f, s, diskImage(3*wire.ChunkBytes, 1))
	h := s.Handler()
	known := map[string]bool{"/manifest/" + digest: true, "/chunk/" + m.Chunks[0]: true, "/chunk/" + m.Chunks[2]: true}
	for path := range known {
		f.Add(path, "bytes=0-1,3-5")
	}
	f.Add("/chunk/../../etc/passwd", "bytes=-")
	f.Fuzz(func(t *testing.T, path, byteRange string) {
		req := &http.Request{Method: "GET", URL: &url.URL{Path: path}, Header: http.Header{"Range": {byteRange}}}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if found := w.Code != 404; found != known[path] {
			t.Errorf("%q answered %d", path, w.Code)
		}
	})
}

func TestFetch(t *testing.T) {
	loopback := NewFetcher([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	raw := diskImage(3*wire.ChunkBytes, 5)
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/disk.raw", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		w.Write(raw)
	})
	mux.Handle("/moved", http.RedirectHandler("/disk.raw", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler(elsewhere.URL, http.StatusFound))
	mux.Handle("/file", http.RedirectHandler("file:///etc/passwd", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.HandleFunc("/chatty", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush() // no length is announced
		w.Write(raw)
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(raw)))
		w.Write(raw[:len(raw)/2])
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	for _, tt := range []struct {
		url, want string
		max       uint64
	}{
		{"/disk.raw", "", 0},
		{"/disk.raw", "", uint64(len(raw))},
		{"/moved", "", 0},
		{"/chatty", "", uint64(len(raw))},
		{"/disk.raw", "over the limit", 1 << 20},
		{"/chatty", "more than the limit", 1 << 20},
		{"/away", "another host", 0},
		{"/file", "another host", 0},
		{"/loop", "redirections", 0},
		{"/missing", "404", 0},
		{"/broken", "unexpected EOF", 0},
		{"ftp://host/file", "neither http nor https", 0},
		{"file:///etc/passwd", "neither http nor https", 0},
		{"http:///x", "no host", 0},
		{"http://[", "fetch image", 0},
	} {
		dir := t.TempDir()
		s := openStore(t, dir)
		err := func() error {
			target := tt.url
			if strings.HasPrefix(target, "/") {
				target = srv.URL + target
			}
			body, size, err := loopback.Fetch(t.Context(), target, tt.max)
			if err != nil {
				return err
			}
			defer body.Close()
			m, _, err := s.Import(t.Context(), body, ImportOptions{FileBytes: size})
			if err == nil && !bytes.Equal(readBack(t, s, m), raw) {
				err = errors.New("other bytes arrived")
			}
			return err
		}()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s (limit %d): got %v, want %q", tt.url, tt.max, err, tt.want)
		}
		if left := files(t, dir); err != nil && len(left) != 0 {
			t.Errorf("%s: left behind: %v", tt.url, left)
		}
	}
}
