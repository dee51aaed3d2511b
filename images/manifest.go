package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/lpmos/lpmos/agent/wire"
)

// maxManifest is the largest manifest read, in bytes: an image of 4 TiB without
// a single chunk of zeros fits.
const maxManifest = 80 << 20

// ParseManifest reads the JSON of a manifest strictly: one document, no unknown
// field, in the one form whose SHA-256 is the image's digest.
func ParseManifest(data []byte) (wire.Manifest, error) {
	if len(data) > maxManifest {
		return wire.Manifest{}, fmt.Errorf("manifest: larger than %d bytes", maxManifest)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var m wire.Manifest
	if err := dec.Decode(&m); err != nil {
		return wire.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := m.Validate(); err != nil {
		return wire.Manifest{}, err
	}
	canonical, err := json.Marshal(m)
	if err != nil {
		return wire.Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if !bytes.Equal(canonical, data) {
		return wire.Manifest{}, errors.New("manifest: not in its canonical form")
	}
	return m, nil
}

// parseNamed reads a manifest whose bytes have to match a digest.
func parseNamed(digest string, data []byte) (wire.Manifest, error) {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
		return wire.Manifest{}, fmt.Errorf("manifest %.12s: %w", digest, ErrCorrupt)
	}
	return ParseManifest(data)
}

// readManifest reads a manifest from disk and checks it against its name.
func (s *Store) readManifest(digest string) (wire.Manifest, error) {
	f, err := os.Open(s.manifestPath(digest))
	if err != nil {
		return wire.Manifest{}, err
	}
	defer f.Close()
	data, err := readAtMost(f, maxManifest)
	if err != nil {
		return wire.Manifest{}, err
	}
	return parseNamed(digest, data)
}

// commit makes the manifest of an import part of the store. The caller's claims
// on the chunks are handed over to it; when the image is here already they are
// given up. Until the fleet wants the image it counts as new (see image.settled).
func (s *Store) commit(m wire.Manifest) (digest string, err error) {
	if err := m.Validate(); err != nil {
		return "", err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	if len(data) > maxManifest {
		return "", fmt.Errorf("manifest: larger than %d bytes", maxManifest)
	}
	digest = m.Digest()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.writeManifest(digest, data); err != nil {
		return "", err
	}
	img := s.images[digest]
	if img == nil {
		img = s.addImage(digest, m)
	}
	s.stamps++
	img.stamp, img.settled = s.stamps, false
	return digest, s.releaseLocked(chunkSet(m))
}

// addManifest makes a manifest that came from another node part of the store.
// None of its chunks need be here.
func (s *Store) addManifest(digest string, data []byte) error {
	m, err := parseNamed(digest, data)
	if err != nil {
		return err
	}
	// A manifest is a thousandth of its chunks. It may use up some of the reserve,
	// for with it a node whose disk is full still serves the image, out of memory.
	if err := s.checkSpaceAbove(s.opts.Reserve/2, uint64(len(data))); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[digest] != nil {
		return nil
	}
	if err := s.writeManifest(digest, data); err != nil {
		return err
	}
	s.addImage(digest, m)
	return nil
}

// writeManifest writes a manifest durably. The lock is held.
func (s *Store) writeManifest(digest string, data []byte) error {
	if err := s.writeFile(s.manifestPath(digest), data); err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	if err := syncDir(s.path("manifests")); err != nil {
		if s.images[digest] == nil {
			os.Remove(s.manifestPath(digest)) // it counts on nothing yet
		}
		return fmt.Errorf("store manifest: %w", err)
	}
	return nil
}
