package consensus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// checked is a log whose entries carry a checksum: bbolt has none for its data,
// and a flipped bit may well be valid JSON. Without a guard it is one that is
// made or looked at before there is a node.
//
// An entry is kept as parts, each under a key of its own: its index and the number
// of the part. bbolt keeps at least four keys on a page, however large they are,
// and writes the last page again with every entry: whole entries of many commands
// were written four times.
type checked struct {
	bolt    *raftboltdb.BoltStore
	guard   *guard
	took    *histogram  // of writes
	damaged func(error) // told of an entry that is not what was written; does not return
}

const (
	// partBytes is the size of a part; two of them fill a page of 4 KiB.
	partBytes = 1900
	partBits  = 16 // an entry has no more than 65,536 parts: 118 MiB
)

func partKey(index uint64, part int) uint64 { return index<<partBits | uint64(part) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal stands in the first part of an entry: a checksum of the whole and how many
// parts there are.
func seal(l *raft.Log) []byte {
	head := make([]byte, 21)
	binary.BigEndian.PutUint64(head, l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	count := head[17:]
	binary.BigEndian.PutUint32(count, uint32(max(1, (len(l.Data)+partBytes-1)/partBytes)))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, l.Data)
	return binary.BigEndian.AppendUint32(append(make([]byte, 0, 8), count...), sum)
}

// parts is how many a seal tells of; 0 if it is none.
func parts(seal []byte) int {
	if len(seal) != 8 {
		return 0
	}
	return int(binary.BigEndian.Uint32(seal))
}

// FirstIndex is the index of the oldest entry, 0 if there is none.
func (c checked) FirstIndex() (uint64, error) {
	key, err := c.bolt.FirstIndex()
	return key >> partBits, err
}

// LastIndex is the index of the newest entry, 0 if there is none.
func (c checked) LastIndex() (uint64, error) {
	key, err := c.bolt.LastIndex()
	return key >> partBits, err
}

// StoreLog writes one entry.
func (c checked) StoreLog(l *raft.Log) error { return c.StoreLogs([]*raft.Log{l}) }

// StoreLogs writes entries; all are on disk when it returns, or none counts.
func (c checked) StoreLogs(logs []*raft.Log) error {
	out := make([]*raft.Log, 0, len(logs))
	for _, l := range logs {
		first := *l
		first.Index, first.Extensions = partKey(l.Index, 0), seal(l)
		n := parts(first.Extensions)
		if n > 1<<partBits {
			return fmt.Errorf("log entry %d has %d bytes, more than can be kept", l.Index, len(l.Data))
		}
		first.Data = l.Data[:min(partBytes, len(l.Data))]
		out = append(out, &first)
		for i := 1; i < n; i++ {
			out = append(out, &raft.Log{Index: partKey(l.Index, i), Term: l.Term, Type: l.Type,
				Data: l.Data[i*partBytes : min((i+1)*partBytes, len(l.Data))]})
		}
	}
	if c.guard == nil {
		return c.bolt.StoreLogs(out)
	}
	began := time.Now()
	defer func() { c.took.observe(time.Since(began)) }()
	return c.guard.write(func() error { return c.bolt.StoreLogs(out) },
		func() error { return c.DeleteRange(logs[0].Index, logs[len(logs)-1].Index) })
}

// GetLog reads an entry. In a running node one that is damaged ends it: Raft
// would panic over the error, or send the entry to others without it.
//
// The parts are read one after the other, and Raft takes entries away while it
// reads them: what looks damaged is believed only if the first part is still there
// as it was.
func (c checked) GetLog(i uint64, l *raft.Log) error {
	for {
		var e raft.Log
		if err := c.bolt.GetLog(partKey(i, 0), &e); err != nil {
			return err
		}
		own, term := string(e.Extensions), e.Term
		err := c.join(i, &e)
		if err == nil {
			*l = e
			return nil
		}
		if !errors.Is(err, ErrCorrupt) {
			return err
		}
		var again raft.Log
		if err := c.bolt.GetLog(partKey(i, 0), &again); err != nil {
			return err
		}
		if string(again.Extensions) != own || again.Term != term {
			continue
		}
		if c.damaged != nil {
			c.damaged(err)
		}
		return err
	}
}

// join makes a whole entry of its first part.
func (c checked) join(i uint64, l *raft.Log) error {
	own := l.Extensions
	wrong := l.Index != partKey(i, 0)
	if n := parts(own); n > 1 && n <= 1<<partBits {
		l.Data = slices.Grow(l.Data, (n-1)*partBytes)
	}
	for n := 1; n < parts(own) && !wrong; n++ {
		var p raft.Log
		err := c.bolt.GetLog(partKey(i, n), &p)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			wrong = true
		case err != nil:
			return err
		default:
			wrong = p.Index != partKey(i, n)
			l.Data = append(l.Data, p.Data...)
		}
	}
	if l.Index = i; wrong || string(own) != string(seal(l)) {
		return fmt.Errorf("%w: checksum of log entry %d is wrong", ErrCorrupt, i)
	}
	return nil
}

// DeleteRange takes entries away, from one index to another.
func (c checked) DeleteRange(from, to uint64) error {
	return c.bolt.DeleteRange(partKey(from, 0), partKey(to, 1<<partBits-1))
}
