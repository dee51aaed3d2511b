package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/lpmos/lpmos/agent/wire"
)

// journal says on the disk itself how far the install of a grant has come. It
// lies outside every partition and is read before anything is decided.
type journal struct {
	Marker   wire.Marker  `json:"marker"`
	PlanHash string       `json:"plan_hash"`
	State    journalState `json:"state"`
}

type journalState string

// The states, in their order. Each is on the medium before its work begins.
const (
	stateWiping     journalState = "wiping"     // old signatures go; no byte of the image is there
	stateWriting    journalState = "writing"    // chunks are written; the disk's first sector is zero
	stateCommitting journalState = "committing" // only the first sector is missing; once it is there, the grant is used
)

const (
	journalBytes  = 4096 // of one copy
	journalCopies = 2
	journalMagic  = "LPMOS-JOURNAL-1\n"
	journalHead   = len(journalMagic) + 4 + sha256.Size
)

// journalOffset is where the journal of a disk of size bytes lies.
func journalOffset(size int64) int64 { return size/mib*mib - journalBack }

// encode returns the journal's block: magic, length, SHA-256 and JSON.
func (j journal) encode() ([]byte, error) {
	body, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if len(body) > journalBytes-journalHead {
		return nil, fmt.Errorf("the journal of this grant takes %d bytes, %d is all there is", len(body), journalBytes-journalHead)
	}
	b := alignedBuffer(journalBytes)
	n := copy(b, journalMagic)
	binary.LittleEndian.PutUint32(b[n:], uint32(len(body)))
	sum := sha256.Sum256(body)
	copy(b[n+4:], sum[:])
	copy(b[journalHead:], body)
	return b, nil
}

// decodeJournal reads a block back. ok is false for anything that is not a
// whole journal: the disk then has none.
func decodeJournal(b []byte) (j journal, ok bool) {
	if len(b) < journalHead || string(b[:len(journalMagic)]) != journalMagic {
		return j, false
	}
	n := binary.LittleEndian.Uint32(b[len(journalMagic):])
	if int64(n) > int64(len(b)-journalHead) {
		return j, false
	}
	body := b[journalHead:][:n]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], b[len(journalMagic)+4:journalHead]) {
		return j, false
	}
	if json.Unmarshal(body, &j) != nil {
		return journal{}, false
	}
	return j, true
}

// readJournal returns the journal of a disk, if it has one. Of its two copies
// the first whole one counts: a copy torn by a power cut leaves the other.
func readJournal(d Device) (j journal, ok bool, err error) {
	for i := range int64(journalCopies) {
		b := alignedBuffer(journalBytes)
		if _, err := d.ReadAt(b, journalOffset(d.Size())+i*journalBytes); err != nil {
			return j, false, fmt.Errorf("read the journal: %w", err)
		}
		if j, ok = decodeJournal(b); ok {
			return j, true, nil
		}
	}
	return j, false, nil
}

// write puts the journal on the medium and returns when it is there.
func (j journal) write(d Device) error {
	b, err := j.encode()
	if err != nil {
		return err
	}
	for i := range int64(journalCopies) {
		if _, err := d.WriteAt(b, journalOffset(d.Size())+i*journalBytes); err != nil {
			return fmt.Errorf("write the journal: %w", err)
		}
		if err := d.Sync(); err != nil {
			return fmt.Errorf("write the journal: %w", err)
		}
	}
	return nil
}
