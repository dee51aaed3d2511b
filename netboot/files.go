package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Names of the boot files, the same over TFTP and HTTP.
const (
	LoaderBIOS    = "undionly.kpxe"
	LoaderUEFI    = "snponly.efi"
	LoaderUEFIAll = "ipxe.efi" // with drivers of its own, for firmware whose driver fails
	FileKernel    = "vmlinuz"
	FileInitrd    = "initrd"
	FileAutoexec  = "autoexec.ipxe" // newer iPXE asks for it before its own DHCP; made here, not a file
)

// ErrNoBootFile says that a boot file is missing from the build.
var ErrNoBootFile = errors.New("boot file missing")

// Files are the boot files, read once and kept in memory: a table of fixed
// names, so that no name from the wire ever reaches a file system.
type Files struct {
	byName map[string]file
}

type file struct {
	data []byte
	etag string // strong: the SHA-256 of data, in quotes
}

// LoadFiles reads the boot files out of fsys. When some are missing it returns
// the others and an error that wraps ErrNoBootFile and names them: a node
// without a kernel can still boot machines from their own disks.
func LoadFiles(fsys fs.FS) (*Files, error) {
	f := &Files{byName: make(map[string]file)}
	var missing []string
	for _, name := range []string{LoaderBIOS, LoaderUEFI, LoaderUEFIAll, FileKernel, FileInitrd} {
		data, err := fs.ReadFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("boot file %s: %w", name, err)
		}
		sum := sha256.Sum256(data)
		f.byName[name] = file{data: data, etag: `"` + hex.EncodeToString(sum[:]) + `"`}
	}
	if missing != nil {
		return f, fmt.Errorf("%w: %s; build them with: make boot-image", ErrNoBootFile, strings.Join(missing, ", "))
	}
	return f, nil
}

// find looks a name up. Firmware writes some with a leading slash or two
// (shim), and an absolute path below /boot when it follows a URL.
func (f *Files) find(name string) (file, bool) {
	name = strings.TrimLeft(name, "/")
	name = strings.TrimPrefix(name, "boot/")
	got, ok := f.byName[strings.TrimLeft(name, "/")]
	return got, ok
}
