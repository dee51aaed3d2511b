package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"

	"github.com/lpmos/lpmos/ui/api"
)

//go:embed static/*.html static/*.js static/*.css static/*.svg
var embedded embed.FS

// Static is the dashboard as it was when the binary was made.
func Static() fs.FS {
	sub, err := fs.Sub(embedded, "static")
	if err != nil {
		panic("ui: " + err.Error()) // the name is a constant that fs.Sub takes
	}
	return sub
}

// file is a static file ready to be sent.
type file struct {
	kind string // content type
	etag string
	body []byte
	gzip []byte // nil if packing does not pay
}

// static serves files by their exact names. There are no directories.
type static struct {
	fs     fs.FS
	reload bool
	files  map[string]*file // by path, without the leading slash
}

func newStatic(fsys fs.FS, reload bool) (*static, error) {
	s := &static{fs: fsys, reload: reload, files: map[string]*file{}}
	if reload {
		return s, nil
	}
	err := fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := readStatic(fsys, name)
		s.files[name] = f
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the dashboard's files: %w", err)
	}
	return s, nil
}

func readStatic(fsys fs.FS, name string) (*file, error) {
	body, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	f := &file{kind: contentType(name), etag: hex.EncodeToString(sum[:12]), body: body}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(body); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if packed.Len() < len(body)*9/10 {
		f.gzip = packed.Bytes()
	}
	return f, nil
}

// contentType goes by the name. The few kinds we have are named here, so that a
// host's own list of types cannot turn a module into text.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js", ".mjs":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json":
		return "application/json"
	default:
		if t := mime.TypeByExtension(ext); t != "" {
			return t
		}
		return "application/octet-stream"
	}
}

// find gives the file of a URL path, or nil.
func (s *static) find(urlPath string) *file {
	name := strings.TrimPrefix(urlPath, "/")
	if name == "" {
		name = "index.html"
	}
	if !s.reload {
		return s.files[name]
	}
	if !fs.ValidPath(name) {
		return nil
	}
	f, err := readStatic(s.fs, name)
	if err != nil {
		return nil // not there, or a directory, which is not there either
	}
	return f
}

// readOnly refuses what would change what can only be read.
type readOnly struct{}

func (readOnly) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Allow", "GET, HEAD")
	api.NewProblem(http.StatusMethodNotAllowed, "this can only be read").WriteTo(w)
}

func (s *static) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		readOnly{}.ServeHTTP(w, r)
		return
	}
	f := s.find(r.URL.Path)
	if f == nil {
		http.Error(w, "there is no such page", http.StatusNotFound)
		return
	}
	h := w.Header()
	body, tag := f.body, `"`+f.etag+`"`
	if f.gzip != nil {
		h.Set("Vary", "Accept-Encoding")
		if takesGzip(r.Header.Get("Accept-Encoding")) {
			h.Set("Content-Encoding", "gzip")
			body, tag = f.gzip, `"`+f.etag+`-gzip"`
		}
	}
	h.Set("ETag", tag)
	// Kept by the browser, asked about each time: a new version of the node is
	// seen at the next load.
	h.Set("Cache-Control", "no-cache")
	if matches(r.Header.Get("If-None-Match"), tag) {
		h.Del("Content-Encoding")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", f.kind)
	h.Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method == http.MethodHead {
		return
	}
	// An error here means that nobody reads the answer any more.
	_, _ = w.Write(body)
}

// takesGzip reads Accept-Encoding (RFC 9110 section 12.5.3) as far as gzip goes.
func takesGzip(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		coding, params, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(coding), "gzip") {
			q := strings.ReplaceAll(params, " ", "")
			return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
		}
	}
	return false
}

// matches reads If-None-Match (RFC 9110 section 13.1.2).
func matches(header, tag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimPrefix(strings.TrimSpace(part), "W/")
		if part == tag || part == "*" {
			return true
		}
	}
	return false
}
