package netboot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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

// BootFilesDir is the directory of the copies, in the data directory.
const BootFilesDir = "boot-files"

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
	path string // a copy on the disk; "" without
}

func (f file) reader() *io.SectionReader { return io.NewSectionReader(f, 0, f.size) }

// content is the file to send: the copy on the disk if there is one, which the kernel
// sends without our touching it, or else what is in memory.
func (f file) content() (io.ReadSeeker, func()) {
	if f.path != "" {
		if on, err := os.Open(f.path); err == nil {
			return on, func() { on.Close() }
		}
	}
	return f.reader(), func() {}
}

// spool keeps copies of the long files in a directory of its own, for sendfile(2): what
// is in the program's own memory would be copied twice for every machine. Names are
// the hash of what is in them, and a copy that is there is read and compared. Without
// copies all goes on as well.
func (f *Files) spool(dir string) (err error) {
	if f == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	keep := map[string]bool{}
	for name, one := range f.byName {
		if one.size < turnBytes {
			continue
		}
		base := strings.Trim(one.etag, `"`)
		keep[base] = true
		path := filepath.Join(dir, base)
		if !holds(path, base) {
			if err := one.copyTo(path); err != nil {
				return fmt.Errorf("keep %s for sending: %w", name, err)
			}
		}
		one.path = path
		if _, ok := one.ReaderAt.(*packed); ok {
			if one.ReaderAt, err = os.Open(path); err != nil {
				return fmt.Errorf("keep %s for sending: %w", name, err)
			}
		}
		f.byName[name] = one
	}
	old, err := os.ReadDir(dir)
	for _, entry := range old {
		name := entry.Name() // one of another version of this program, or half a copy?
		if !keep[name] && (len(name) == 2*sha256.Size || strings.HasPrefix(name, newCopy)) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, name)))
		}
	}
	return err
}

// newCopy begins the name of a copy that is not whole.
const newCopy = "new-"

// holds says whether the file at path has that hash.
func holds(path, hash string) bool {
	on, err := os.Open(path)
	if err != nil {
		return false
	}
	defer on.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, on)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == hash
}

// copyTo writes the file at path, or nothing.
func (f file) copyTo(path string) error {
	on, err := os.CreateTemp(filepath.Dir(path), newCopy)
	if err != nil {
		return err
	}
	if p, ok := f.ReaderAt.(*packed); ok {
		_, err = p.WriteTo(on)
	} else {
		_, err = io.Copy(on, f.reader())
	}
	if err = errors.Join(err, on.Close()); err == nil {
		err = os.Rename(on.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(on.Name()))
	}
	return nil
}

// LoadFiles reads the boot files out of fsys. When some are missing it returns
// the others and an error that wraps ErrNoBootFile and names them: a node
// without a kernel can still boot machines from their own disks. Those for arm64 may
// be missing.
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
	for _, name := range []string{LoaderShimARM64, LoaderGRUBARM64, FileKernelARM64, FileInitrdARM64, FileRescue, FileMemtestBIOS, FileMemtestUEFI} {
		opened, err := openFile(fsys, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a node boots other machines without these
			return nil, fmt.Errorf("boot file %s: %w", name, err)
		} else if err == nil {
			f.byName[name] = opened
		}
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

// hasAgent says whether all is there that starts the agent on a processor.
func (f *Files) hasAgent(cpu string) bool {
	files, ok := agentFor(cpu)
	return ok && f.has(files.kernel, files.initrd)
}

// openFile opens a file under its name, or packed under its name with packedSuffix.
func openFile(fsys fs.FS, name string) (file, error) {
	opened, err := fsys.Open(name)
	isPacked := errors.Is(err, fs.ErrNotExist)
	if isPacked {
		if opened, err = fsys.Open(name + packedSuffix); err != nil {
			return file{}, err
		}
	} else if err != nil {
		return file{}, err
	}
	at, ok := opened.(io.ReaderAt)
	if !ok {
		return file{}, errors.Join(errors.New("it cannot be read in parts"), opened.Close())
	}
	var content io.WriterTo
	if isPacked {
		st, err := opened.Stat()
		if err != nil {
			return file{}, errors.Join(err, opened.Close())
		}
		p := &packed{from: at, size: st.Size()}
		at, content = p, p
	}
	sum := sha256.New()
	var size int64
	if content != nil {
		size, err = content.WriteTo(sum)
	} else {
		size, err = io.Copy(sum, opened)
	}
	if err != nil {
		return file{}, errors.Join(err, opened.Close())
	}
	return file{ReaderAt: at, size: size, etag: `"` + hex.EncodeToString(sum.Sum(nil)) + `"`}, nil
}

// find looks a name up. Firmware writes some with a leading slash or two
// (shim), and an absolute path below /boot when it follows a URL.
func (f *Files) find(name string) (file, bool) {
	name = strings.TrimLeft(name, "/")
	name = strings.TrimPrefix(name, "boot/")
	got, ok := f.byName[strings.TrimLeft(name, "/")]
	return got, ok
}
