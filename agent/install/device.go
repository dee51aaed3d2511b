package install

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Device is a disk opened for writing. Offsets and lengths are bytes and always
// whole logical sectors. Methods may be called from several goroutines at once.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Zero makes n bytes at off read as zeros.
	Zero(off, n int64) error
	// Sync returns once everything written is on the medium.
	Sync() error
	// DropCache makes later reads come from the medium, as far as the kernel
	// can be made to.
	DropCache()
	// Reread has the kernel read the partition table anew.
	Reread() error
	// Size is the capacity in bytes and Sector the logical sector size.
	Size() int64
	Sector() int
	Close() error
}

// ioctl requests of linux/fs.h.
const (
	blkRRPart    = 0x125f
	blkFlsBuf    = 0x1261
	blkSSZGet    = 0x1268
	fallocPunch  = 0x02 | 0x01 // FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
	fadvDontNeed = 4
)

// directAlign is what O_DIRECT asks of buffers, offsets and lengths on any disk
// sold today.
const directAlign = 4096

// fileDevice is a Device on a block device, or on a plain file standing in for one.
type fileDevice struct {
	f      *os.File // holds the claim and the lock
	direct *os.File // the same disk past the page cache; nil where that is impossible
	block  bool
	size   int64
	sector int

	noDirect atomic.Bool // the kernel refused a direct transfer
	noPunch  atomic.Bool // the disk cannot zero by itself
}

// OpenDevice opens the disk at path for itself alone: a block device that is
// mounted, part of an array or otherwise claimed is refused, and a lock keeps
// well-behaved others away. sector is the logical sector size to assume for a
// plain file; a block device is asked for its own.
func OpenDevice(path string, sector int) (Device, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	flags := os.O_RDWR
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	switch {
	case block:
		flags |= syscall.O_EXCL // without O_CREAT: claim the device
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a block device nor a plain file", path)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	d := &fileDevice{f: f, block: block, sector: sector}
	if err := d.init(path); err != nil {
		f.Close()
		return nil, err
	}
	return d, nil
}

func (d *fileDevice) init(path string) error {
	if err := syscall.Flock(int(d.f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	if d.block {
		var ssz int32
		if err := ioctl(d.f, blkSSZGet, uintptr(unsafe.Pointer(&ssz))); err != nil {
			return fmt.Errorf("ask %s for its sector size: %w", path, err)
		}
		d.sector = int(ssz)
	}
	if d.sector != 512 && d.sector != 4096 {
		return fmt.Errorf("%s has sectors of %d bytes; 512 and 4096 are known here", path, d.sector)
	}
	size, err := d.f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("ask %s for its size: %w", path, err)
	}
	d.size = size
	// Not every file system takes O_DIRECT; the page cache will do there. The
	// claim belongs to the first descriptor, so this one asks for none.
	if direct, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0); err == nil {
		d.direct = direct
	}
	return nil
}

func (d *fileDevice) Size() int64 { return d.size }
func (d *fileDevice) Sector() int { return d.sector }

func (d *fileDevice) Close() error {
	if d.direct != nil {
		d.direct.Close()
	}
	return d.f.Close() // drops the claim and the lock
}

// canDirect reports whether a transfer may go past the page cache.
func (d *fileDevice) canDirect(p []byte, off int64) bool {
	return d.direct != nil && !d.noDirect.Load() && len(p) > 0 &&
		len(p)%directAlign == 0 && off%directAlign == 0 &&
		uintptr(unsafe.Pointer(&p[0]))%directAlign == 0
}

func (d *fileDevice) ReadAt(p []byte, off int64) (int, error) {
	if d.canDirect(p, off) {
		n, err := d.direct.ReadAt(p, off)
		if !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
		d.noDirect.Store(true)
	}
	return d.f.ReadAt(p, off)
}

func (d *fileDevice) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write of %d bytes at %d lies outside the disk of %d", len(p), off, d.size)
	}
	if d.canDirect(p, off) {
		n, err := d.direct.WriteAt(p, off)
		if !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
		d.noDirect.Store(true)
	}
	return d.f.WriteAt(p, off)
}

// Zero has the disk zero the range itself. For a block device the kernel offers
// that as punching a hole, and promises that it reads back as zeros or fails:
// many disks (most SATA ones) cannot, and get zeros written.
func (d *fileDevice) Zero(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.size {
		return fmt.Errorf("zeroing %d bytes at %d lies outside the disk of %d", n, off, d.size)
	}
	if n == 0 {
		return nil
	}
	if !d.noPunch.Load() {
		err := syscall.Fallocate(int(d.f.Fd()), fallocPunch, off, n)
		if err == nil {
			return nil
		}
		if err != syscall.EOPNOTSUPP && err != syscall.ENOSYS && err != syscall.EINVAL {
			return fmt.Errorf("zero %d bytes at %d: %w", n, off, err)
		}
		d.noPunch.Store(true)
	}
	zeros := alignedBuffer(int(min(n, 1<<20)))
	for n > 0 {
		part := zeros[:min(n, int64(len(zeros)))]
		if _, err := d.WriteAt(part, off); err != nil {
			return err
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}

func (d *fileDevice) Sync() error { return d.f.Sync() }

func (d *fileDevice) DropCache() {
	if d.block {
		// Failing is harmless where direct reads are possible, and elsewhere
		// the advice below still counts.
		_ = ioctl(d.f, blkFlsBuf, 0)
	}
	syscall.Syscall6(syscall.SYS_FADVISE64, d.f.Fd(), 0, 0, fadvDontNeed, 0, 0)
}

// Reread retries for a moment: whoever watches disks may hold a partition open
// just when the old table goes away.
func (d *fileDevice) Reread() error {
	if !d.block {
		return nil
	}
	var err error
	for range 5 {
		if err = ioctl(d.f, blkRRPart, 0); err != syscall.EBUSY {
			return err
		}
		time.Sleep(200 * time.Millisecond)
	}
	return err
}

func ioctl(f *os.File, req, arg uintptr) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), req, arg); errno != 0 {
		return errno
	}
	return nil
}

// alignedBuffer returns n bytes fit for direct transfers.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+directAlign)
	skip := 0
	if r := int(uintptr(unsafe.Pointer(&b[0])) % directAlign); r != 0 {
		skip = directAlign - r
	}
	return b[skip : skip+n : skip+n]
}

// chunkPool keeps chunk buffers for reuse.
type chunkPool struct{ p sync.Pool }

func (c *chunkPool) get(n int) []byte {
	if b, ok := c.p.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return alignedBuffer(max(n, chunkBytes))[:n]
}

func (c *chunkPool) put(b []byte) {
	b = b[:cap(b)]
	c.p.Put(&b)
}
