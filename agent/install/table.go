package install

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// The end of an installed disk, from the last whole MiB backwards:
//
//	seed partition   4 MiB  first-boot data
//	(free)           1 MiB
//	journal          4 KiB  in a MiB of its own
//	(free)           1 MiB at least, with the backup table at its very end
const (
	mib = 1 << 20

	seedBytes    = 4 * mib
	seedFromEnd  = 7 * mib
	journalBack  = 2 * mib
	reserveBytes = 8 * mib
)

// SeedName is the GPT name of the partition that holds the first-boot seed.
const SeedName = "LPMOS-SEED"

// Range is a part of the disk that was changed on purpose, in bytes.
type Range struct {
	Offset, Length int64
	Reason         string
}

// table is what becomes of the image's partition table on the disk.
type table struct {
	head      []byte // the image's first chunk with the table of this disk
	backupOff int64
	backup    []byte // nil for an MBR
	seedOff   int64
	changed   []Range
	esp       *espPartition // nil when there is none
	notes     []string      // for the log
}

// espPartition is where firmware finds its loader.
type espPartition struct {
	number       uint32 // from 1
	first, count uint64 // sectors
	unique       guid
}

// tableWish is what planTable is to reach.
type tableWish struct {
	size   int64 // of the disk, bytes
	sector int
	image  int64 // size of the image, bytes
	grow   bool
	seedID guid
}

// planTable reads the table in the image's first chunk and makes the one the
// disk gets: fitted to the disk's size, the root partition grown, the seed
// partition added. Nothing is written.
func planTable(first []byte, w tableWish) (table, error) {
	t := table{head: bytes.Clone(first)}
	g, err := parseGPT(first, w.sector)
	switch {
	case err == nil:
		return t, t.planGPT(g, w)
	case !errors.Is(err, errNoGPT):
		return t, fmt.Errorf("the image's partition table is damaged: %w", err)
	case !hasMBR(first):
		return t, errors.New("the image has neither a GPT nor a boot record: it is no disk image")
	}
	return t, t.planMBR(w)
}

func (t *table) planGPT(g *gpt, w tableWish) error {
	sectors := uint64(w.size) / uint64(w.sector)
	t.seedOff = w.size/mib*mib - seedFromEnd
	seed := gptEntry{
		kind: typeBasicData, unique: w.seedID, name: SeedName,
		first: uint64(t.seedOff) / uint64(w.sector),
	}
	seed.last = seed.first + seedBytes/uint64(w.sector) - 1

	slot, root, lastStart := -1, -1, uint64(0)
	for i := range g.count() {
		e, used := g.entry(i)
		if !used || e.name == SeedName { // an image taken from a disk of ours
			if slot < 0 {
				slot = i
			}
			if used {
				g.setEntry(i, gptEntry{})
			}
			continue
		}
		if e.first > e.last || e.last >= uint64(w.image)/uint64(w.sector) {
			return fmt.Errorf("partition %d spans sectors %d to %d, outside the image", i+1, e.first, e.last)
		}
		if e.first*uint64(w.sector) < uint64(g.entryOffset())+uint64(len(g.entries)) {
			return fmt.Errorf("partition %d begins at sector %d, within the partition table", i+1, e.first)
		}
		if e.kind == typeESP && t.esp == nil {
			t.esp = &espPartition{number: uint32(i + 1), first: e.first, count: e.last - e.first + 1, unique: e.unique}
		}
		if e.first >= lastStart {
			lastStart, root = e.first, -1
			if slices.Contains(linuxTypes, e.kind) {
				root = i
			}
		}
	}
	if slot < 0 {
		return fmt.Errorf("the image's GPT is full: %w", errNoSlot)
	}
	switch {
	case w.grow && root >= 0:
		g.setLast(root, seed.first-1)
	case w.grow:
		t.notes = append(t.notes, "the image's last partition is no Linux partition and is not grown")
	}
	g.setEntry(slot, seed)
	g.fit(sectors)

	copy(t.head[w.sector:], g.header)
	copy(t.head[g.entryOffset():], g.entries)
	t.backupOff, t.backup = g.backup(sectors)
	t.changed = []Range{
		{int64(w.sector), int64(w.sector), "primary GPT header"},
		{g.entryOffset(), int64(len(g.entries)), "primary GPT entries"},
		{t.backupOff, int64(len(t.backup)), "backup GPT"},
	}
	t.fixProtective(sectors)
	return nil
}

// fixProtective makes the protective entry span the disk. A hybrid record,
// with partitions beside it, is left as the image's maker wanted it.
func (t *table) fixProtective(sectors uint64) {
	if !hasMBR(t.head) {
		return
	}
	at := -1
	for i := range 4 {
		switch e := mbrPartition(t.head, i); {
		case e.kind == mbrProtective && at < 0:
			at = i
		case e.kind != 0:
			t.notes = append(t.notes, "the image has a hybrid boot record, which stays as it is")
			return
		}
	}
	if at < 0 {
		return
	}
	e := mbrPartition(t.head, at)
	e.first, e.count = 1, uint32(min(sectors-1, 0xffffffff))
	setMBRPartition(t.head, at, e)
	t.changed = append(t.changed, Range{mbrEntries, 4 * mbrEntrySize, "protective MBR"})
}

func (t *table) planMBR(w tableWish) error {
	// What an MBR can address: the seed goes below its 32-bit horizon.
	usable := min(w.size, int64(w.sector)<<32)
	t.seedOff = usable/mib*mib - seedFromEnd
	seed := mbrEntry{
		kind:  mbrFAT16LBA,
		first: uint32(t.seedOff / int64(w.sector)),
		count: uint32(seedBytes / w.sector),
	}
	if t.seedOff < w.image {
		return errors.New("the image reaches beyond what a boot record can address; it needs a GPT")
	}
	slot, root, lastStart := -1, -1, uint32(0)
	for i := range 4 {
		e := mbrPartition(t.head, i)
		switch {
		case e.kind == mbrProtective:
			return errors.New("the image's boot record announces a GPT that is not there")
		case e.kind == 0 || e.count == 0:
			if slot < 0 {
				slot = i
			}
			continue
		case e.end() > uint64(w.image)/uint64(w.sector):
			return fmt.Errorf("partition %d ends at sector %d, outside the image", i+1, e.end())
		}
		if e.first >= lastStart {
			lastStart, root = e.first, -1
			if e.linux() {
				root = i
			}
		}
	}
	if lastStart == 0 {
		return errors.New("the image has no partitions: it is no disk image")
	}
	if slot < 0 {
		return fmt.Errorf("all four primary partitions of the image's boot record are taken: %w", errNoSlot)
	}
	switch {
	case w.grow && root >= 0:
		setMBRCount(t.head, root, seed.first-mbrPartition(t.head, root).first)
	case w.grow:
		t.notes = append(t.notes, "the image's last partition is no primary Linux partition and is not grown")
	}
	setMBRPartition(t.head, slot, seed)
	t.changed = []Range{{mbrEntries, 4 * mbrEntrySize, "MBR partitions"}}
	return nil
}

// errNoSlot says that there is no room for the seed: the image itself is sound,
// the way it is laid out does not serve here.
var errNoSlot = errors.New("no entry is left for the first-boot seed; free one, or use an image with an ordinary GPT")

// seedGUID names the seed partition after the install that made it.
func seedGUID(task string, generation uint64) guid {
	sum := sha256.Sum256(fmt.Appendf(nil, "lpmos seed %s %d", task, generation))
	g := guid(sum[:16])
	g[7] = g[7]&0x0f | 0x40 // version 4, as far as anybody can tell
	g[8] = g[8]&0x3f | 0x80
	return g
}
