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
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != digest {
		return wire.Manifest{}, ErrCorrupt
	}
	return ParseManifest(data)
}

// commit makes a manifest part of the store. The caller's claims on the chunks
// are handed over to it; when the image is here already they are given up.
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
	if err := s.writeFile(s.manifestPath(digest), data); err != nil {
		return "", fmt.Errorf("store manifest: %w", err)
	}
	if err := syncDir(s.path("manifests")); err != nil {
		if _, known := s.manifests[digest]; !known {
			os.Remove(s.manifestPath(digest)) // the caller gives up its chunks
		}
		return "", fmt.Errorf("store manifest: %w", err)
	}
	if _, known := s.manifests[digest]; known {
		return digest, s.releaseLocked(chunkSet(m))
	}
	s.manifests[digest] = m
	return digest, nil
}
