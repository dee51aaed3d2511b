package images

import (
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

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
// A chunk file lives as long as a manifest, or an import under way, counts on
// it. Files appear by rename after fsync, so what has its final name is whole.
type Store struct {
	dir  string
	opts StoreOptions

	mu        sync.Mutex
	refs      map[string]int           // chunk → manifests and imports that count on it
	manifests map[string]wire.Manifest // by digest
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
	s := &Store{dir: dir, opts: opts, refs: map[string]int{}, manifests: map[string]wire.Manifest{}}
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return nil, fmt.Errorf("image store: empty the temporary folder: %w", err)
	}
	for _, sub := range []string{"tmp", "chunks", "manifests"} {
		if err := os.MkdirAll(s.path(sub), 0o755); err != nil {
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
		s.manifests[digest] = m
		for name := range chunkSet(m) {
			s.refs[name]++
		}
	}
	return nil
}

// sweep removes files among the chunks that no manifest names.
func (s *Store) sweep() error {
	removed := 0
	err := filepath.WalkDir(s.path("chunks"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if name := d.Name(); s.refs[name] > 0 && path == s.chunkPath(name) {
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

// Manifests returns the digests of all images kept here, sorted.
func (s *Store) Manifests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	digests := make([]string, 0, len(s.manifests))
	for d := range s.manifests {
		digests = append(digests, d)
	}
	slices.Sort(digests)
	return digests
}

// Manifest returns the manifest of that digest, or ErrNotFound. Its chunk list
// is shared and must not be changed.
func (s *Store) Manifest(digest string) (wire.Manifest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.manifests[digest]
	if !ok {
		return wire.Manifest{}, fmt.Errorf("image %.64q: %w", digest, ErrNotFound)
	}
	return m, nil
}

// HasChunk reports whether the chunk of that digest is kept here.
func (s *Store) HasChunk(digest string) bool {
	if !wire.IsDigest(digest) {
		return false
	}
	_, err := os.Stat(s.chunkPath(digest))
	return err == nil
}

// OpenChunk opens the gzip member of a chunk; the caller closes it. It is
// ErrNotFound when the chunk is not here. Deleting the image meanwhile does not
// disturb an open file.
func (s *Store) OpenChunk(digest string) (*os.File, error) {
	if !wire.IsDigest(digest) {
		return nil, fmt.Errorf("chunk %.80q: %w", digest, ErrNotFound)
	}
	f, err := os.Open(s.chunkPath(digest))
	if os.IsNotExist(err) {
		return nil, fmt.Errorf("chunk %s: %w", digest, ErrNotFound)
	}
	return f, err
}

// Info is what the store knows about an image.
type Info struct {
	Digest      string
	SizeBytes   uint64 // of the raw disk
	StoredBytes uint64 // of its different chunks as gzip members: what one install fetches
	Chunks      int    // in the manifest
	DataChunks  int    // of these, the ones that are not all zero
	Missing     int    // different chunks that are not kept here
}

// Info looks at an image and its chunks.
func (s *Store) Info(digest string) (Info, error) {
	m, err := s.Manifest(digest)
	if err != nil {
		return Info{}, err
	}
	info := Info{Digest: digest, SizeBytes: m.SizeBytes, Chunks: len(m.Chunks)}
	for _, name := range m.Chunks {
		if name != "" {
			info.DataChunks++
		}
	}
	for name := range chunkSet(m) {
		st, err := os.Stat(s.chunkPath(name))
		if err != nil {
			info.Missing++
			continue
		}
		info.StoredBytes += uint64(st.Size())
	}
	return info, nil
}

// VerifyChunk inflates a chunk and checks it against its name. It returns
// ErrNotFound or ErrCorrupt, wrapped.
func (s *Store) VerifyChunk(digest string) error {
	f, err := s.OpenChunk(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	return verifyMember(f, digest)
}

// Verify checks every chunk of an image and reports the first that is missing
// or damaged, wrapped as by VerifyChunk.
func (s *Store) Verify(digest string) error {
	m, err := s.Manifest(digest)
	if err != nil {
		return err
	}
	seen := map[string]bool{"": true}
	for _, name := range m.Chunks {
		if seen[name] {
			continue
		}
		seen[name] = true
		if err := s.VerifyChunk(name); err != nil {
			return fmt.Errorf("image %s: %w", digest, err)
		}
	}
	return nil
}

// Delete removes an image and every chunk that no other image, and no import
// under way, counts on.
func (s *Store) Delete(digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.manifests[digest]
	if !ok {
		return fmt.Errorf("image %.64q: %w", digest, ErrNotFound)
	}
	// The manifest goes first: a crash after it leaves chunks without a
	// manifest, which OpenStore removes, never a manifest without chunks.
	if err := os.Remove(s.manifestPath(digest)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("delete image: %w", err)
	}
	if err := syncDir(s.path("manifests")); err != nil {
		return fmt.Errorf("delete image: %w", err)
	}
	delete(s.manifests, digest)
	return s.releaseLocked(chunkSet(m))
}

// release gives up one claim on each chunk and removes those without any.
func (s *Store) release(names map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.releaseLocked(names)
}

func (s *Store) releaseLocked(names map[string]bool) error {
	var first error
	for name := range names {
		if s.refs[name]--; s.refs[name] > 0 {
			continue
		}
		delete(s.refs, name)
		if err := os.Remove(s.chunkPath(name)); err != nil && !os.IsNotExist(err) && first == nil {
			first = fmt.Errorf("remove chunk: %w", err)
		}
	}
	return first
}

// checkSpace refuses to go on when writing need bytes more would eat into the
// reserve.
func (s *Store) checkSpace(need uint64) error {
	free, err := s.opts.FreeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("image store: free space: %w", err)
	}
	if free < s.opts.Reserve || free-s.opts.Reserve < need {
		return &SpaceError{Free: free, Reserve: s.opts.Reserve, Need: need}
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
	if err := os.Chmod(f.Name(), 0o644); err != nil {
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
