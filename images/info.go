package images

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/lpmos/lpmos/agent/wire"
)

// Manifests returns the digests of all images whose manifest is here, sorted.
func (s *Store) Manifests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	digests := make([]string, 0, len(s.images))
	for d := range s.images {
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
	img := s.images[digest]
	if img == nil {
		return wire.Manifest{}, fmt.Errorf("image %.64q: %w", digest, ErrNotFound)
	}
	return img.manifest, nil
}

// Holding is how much of an image is here.
type Holding struct {
	Have  int // different chunks that are here
	Total int // different chunks
}

// Whole reports whether nothing is missing.
func (h Holding) Whole() bool { return h.Total > 0 && h.Have == h.Total }

// Holdings is how much of each image is here, by digest. It looks at no file and
// may be asked every second.
func (s *Store) Holdings() map[string]Holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]Holding, len(s.images))
	for digest, img := range s.images {
		out[digest] = Holding{Have: img.have, Total: img.total}
	}
	return out
}

// missingChunks are the different chunks of an image that are not here, in the
// order of the disk, and how many it has in all.
func (s *Store) missingChunks(digest string) (names []string, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.images[digest]
	if img == nil || img.have == img.total {
		return nil, 0
	}
	names = make([]string, 0, img.total-img.have)
	seen := map[string]bool{"": true}
	for _, name := range img.manifest.Chunks {
		if !seen[name] && !s.chunks[name].here() {
			names = append(names, name)
		}
		seen[name] = true
	}
	return names, img.total
}

// names reports whether an image that is here names the chunk.
func (s *Store) names(chunk string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.chunks[chunk]
	return c != nil && len(c.images) > 0
}

// HasChunk reports whether the chunk of that digest is here, and not known to be
// damaged.
func (s *Store) HasChunk(digest string) bool {
	if !wire.IsDigest(digest) {
		return false
	}
	s.mu.Lock()
	c := s.chunks[digest]
	here := c != nil && c.here()
	s.mu.Unlock()
	if !here {
		return false
	}
	_, err := os.Stat(s.chunkPath(digest))
	if os.IsNotExist(err) {
		s.lose(digest, nil)
	}
	return err == nil
}

// OpenChunk opens the gzip member of a chunk; the caller closes it. It is
// ErrNotFound when the chunk is not here and ErrCorrupt when it is known to be
// damaged. Deleting the image meanwhile does not disturb an open file.
func (s *Store) OpenChunk(digest string) (*os.File, error) {
	f, err := s.openFile(digest)
	if err == nil && s.state(digest) == damaged {
		f.Close()
		return nil, fmt.Errorf("chunk %s: %w", digest, ErrCorrupt)
	}
	return f, err
}

// openChecked is OpenChunk for those who serve: the first time since the store
// was opened, and whenever somebody suspects it, a chunk is read to its end and
// compared with its name before a byte of it is given away.
func (s *Store) openChecked(digest string, suspect bool) (*os.File, error) {
	if state := s.state(digest); state == unchecked || suspect && state == good {
		_, err, _ := s.checking.Do(digest, func() (any, error) { return nil, s.VerifyChunk(digest) })
		if err != nil {
			return nil, err
		}
	}
	return s.OpenChunk(digest)
}

// openFile opens the file of a chunk, whatever it holds.
func (s *Store) openFile(digest string) (*os.File, error) {
	if !wire.IsDigest(digest) {
		return nil, fmt.Errorf("chunk %.80q: %w", digest, ErrNotFound)
	}
	f, err := os.Open(s.chunkPath(digest))
	if os.IsNotExist(err) {
		s.lose(digest, nil)
		return nil, fmt.Errorf("chunk %s: %w", digest, ErrNotFound)
	}
	return f, err
}

// VerifyChunk inflates a chunk and checks it against its name. It returns
// ErrNotFound or ErrCorrupt, wrapped. What it finds out is kept: a damaged chunk
// counts as missing and is fetched from other nodes, if there are any.
func (s *Store) VerifyChunk(digest string) error {
	f, err := s.openFile(digest)
	if err != nil {
		return err
	}
	defer f.Close()
	err = verifyMember(f, digest)
	switch {
	case err == nil:
		s.put(digest)
	case errors.Is(err, ErrCorrupt):
		s.lose(digest, f)
	}
	return err
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

// Info is what the store knows about an image.
type Info struct {
	Digest      string
	SizeBytes   uint64 // of the raw disk
	StoredBytes uint64 // of its different chunks as gzip members: what one install fetches
	Chunks      int    // in the manifest
	DataChunks  int    // of these, the ones that are not all zero
	Missing     int    // different chunks that are not here, or damaged
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
			s.lose(name, nil)
		}
		if err != nil || s.state(name) == damaged {
			info.Missing++
			continue
		}
		info.StoredBytes += uint64(st.Size())
	}
	return info, nil
}

// FreeBytes is the space left on the file system of the store, the reserve
// included.
func (s *Store) FreeBytes() (uint64, error) { return s.opts.FreeSpace(s.dir) }
