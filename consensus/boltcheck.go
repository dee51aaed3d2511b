package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// checkBolt reads a bbolt file (format 2) page by page and refuses one whose
// pages do not form the trees it says it holds. bbolt trusts its file: it maps
// it into memory and follows page numbers in goroutines of its own, where a
// damaged page, or a key that its parent does not announce, ends the process
// instead of giving an error; so nothing may be let through that it looks for. Values are not
// looked at: log entries carry checksums.
func checkBolt(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	return checkPages(f, fi.Size())
}

// CheckBoltFile does the same for the file of another package, which holds none but
// these buckets. One that is not there or empty is about to be made.
func CheckBoltFile(path string, buckets ...string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	c := &boltChecker{f: f, reached: map[uint64]struct{}{}}
	root, err := c.meta(fi.Size())
	if err == nil {
		_, err = c.tree(root, nil, nil)
	}
	for _, b := range c.buckets {
		if err == nil && !slices.Contains(buckets, b) {
			err = fmt.Errorf("it holds a bucket %.20q", b)
		}
	}
	return err
}

func checkPages(f io.ReaderAt, size int64) error {
	c := &boltChecker{f: f, reached: map[uint64]struct{}{}}
	root, err := c.meta(size)
	if err != nil {
		return err
	}
	if _, err = c.tree(root, nil, nil); err != nil {
		return err
	}
	// A bucket under another name would be made anew, and empty.
	slices.Sort(c.buckets)
	if !slices.Equal(c.buckets, []string{bucketConf, bucketLogs}) {
		return fmt.Errorf("it holds the buckets %q", c.buckets)
	}
	return nil
}

// The buckets of raft-boltdb.
const (
	bucketConf = "conf"
	bucketLogs = "logs"
)

// The sizes and flags of bbolt's file format.
const (
	boltMagic      = 0xED0CDAED
	boltPageHeader = 16 // id u64, flags u16, count u16, overflow u32
	boltElement    = 16
	boltMetaBytes  = 64
	boltBranch     = 1
	boltLeaf       = 2
	boltIsBucket   = 1 // of a leaf's element
)

type boltChecker struct {
	f        io.ReaderAt
	pageSize int64
	end      uint64 // the first page never used
	reached  map[uint64]struct{}
	buckets  []string // their names; the last is the one that is being looked at
}

// meta finds the newest of the two roots. Both have to be readable: bbolt would go
// back to the older one without a word, and what was acknowledged last be gone. A
// write that was cut off is no excuse, for a root lies within one sector.
func (c *boltChecker) meta(fileSize int64) (root uint64, err error) {
	newest, found := uint64(0), 0
	places := []int64{0, 4096, 16384, 65536}
	if own := int64(os.Getpagesize()); !slices.Contains(places, own) {
		places = append(places, own)
	}
	for _, at := range places {
		b := make([]byte, boltMetaBytes)
		if _, err := c.f.ReadAt(b, at+boltPageHeader); err != nil {
			continue
		}
		sum := fnv.New64a()
		sum.Write(b[:56]) //nolint:errcheck // never fails
		pageSize := int64(binary.NativeEndian.Uint32(b[8:]))
		if binary.NativeEndian.Uint32(b) != boltMagic || binary.NativeEndian.Uint32(b[4:]) != 2 ||
			binary.NativeEndian.Uint64(b[56:]) != sum.Sum64() || pageSize < 1024 || at != 0 && at != pageSize {
			continue
		}
		found++
		if txid := binary.NativeEndian.Uint64(b[48:]); found == 1 || txid > newest {
			newest = txid
			root, c.end, c.pageSize = binary.NativeEndian.Uint64(b[16:]), binary.NativeEndian.Uint64(b[40:]), pageSize
		}
	}
	switch {
	case found == 0:
		return 0, errors.New("neither root can be read")
	case found == 1:
		return 0, errors.New("one of the two roots cannot be read")
	case c.end > uint64(fileSize/c.pageSize):
		return 0, fmt.Errorf("the file has %d bytes, too few for its %d pages", fileSize, c.end)
	}
	return root, nil
}

// page reads a page with its overflow, which nothing else may have reached.
func (c *boltChecker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.end {
		return nil, fmt.Errorf("page %d is outside of the file's %d", id, c.end)
	}
	head := make([]byte, boltPageHeader)
	if _, err := c.f.ReadAt(head, int64(id)*c.pageSize); err != nil {
		return nil, err
	}
	pages := 1 + uint64(binary.NativeEndian.Uint32(head[12:]))
	if own := binary.NativeEndian.Uint64(head); own != id || pages > c.end-id {
		return nil, fmt.Errorf("page %d says it is %d and %d pages long", id, own, pages)
	}
	for i := id; i < id+pages; i++ {
		if _, twice := c.reached[i]; twice {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		c.reached[i] = struct{}{}
	}
	b := make([]byte, int64(pages)*c.pageSize)
	_, err := c.f.ReadAt(b, int64(id)*c.pageSize)
	return b, err
}

// tree checks a page and all below it. Its keys have to lie from min on and
// before end, where those are given: that is what the page above says of them.
// It returns the greatest key.
func (c *boltChecker) tree(id uint64, min, end []byte) (greatest []byte, err error) {
	b, err := c.page(id)
	if err != nil {
		return nil, err
	}
	return c.elements(b, id, min, end)
}

// elements checks the entries of a page, which may lie inside another's value
// as a small bucket does.
func (c *boltChecker) elements(b []byte, id uint64, min, end []byte) (greatest []byte, err error) {
	flags, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	if flags != boltBranch && flags != boltLeaf || flags == boltBranch && count == 0 {
		return nil, fmt.Errorf("page %d is of kind %#x with %d entries", id, flags, count)
	}
	if boltPageHeader+count*boltElement > len(b) {
		return nil, fmt.Errorf("page %d has no room for %d entries", id, count)
	}
	keys, values := make([][]byte, count), make([][]byte, count)
	for i := range count {
		at := boltPageHeader + i*boltElement
		e := b[at : at+boltElement]
		u32 := func(o int) uint64 { return uint64(binary.NativeEndian.Uint32(e[o:])) }
		pos, keyLen, valueLen := u32(0), u32(4), uint64(0)
		if flags == boltLeaf {
			pos, keyLen, valueLen = u32(4), u32(8), u32(12)
		}
		from := uint64(at) + pos
		if pos < boltElement || from+keyLen+valueLen > uint64(len(b)) {
			return nil, fmt.Errorf("entry %d of page %d lies outside of it", i, id)
		}
		keys[i], values[i] = b[from:from+keyLen], b[from+keyLen:from+keyLen+valueLen]
	}
	last := min
	for i, key := range keys {
		order := -1
		if last != nil {
			order = bytes.Compare(last, key)
		}
		if order > 0 || order == 0 && i > 0 || end != nil && bytes.Compare(key, end) >= 0 {
			return nil, fmt.Errorf("entry %d of page %d is out of order", i, id)
		}
		last = key
		e := b[boltPageHeader+i*boltElement:]
		kind := binary.NativeEndian.Uint32(e)
		switch {
		case flags == boltBranch:
			next := end
			if i+1 < count {
				next = keys[i+1]
			}
			last, err = c.tree(binary.NativeEndian.Uint64(e[8:]), key, next)
		case kind == boltIsBucket:
			c.buckets = append(c.buckets, string(key))
			err = c.bucket(values[i], id)
		case kind == 0 && c.within(bucketConf) && !slices.Contains([]string{keyTerm, keyVoteTerm, keyVoteCand}, string(key)):
			err = fmt.Errorf("entry %d of page %d is %q, which nobody has put there", i, id, key)
		case kind != 0:
			err = fmt.Errorf("entry %d of page %d is of kind %#x", i, id, kind)
		}
		if err != nil {
			return nil, err
		}
	}
	if count == 0 {
		return nil, nil
	}
	return last, nil
}

func (c *boltChecker) within(bucket string) bool {
	return len(c.buckets) > 0 && c.buckets[len(c.buckets)-1] == bucket
}

// bucket checks a bucket's root, or the page that follows in its own value.
func (c *boltChecker) bucket(value []byte, id uint64) error {
	if len(value) < 16 {
		return fmt.Errorf("a bucket on page %d has no root", id)
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		_, err := c.tree(root, nil, nil)
		return err
	}
	if len(value) < 16+boltPageHeader {
		return fmt.Errorf("a bucket on page %d is cut", id)
	}
	_, err := c.elements(value[16:], id, nil, nil)
	return err
}
