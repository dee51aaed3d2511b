package appliance

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// ErrUnsealed says that a backup lies there for everybody to read, and that
// nobody has said that this is meant so.
var ErrUnsealed = errors.New("the backup is not encrypted, as lpmos once wrote them: whoever had it in hand may have altered it")

// ReadBackup reads a backup as lpmos backup writes it: sealed with a passphrase,
// which is asked for once the file is known to be so. What it says of its length
// and its digest is that of the file.
func ReadBackup(f *os.File, passphrase func() (sealed.Passphrase, error), unsealed bool) (consensus.BackupInfo, *fleet.State, error) {
	fail := func(err error) (consensus.BackupInfo, *fleet.State, error) {
		return consensus.BackupInfo{}, nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	is, err := sealed.Is(f)
	if err != nil {
		return consensus.BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	if !is {
		info, state, err := consensus.ReadBackup(f)
		switch {
		case err != nil:
			return fail(err)
		case !unsealed:
			return fail(ErrUnsealed)
		}
		return info, state, nil
	}
	p, err := passphrase()
	if err != nil {
		return consensus.BackupInfo{}, nil, err
	}
	sum := sha256.New()
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return consensus.BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	size, err := io.Copy(sum, f)
	if err != nil {
		return consensus.BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	plain, err := sealed.Open(f, size, p)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", consensus.ErrBackup, err))
	}
	info, state, err := consensus.ReadBackup(plain)
	if err != nil {
		return fail(err)
	}
	info.Bytes, info.SHA256 = size, fmt.Sprintf("%x", sum.Sum(nil))
	return info, state, nil
}
