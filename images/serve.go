package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// suspected is the query of a peer that was sent wrong bytes.
const suspected = "suspect=1"

// Handler serves the store, read only:
//
//	GET /chunk/<digest>     one gzip member, with ranges (RFC 9110 §14)
//	GET /manifest/<digest>  the manifest as JSON
//
// Everything served is immutable and named by what it holds, so it may be
// cached for ever. Any other path is 404. A digest is 64 lower-case hex digits,
// so no path outside the store can be spelled.
func (s *Store) Handler() http.Handler {
	return byDigest(s.serveChunk, s.serveManifest)
}

// PeerHandler is Handler below /x, for other nodes. It gives what is here and
// never asks another node: two that lack the same chunk would ask each other for
// ever. With the query suspect=1 a chunk is read and compared first.
func (s *Store) PeerHandler() http.Handler { return http.StripPrefix("/x", s.Handler()) }

// byDigest takes the paths apart.
func byDigest(chunk, manifest func(http.ResponseWriter, *http.Request, string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve := chunk
		digest, ok := strings.CutPrefix(r.URL.Path, "/chunk/")
		if !ok {
			serve = manifest
			digest, ok = strings.CutPrefix(r.URL.Path, "/manifest/")
		}
		if !ok || !wire.IsDigest(digest) {
			http.Error(w, "no such file", http.StatusNotFound)
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD are served here", http.StatusMethodNotAllowed)
			return
		}
		serve(w, r, digest)
	})
}

func (s *Store) serveChunk(w http.ResponseWriter, r *http.Request, digest string) {
	f, err := s.openChecked(digest, r.URL.RawQuery == suspected)
	if err != nil {
		s.serveError(w, r, err)
		return
	}
	s.serveFile(w, r, digest, f)
}

// serveFile serves the open file of a chunk and closes it.
func (s *Store) serveFile(w http.ResponseWriter, r *http.Request, digest string, f *os.File) {
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		s.serveError(w, r, err)
		return
	}
	serveMember(w, r, digest, st.Size(), f)
}

// serveMember serves the gzip member of a chunk.
func serveMember(w http.ResponseWriter, r *http.Request, digest string, size int64, member io.ReadSeeker) {
	// The digest names the raw bytes, a strong tag must name these compressed
	// ones (RFC 9110 §8.8.3): another node's compressor may differ, then most
	// likely in length. Should a mixture come about, its hash gives it away.
	setImmutable(w, "application/gzip", fmt.Sprintf(`"%s-%x"`, digest, size))
	http.ServeContent(w, r, "", time.Time{}, member)
}

func (s *Store) serveManifest(w http.ResponseWriter, r *http.Request, digest string) {
	m, err := s.Manifest(digest)
	if err != nil {
		s.serveError(w, r, err)
		return
	}
	data, err := json.Marshal(m)
	if err != nil {
		s.serveError(w, r, err)
		return
	}
	setImmutable(w, "application/json", `"`+digest+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// serveError answers 404 for what is not here, or damaged, and 500, without
// details, for a disk that fails.
func (s *Store) serveError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, ErrCorrupt) {
		s.opts.Log.Error("a chunk is damaged", "path", r.URL.Path, "error", err)
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
		http.Error(w, "no such file", http.StatusNotFound)
		return
	}
	s.opts.Log.Error("cannot serve from the image store", "path", r.URL.Path, "error", err)
	http.Error(w, "the node cannot read its image store", http.StatusInternalServerError)
}

func setImmutable(w http.ResponseWriter, contentType, etag string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("ETag", etag)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
}
