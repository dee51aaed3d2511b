package install

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// tool returns the path of a program the test checks results with.
func tool(t testing.TB, name, pkg string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin/", "/sbin/", "/usr/bin/"} {
		if _, err := os.Stat(dir + name); err == nil {
			return dir + name
		}
	}
	t.Skipf("%s is missing: apt-get install %s", name, pkg)
	return ""
}

// sh runs a program and fails the test when it does.
func sh(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// noise fills b with bytes that depend on the seed alone.
func noise(b []byte, seed uint64) {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
}

// images keeps what gptImage made, by size, and the old disks by its negative.
var images sync.Map

// gptImage makes an image of whole MiB with a BIOS boot partition, an ESP and a
// root partition at its end, the latter in chunks from 3 on; chunk 2 is zero.
func gptImage(t testing.TB, size int) []byte {
	t.Helper()
	if image, ok := images.Load(size); ok {
		return bytes.Clone(image.([]byte))
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, tool(t, "sgdisk", "gdisk"), "-a1",
		"-n1:2048:4095", "-t1:ef02", "-n2:4096:20479", "-t2:ef00", "-n3:24576:0", "-t3:8300", path)
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	noise(image[:440], 1) // boot code
	noise(image[2*mib:3*mib], 2)
	noise(image[5*mib:6*mib], 3)
	for at := 12 * mib; at+mib <= size-mib; at += mib {
		noise(image[at:at+mib/8], uint64(at)) // the rest compresses well
	}
	images.Store(size, bytes.Clone(image))
	return image
}

// manifestOf cuts an image into chunks.
func manifestOf(image []byte, sector int) wire.Manifest {
	m := wire.Manifest{Version: 1, SizeBytes: uint64(len(image)), ChunkBytes: chunkBytes, SectorBytes: sector}
	for off := 0; off < len(image); off += chunkBytes {
		chunk := image[off:min(off+chunkBytes, len(image))]
		name := ""
		if !allZero(chunk) {
			name = digest(chunk)
		}
		m.Chunks = append(m.Chunks, name)
	}
	return m
}

// memSource is a node in memory.
type memSource struct {
	man     wire.Manifest
	members map[int][]byte

	mu       sync.Mutex
	fetches  map[int]int // by chunk
	got      map[int]bool
	bad      []wire.BadChunk
	requests int
	// fault may spoil an attempt, counted from 1, to fetch a chunk.
	fault func(index, attempt int, member []byte) (io.ReadCloser, error)
	// next may spoil a request, counted from 1.
	next func(n int, req wire.NextRequest) (wire.NextResponse, error)
}

func newSource(t testing.TB, image []byte, sector int) *memSource {
	t.Helper()
	s := &memSource{man: manifestOf(image, sector), members: map[int][]byte{}, fetches: map[int]int{}, got: map[int]bool{}}
	for i, name := range s.man.Chunks {
		if name != "" {
			off := i * chunkBytes
			s.members[i] = gz(t, image[off:off+s.man.ChunkLen(i)])
		}
	}
	return s
}

// again is a source of the same image to which nothing has happened.
func (s *memSource) again() *memSource {
	return &memSource{man: s.man, members: s.members, fetches: map[int]int{}, got: map[int]bool{}}
}

// gz makes a member that is quick to inflate: compression is not what the tests
// are about.
func gz(t testing.TB, raw []byte) []byte { return gzLevel(t, raw, gzip.NoCompression) }

func gzLevel(t testing.TB, raw []byte, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, level)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(raw)
	w.Close()
	return b.Bytes()
}

func (s *memSource) Manifest(context.Context, string) (wire.Manifest, error) { return s.man, nil }

func (s *memSource) Next(_ context.Context, req wire.NextRequest) (wire.NextResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	if s.next != nil {
		if resp, err := s.next(s.requests, req); err != nil || resp.Fetch != nil || resp.RetryAfterMS != 0 {
			return resp, err
		}
	}
	for _, i := range req.Got {
		s.got[i] = true
	}
	s.bad = append(s.bad, req.Bad...)
	var resp wire.NextResponse
	for _, i := range req.Need {
		resp.Fetch = append(resp.Fetch, wire.ChunkSource{Index: i, URL: fmt.Sprint(i)})
	}
	return resp, nil
}

func (s *memSource) Fetch(_ context.Context, url string) (io.ReadCloser, error) {
	var i int
	fmt.Sscan(url, &i)
	s.mu.Lock()
	s.fetches[i]++
	attempt, fault := s.fetches[i], s.fault
	s.mu.Unlock()
	if fault != nil {
		if rc, err := fault(i, attempt, s.members[i]); rc != nil || err != nil {
			return rc, err
		}
	}
	return io.NopCloser(bytes.NewReader(s.members[i])), nil
}

// grantFor approves a disk of size bytes for an image.
func grantFor(m wire.Manifest, size int64, contents wire.Contents) wire.Grant {
	p := wire.Plan{
		MachineID: "m1", MACs: []string{"52:54:00:00:00:01"}, InventoryHash: "inv",
		Erase: wire.PlanDisk{
			DiskID: wire.DiskID{WWN: "wwn-1", Serial: "SN1", SizeBytes: uint64(size)},
			Name:   "sda", LogicalSector: m.SectorBytes, Contents: contents,
		},
		Image:  wire.PlanImage{Name: "test", Digest: m.Digest(), SizeBytes: m.SizeBytes},
		Layout: wire.Layout{GrowRoot: true},
		FirstBoot: wire.FirstBoot{
			Hostname: "node1", SSHKeys: []string{`ssh-ed25519 AAAA "me"`},
		},
	}
	return wire.Grant{TaskID: "task-1", Generation: 3, Plan: p, PlanHash: p.Hash(), PhoneHome: "http://10.0.0.1/up/tok"}
}

// approved is a candidate that is the disk of grantFor.
func approved(g wire.Grant, path string) Candidate {
	e := g.Plan.Erase
	return Candidate{Path: path, Disk: wire.Disk{
		Name: "sdb", WWN: e.WWN, Serial: e.Serial, SizeBytes: e.SizeBytes,
		LogicalSector: e.LogicalSector, Contents: e.Contents,
	}}
}

// at once: waiting is not what the tests are about.
func atOnce(time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

// installTo runs the grant on a device in memory.
func installTo(ctx context.Context, g wire.Grant, s Source, d Device, change func(*Options)) error {
	opt := Options{
		Allowed: good,
		Grant:   g, Source: s, After: atOnce,
		Disks: func() ([]Candidate, error) { return []Candidate{approved(g, "")}, nil },
		Open:  func(Candidate) (Device, error) { return d, nil },
	}
	if change != nil {
		change(&opt)
	}
	return Run(ctx, opt)
}

var errPower = errors.New("the power is gone")

// memDisk is a disk with a volatile write cache. After writesLeft writes the
// power goes, and what was not synced may be there, in whole or in part.
type memDisk struct {
	sector int

	mu         sync.Mutex
	view       []byte // what reads see
	medium     []byte // what has been synced
	pending    []memWrite
	writes     int
	writesLeft int // negative: for ever
	dead       bool
	// spoil may change what a write puts on the disk.
	spoil func(off int64, p []byte) []byte
}

type memWrite struct {
	off int64
	p   []byte
}

func newMemDisk(size, sector int) *memDisk {
	return &memDisk{sector: sector, view: make([]byte, size), medium: make([]byte, size), writesLeft: -1}
}

func (d *memDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return 0, errPower
	}
	return copy(p, d.view[off:]), nil
}

func (d *memDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if int(off)%d.sector != 0 || len(p)%d.sector != 0 || int(off)+len(p) > len(d.view) {
		return 0, fmt.Errorf("write of %d at %d", len(p), off)
	}
	if d.dead || d.writesLeft == 0 {
		d.dead = true
		return 0, errPower
	}
	d.writesLeft--
	d.writes++
	p = bytes.Clone(p)
	if d.spoil != nil {
		p = d.spoil(off, p)
	}
	copy(d.view[off:], p)
	d.pending = append(d.pending, memWrite{off, p})
	return len(p), nil
}

func (d *memDisk) Zero(off, n int64) error {
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

func (d *memDisk) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.dead {
		return errPower
	}
	for _, w := range d.pending {
		copy(d.medium[w.off:], w.p)
	}
	d.pending = nil
	return nil
}

// afterPowerLoss is the disk as it comes up again: of each write that was not
// synced, any of its sectors may be there.
func (d *memDisk) afterPowerLoss(r *rand.Rand) *memDisk {
	for _, w := range d.pending {
		switch r.IntN(3) {
		case 0:
		case 1:
			copy(d.medium[w.off:], w.p)
		case 2:
			for at := 0; at < len(w.p); at += d.sector {
				if r.IntN(2) == 0 {
					copy(d.medium[int(w.off)+at:], w.p[at:at+d.sector])
				}
			}
		}
	}
	return &memDisk{sector: d.sector, view: bytes.Clone(d.medium), medium: d.medium, writesLeft: -1}
}

func (d *memDisk) DropCache()    {}
func (d *memDisk) Reread() error { return nil }
func (d *memDisk) Size() int64   { return int64(len(d.view)) }
func (d *memDisk) Sector() int   { return d.sector }
func (d *memDisk) Close() error  { return nil }
