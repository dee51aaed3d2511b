package images

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/lpmos/lpmos/agent/wire"
)

// Limits of a store unless StoreOptions says otherwise.
const (
	DefaultReserve  = 1 << 30  // bytes left free on the file system
	DefaultMaxBytes = 64 << 30 // raw bytes of one image
)

// StoreOptions tune a store; the zero value is sensible.
type StoreOptions struct {
	// Reserve is the number of bytes an import leaves free on the file system;
	// 0 means DefaultReserve.
	Reserve uint64
	// MaxBytes is the largest raw image accepted; 0 means DefaultMaxBytes.
	MaxBytes uint64
	// FreeSpace returns the bytes free for a directory; nil asks the kernel.
	FreeSpace func(dir string) (uint64, error)
	// Log receives what Open repairs; nil discards it.
	Log *slog.Logger
}

// Store is a directory of chunks and manifests. It is safe for concurrent use
// by one process.
//
//	chunks/ab/<digest>        one gzip member
//	manifests/<digest>.json   the JSON whose SHA-256 is the digest
//	tmp/                      files being written; emptied by OpenStore
//
// A chunk file lives as long as a manifest, or an import or a copy under way,
// counts on it. Files appear by rename after fsync, so what has its final name
// is whole. A manifest may be here before its chunks: they are copied from other
// nodes one by one.
type Store struct {
	dir      string
	opts     StoreOptions
	checking singleflight.Group // first reads of chunks that are served

	mu     sync.Mutex
	chunks map[string]*chunk // by digest: all that something counts on
	images map[string]*image // by digest of the manifest
	stamps int               // the last given to an import
	onLoss func()            // told when a chunk turns out to be gone or damaged
}

// OpenStore opens the store in dir, creating it if need be, and removes what a
// crash left behind: temporary files and chunks no manifest names. A manifest
// that does not match its name is set aside with the suffix ".bad".
func OpenStore(dir string, opts StoreOptions) (*Store, error) {
	if opts.Reserve == 0 {
		opts.Reserve = DefaultReserve
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = DefaultMaxBytes
	}
	if opts.FreeSpace == nil {
		opts.FreeSpace = freeSpace
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, opts: opts, chunks: map[string]*chunk{}, images: map[string]*image{}, onLoss: func() {}}
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return nil, fmt.Errorf("image store: empty the temporary folder: %w", err)
	}
	for _, sub := range []string{"tmp", "chunks", "manifests"} {
		if err := os.MkdirAll(s.path(sub), 0o700); err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
	}
	if err := s.loadManifests(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if err := s.sweep(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return s, nil
}

// loadManifests reads every manifest and counts the chunks they name.
func (s *Store) loadManifests() error {
	entries, err := os.ReadDir(s.path("manifests"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		digest, isManifest := strings.CutSuffix(e.Name(), ".json")
		if !isManifest || !wire.IsDigest(digest) {
			continue
		}
		m, err := s.readManifest(digest)
		if err != nil {
			s.opts.Log.Error("a manifest of the image store is damaged and was set aside; import the image again",
				"digest", digest, "error", err)
			if err := os.Rename(s.manifestPath(digest), s.manifestPath(digest)+".bad"); err != nil {
				return err
			}
			continue
		}
		s.addImage(digest, m)
	}
	return nil
}

// sweep notes which chunks are here and removes files that no manifest names.
func (s *Store) sweep() error {
	removed := 0
	err := filepath.WalkDir(s.path("chunks"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if c := s.chunks[name]; c != nil && path == s.chunkPath(name) {
			c.set(unchecked)
			return nil
		}
		removed++
		return os.Remove(path)
	})
	if removed > 0 {
		s.opts.Log.Info("removed chunks that no image uses", "count", removed)
	}
	return err
}

// checkSpace refuses to go on when writing need bytes more would eat into the
// reserve.
func (s *Store) checkSpace(need uint64) error { return s.checkSpaceAbove(s.opts.Reserve, need) }

func (s *Store) checkSpaceAbove(reserve, need uint64) error {
	free, err := s.opts.FreeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("image store: free space: %w", err)
	}
	if free < reserve || free-reserve < need {
		return &SpaceError{Free: free, Reserve: reserve, Need: need}
	}
	return nil
}

func (s *Store) path(sub string) string { return filepath.Join(s.dir, sub) }

// chunkPath is where a chunk lies; names shorter than two letters are no
// digests and lead nowhere.
func (s *Store) chunkPath(digest string) string {
	return filepath.Join(s.dir, "chunks", digest[:min(2, len(digest))], digest)
}

func (s *Store) manifestPath(digest string) string {
	return filepath.Join(s.dir, "manifests", digest+".json")
}

// writeFile writes a whole file durably: temporary file, fsync, rename. The
// caller makes the name itself durable with syncDir.
func (s *Store) writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(s.path("tmp"), "w")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // nothing to remove once renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// syncDir makes the names in a folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// readAtMost reads all of r and fails when it holds more than limit bytes.
func readAtMost(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	return data, err
}
