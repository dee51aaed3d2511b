package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// KeptID is the id of the node whose data directory this is, and empty for a
// directory that no node has used. It changes nothing.
func KeptID(dir string) (string, error) {
	if _, err := readFormat(dir); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(dir, idFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read node id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if _, err := os.Stat(filepath.Join(dir, dbFile)); err == nil && id == "" {
		return "", fmt.Errorf("%w: %s holds a log but no file %q", ErrCorrupt, dir, idFile)
	}
	return id, nil
}
