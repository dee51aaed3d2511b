package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

// Files are the boot files: a table of fixed names, opened once, so that no name
// from the wire ever reaches a file system.
type Files struct {
	byName map[string]file
}

// file is read where it lies. Those in the binary are part of it in memory, and
// as copies of 20 MB they would be there twice.
type file struct {
	io.ReaderAt
	size int64
	etag string // strong: the SHA-256 of what is in it, in quotes
}

func (f file) reader() *io.SectionReader { return io.NewSectionReader(f, 0, f.size) }

// LoadFiles reads the boot files out of fsys. When some are missing it returns
// the others and an error that wraps ErrNoBootFile and names them: a node
// without a kernel can still boot machines from their own disks.
func LoadFiles(fsys fs.FS) (*Files, error) {
	f := &Files{byName: make(map[string]file)}
	var missing []string
	for _, name := range []string{LoaderBIOS, LoaderUEFI, LoaderUEFIAll, LoaderShim, LoaderGRUB, FileKernel, FileInitrd} {
		opened, err := openFile(fsys, name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("boot file %s: %w", name, err)
		}
		f.byName[name] = opened
	}
	if missing != nil {
		return f, fmt.Errorf("%w: %s; build them with: make boot-image", ErrNoBootFile, strings.Join(missing, ", "))
	}
	return f, nil
}

// has says whether all of these are there.
func (f *Files) has(names ...string) bool {
	for _, name := range names {
		if _, ok := f.byName[name]; !ok {
			return false
		}
	}
	return true
}

func openFile(fsys fs.FS, name string) (file, error) {
	opened, err := fsys.Open(name)
	if err != nil {
		return file{}, err
	}
	sum := sha256.New()
	size, err := io.Copy(sum, opened)
	if err != nil {
		return file{}, errors.Join(err, opened.Close())
	}
	at, ok := opened.(io.ReaderAt)
	if !ok {
		return file{}, errors.Join(errors.New("it cannot be read in parts"), opened.Close())
	}
	return file{at, size, `"` + hex.EncodeToString(sum.Sum(nil)) + `"`}, nil
}

// find looks a name up. Firmware writes some with a leading slash or two
// (shim), and an absolute path below /boot when it follows a URL.
func (f *Files) find(name string) (file, bool) {
	name = strings.TrimLeft(name, "/")
	name = strings.TrimPrefix(name, "boot/")
	got, ok := f.byName[strings.TrimLeft(name, "/")]
	return got, ok
}
