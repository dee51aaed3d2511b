// Package initramfs makes initial RAM file systems: which kernel modules are
// needed, in what order they are loaded, and the archive they travel in. The
// same input gives the same bytes.
package initramfs

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Archive is a cpio archive in the kernel's "newc" form (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst). Entries belong to root, carry no
// time and are written in the order of their names.
type Archive struct {
	entries map[string]entry
}

type entry struct {
	mode         uint32 // as in stat(2)
	major, minor uint32 // of a device
	data         []byte
}

// File types of stat(2).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
	typeLink = 0o120000
)

// New returns an empty archive.
func New() *Archive { return &Archive{entries: map[string]entry{}} }

// Dir adds a folder, with its parents, mode 0755.
func (a *Archive) Dir(name string) { a.add(name, entry{mode: typeDir | 0o755}) }

// File adds a file, and its folders.
func (a *Archive) File(name string, perm fs.FileMode, data []byte) {
	a.add(name, entry{mode: typeFile | uint32(perm.Perm()), data: data})
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.add(name, entry{mode: typeLink | 0o777, data: []byte(target)})
}

// CharDevice adds a character device, mode 0600. A kernel without devtmpfs
// opens /dev/console from here before it starts /init.
func (a *Archive) CharDevice(name string, major, minor uint32) {
	a.add(name, entry{mode: typeChar | 0o600, major: major, minor: minor})
}

// add records an entry; a later one of the same name replaces it.
func (a *Archive) add(name string, e entry) {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := a.entries[dir]; !ok {
			a.entries[dir] = entry{mode: typeDir | 0o755}
		}
	}
	a.entries[name] = e
}

// WriteTo writes the archive without compression.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	names := make([]string, 0, len(a.entries))
	for name := range a.entries {
		names = append(names, name)
	}
	slices.Sort(names) // a folder sorts before what is in it
	out := &counter{w: bufio.NewWriterSize(w, 1<<20)}
	for i, name := range names {
		out.entry(i+1, name, a.entries[name])
	}
	out.entry(0, "TRAILER!!!", entry{})
	out.pad(512)
	if out.err == nil {
		out.err = out.w.Flush()
	}
	return out.n, out.err
}

// WriteZstd writes the archive compressed as well as zstd can; the kernel
// unpacks it four times as fast as xz.
func (a *Archive) WriteZstd(w io.Writer) error {
	// One thread: how the work is split would show in the bytes.
	zw, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	if _, err := a.WriteTo(zw); err != nil {
		return err
	}
	return zw.Close()
}

// counter writes entries, remembering the offset for padding and the first
// error.
type counter struct {
	w   *bufio.Writer
	n   int64
	err error
}

func (c *counter) write(b []byte) {
	if c.err == nil {
		var n int
		n, c.err = c.w.Write(b)
		c.n += int64(n)
	}
}

func (c *counter) pad(to int64) {
	var zeros [512]byte
	c.write(zeros[:(to-c.n%to)%to])
}

func (c *counter) entry(inode int, name string, e entry) {
	links := 1
	if e.mode&typeDir != 0 && e.mode&typeFile != typeFile {
		links = 2
	}
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0, name))
	c.pad(4)
	c.write(e.data)
	c.pad(4)
}
