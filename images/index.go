package images

import (
	"fmt"
	"os"
	"slices"

	"github.com/lpmos/lpmos/agent/wire"
)

// chunkState is what the store knows of a chunk without looking at the disk.
type chunkState int

const (
	missing   chunkState = iota
	unchecked            // its file was there when the store was opened; nobody has read it since
	good                 // this process has written it, or read it to its end
	damaged              // its file does not hold its bytes; a good copy will take its place
)

// chunk is a chunk that something counts on.
type chunk struct {
	state  chunkState
	claims int      // imports and copies under way
	images []*image // that name it
}

// image is a manifest that is here, and how many of its chunks are.
type image struct {
	digest   string
	manifest wire.Manifest
	have     int // different chunks that are here
	total    int // different chunks
	// stamp tells imports of the same image apart. settled means that the fleet
	// has wanted the image since: between an import and the command that makes it
	// known to the fleet nothing wants it, and yet it must not be taken for one
	// that was deleted.
	stamp   int
	settled bool
}

// here reports whether the chunk can be read, as far as is known.
func (c *chunk) here() bool { return c.state == unchecked || c.state == good }

// set changes the state and the counts of the images that name the chunk.
func (c *chunk) set(state chunkState) {
	was := c.here()
	c.state = state
	step := 0
	switch is := c.here(); {
	case is && !was:
		step = 1
	case was && !is:
		step = -1
	}
	for _, img := range c.images {
		img.have += step
	}
}

// put notes that a good copy of a chunk is here, if anything counts on it.
func (s *Store) put(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.chunks[name]; c != nil {
		c.set(good)
	}
}

// lose notes that a chunk has no file, or that f, which is its file, is damaged;
// unless a copy has taken that place in the meantime.
func (s *Store) lose(name string, f *os.File) {
	s.mu.Lock()
	c := s.chunks[name]
	if c == nil {
		s.mu.Unlock()
		return
	}
	was := c.here()
	now, err := os.Stat(s.chunkPath(name))
	switch {
	case err != nil:
		c.set(missing)
	case f != nil:
		if old, err := f.Stat(); err == nil && os.SameFile(old, now) {
			c.set(damaged)
		}
	}
	lost, tell := was && !c.here(), s.onLoss
	s.mu.Unlock()
	if lost {
		tell()
	}
}

// state is what is known of a chunk.
func (s *Store) state(name string) chunkState {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.chunks[name]; c != nil {
		return c.state
	}
	return missing
}

// addImage lets a manifest count on its chunks. The lock is held, or nobody else
// knows the store yet.
func (s *Store) addImage(digest string, m wire.Manifest) *image {
	set := chunkSet(m)
	img := &image{digest: digest, manifest: m, total: len(set), settled: true}
	for name := range set {
		c := s.chunks[name]
		if c == nil {
			c = &chunk{}
			s.chunks[name] = c
		}
		c.images = append(c.images, img)
		if c.here() {
			img.have++
		}
	}
	s.images[digest] = img
	return img
}

// claim counts on a chunk from now on.
func (s *Store) claim(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chunks[name] == nil {
		s.chunks[name] = &chunk{}
	}
	s.chunks[name].claims++
}

// claimNamed counts on a chunk if an image names it, and returns the digest of
// one that does.
func (s *Store) claimNamed(name string) (digest string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.chunks[name]
	if c == nil || len(c.images) == 0 {
		return "", false
	}
	c.claims++
	return c.images[0].digest, true
}

// release gives up one claim on each chunk and removes those that nothing counts
// on any more.
func (s *Store) release(names map[string]bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.releaseLocked(names)
}

func (s *Store) releaseLocked(names map[string]bool) error {
	var first error
	for name := range names {
		c := s.chunks[name]
		c.claims--
		if err := s.dropUncounted(name, c); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// dropUncounted removes a chunk that nothing counts on. The lock is held.
func (s *Store) dropUncounted(name string, c *chunk) error {
	if c.claims > 0 || len(c.images) > 0 {
		return nil
	}
	delete(s.chunks, name)
	if err := os.Remove(s.chunkPath(name)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove chunk: %w", err)
	}
	return nil
}

// Delete removes an image and every chunk that no other image, and no import or
// copy under way, counts on.
func (s *Store) Delete(digest string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deleteLocked(digest)
}

// deleteStamped deletes an image unless it was imported again since its stamp
// was read.
func (s *Store) deleteStamped(digest string, stamp int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img := s.images[digest]; img == nil || img.stamp != stamp {
		return nil
	}
	return s.deleteLocked(digest)
}

func (s *Store) deleteLocked(digest string) error {
	img := s.images[digest]
	if img == nil {
		return fmt.Errorf("image %.64q: %w", digest, ErrNotFound)
	}
	// The manifest goes first: a crash after it leaves chunks without a
	// manifest, which OpenStore removes, never an image that loses chunks.
	if err := os.Remove(s.manifestPath(digest)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("delete image: %w", err)
	}
	if err := syncDir(s.path("manifests")); err != nil {
		return fmt.Errorf("delete image: %w", err)
	}
	delete(s.images, digest)
	var first error
	for name := range chunkSet(img.manifest) {
		c := s.chunks[name]
		c.images = slices.DeleteFunc(c.images, func(of *image) bool { return of == img })
		if err := s.dropUncounted(name, c); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// imported is which import brought an image, and whether the fleet knows of it.
type imported struct {
	stamp   int
	settled bool
}

// stamped are all images with their stamps, by digest.
func (s *Store) stamped() map[string]imported {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]imported, len(s.images))
	for digest, img := range s.images {
		out[digest] = imported{img.stamp, img.settled}
	}
	return out
}

// settle notes that the fleet wants an image, unless it was imported again since
// its stamp was read.
func (s *Store) settle(digest string, stamp int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img := s.images[digest]; img != nil && img.stamp == stamp {
		img.settled = true
	}
}
