package images

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/lpmos/lpmos/agent/wire"
)

// ImportOptions tune one import; the zero value imports whatever is a disk.
type ImportOptions struct {
	// SHA256 is what the bytes must be, in hex: of the file as given or of the
	// raw disk in it. Empty means not stated.
	SHA256 string
	// FileBytes is the size of the file as given, 0 when unknown. It is used to
	// refuse early when space is short, and for Progress.
	FileBytes uint64
	// MaxBytes is the largest file that ImportFile takes; 0 means what an image may have.
	MaxBytes uint64
	// Progress, if set, is called every few MiB from one goroutine.
	Progress func(ImportProgress)
}

// ImportProgress is how far an import has come, in bytes.
type ImportProgress struct {
	FileRead  uint64 // of the file as given
	FileBytes uint64 // its size, 0 when unknown
	RawBytes  uint64 // of the raw disk
}

// Import cuts a disk image into chunks and keeps it. The file may be raw or
// packed with gzip, xz or zstd. What is no bootable disk image, is cut short, is
// over the size limit or does not have the stated SHA-256 gets a *RefusedError;
// a *SpaceError says that the disk of the node is too full. After any error the
// store is as it was. The image is durable when Import returns.
func (s *Store) Import(ctx context.Context, r io.Reader, opts ImportOptions) (wire.Manifest, string, error) {
	want := strings.ToLower(opts.SHA256)
	if want != "" && !wire.IsDigest(want) {
		return wire.Manifest{}, "", refuse("the stated SHA-256 %.80q is not 64 hex digits", opts.SHA256)
	}
	// Little compresses better than 3:1 and zeros take nothing, so a raw file
	// needs about a third of its size; a packed one what it has.
	if err := s.checkSpace(opts.FileBytes / 3); err != nil {
		return wire.Manifest{}, "", err
	}
	imp := &importing{store: s, opts: opts, claimed: map[string]bool{}}
	m, err := imp.run(ctx, r, want)
	if err == nil {
		var digest string
		if digest, err = imp.finish(m); err == nil {
			return m, digest, nil
		}
	}
	return wire.Manifest{}, "", errors.Join(err, s.release(imp.claimed))
}

// importing is one import under way.
type importing struct {
	store *Store
	opts  ImportOptions

	mu      sync.Mutex
	claimed map[string]bool // chunks this import counts on
}

// run reads the file to its end and stores its chunks.
func (imp *importing) run(ctx context.Context, r io.Reader, want string) (wire.Manifest, error) {
	fileSum, rawSum := sha256.New(), sha256.New()
	src := &readerContext{ctx: ctx, r: r, limit: imp.store.opts.MaxBytes}
	packed := bufio.NewReaderSize(io.TeeReader(src, fileSum), 64<<10)
	unpacked, kind, err := unpack(packed)
	if err != nil {
		return wire.Manifest{}, errors.Join(src.err, err)
	}
	defer unpacked.Close()

	raw := bufio.NewReaderSize(io.TeeReader(unpacked, rawSum), headBytes)
	head, err := raw.Peek(headBytes)
	if err != nil && err != io.EOF {
		return wire.Manifest{}, readError(src, kind, err)
	}
	d, err := inspectDisk(head)
	if err != nil {
		return wire.Manifest{}, err
	}
	m := wire.Manifest{Version: 1, ChunkBytes: wire.ChunkBytes, SectorBytes: d.sector}
	if err := imp.cut(ctx, src, raw, kind, &m); err != nil {
		return wire.Manifest{}, err
	}
	switch {
	case m.SizeBytes%uint64(d.sector) != 0:
		return wire.Manifest{}, refuse("its %d bytes are not a whole number of %d-byte sectors: the file is cut short or is no disk", m.SizeBytes, d.sector)
	case m.SizeBytes < d.minBytes:
		return wire.Manifest{}, refuse("cut short: it has %d bytes, its partition table speaks of %d", m.SizeBytes, d.minBytes)
	}
	// Bytes behind the packed data belong to the file whose sum may be stated.
	if _, err := io.Copy(io.Discard, packed); err != nil {
		return wire.Manifest{}, errors.Join(src.err, err)
	}
	if err := checkSum(want, fileSum, rawSum); err != nil {
		return wire.Manifest{}, err
	}
	return m, nil
}

// buffers are chunks as they are read.
var buffers = sync.Pool{New: func() any { return new([wire.ChunkBytes]byte) }}

// cut reads the raw disk chunk by chunk; several are packed at once.
func (imp *importing) cut(ctx context.Context, src *readerContext, raw io.Reader, kind compression, m *wire.Manifest) error {
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	failed := make(chan struct{})
	var failOnce sync.Once

	loop := func() error {
		for {
			select {
			case <-failed:
				return nil // Wait has the reason
			default:
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			buf := buffers.Get().(*[wire.ChunkBytes]byte)
			n, last, err := fill(raw, buf[:])
			if err != nil {
				return readError(src, kind, err)
			}
			if n == 0 {
				return nil
			}
			m.SizeBytes += uint64(n)
			if m.SizeBytes > imp.store.opts.MaxBytes {
				return refuse("it unpacks to more than the limit of %d MiB", imp.store.opts.MaxBytes>>20)
			}
			index := len(m.Chunks)
			name := chunkName(buf[:n])
			m.Chunks = append(m.Chunks, name)
			if index%16 == 0 {
				if err := imp.store.checkSpace(wire.ChunkBytes); err != nil {
					return err
				}
			}
			if imp.opts.Progress != nil {
				imp.opts.Progress(ImportProgress{FileRead: src.n, FileBytes: imp.opts.FileBytes, RawBytes: m.SizeBytes})
			}
			if name == "" || !imp.claim(name) {
				buffers.Put(buf)
			} else {
				workers.Go(func() error {
					defer buffers.Put(buf)
					err := imp.store.putChunk(name, buf[:n])
					if err != nil {
						failOnce.Do(func() { close(failed) })
					}
					return err
				})
			}
			if last {
				return nil
			}
		}
	}
	err := loop()
	return errors.Join(err, workers.Wait())
}

// fill reads until buf is full or r ends cleanly. io.ReadFull will not do: it
// says io.ErrUnexpectedEOF both for a last short chunk and for a packed file
// that was cut short.
func fill(r io.Reader, buf []byte) (n int, last bool, err error) {
	for n < len(buf) {
		k, err := r.Read(buf[n:])
		n += k
		if err == io.EOF {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
	return n, false, nil
}

// claim counts on a chunk from now on; false means this import does already.
func (imp *importing) claim(name string) bool {
	imp.mu.Lock()
	defer imp.mu.Unlock()
	if imp.claimed[name] {
		return false
	}
	imp.claimed[name] = true
	imp.store.claim(name)
	return true
}

// finish makes the chunks' names durable and then the manifest, in that order: an
// import that was acknowledged has all its chunks on disk, whatever crashes.
func (imp *importing) finish(m wire.Manifest) (string, error) {
	s := imp.store
	shards := map[string]bool{s.path("chunks"): true}
	for name := range imp.claimed {
		shards[filepath.Dir(s.chunkPath(name))] = true
	}
	for dir := range shards {
		if err := syncDir(dir); err != nil {
			return "", fmt.Errorf("store chunks: %w", err)
		}
	}
	return s.commit(m)
}

// readError tells a source that broke off from a file that is damaged.
func readError(src *readerContext, kind compression, err error) error {
	switch {
	case src.err != nil:
		return src.err
	case kind == packedNot:
		return fmt.Errorf("read image: %w", err)
	}
	return refuse("its %s data is damaged, cut short or over the limits: %v", kind, err)
}

// checkSum compares a stated SHA-256 with the file's and the raw disk's.
func checkSum(want string, file, raw hash.Hash) error {
	if want == "" {
		return nil
	}
	gotFile, gotRaw := hex.EncodeToString(file.Sum(nil)), hex.EncodeToString(raw.Sum(nil))
	if want == gotFile || want == gotRaw {
		return nil
	}
	return refuse("its bytes do not match the stated SHA-256 %s: the file has %s, the raw disk in it %s", want, gotFile, gotRaw)
}
