package consensus

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// maxBackupHead bounds the first line, in bytes.
	maxBackupHead = 64 << 10
	// maxBackupState is many times the largest fleet: a file that unpacks to more
	// was made to fill somebody's memory.
	maxBackupState = 16 << 30
)

// ReadBackup reads a backup and gives its state. Nothing of it is looked at
// before its checksum was found right, but for the line that says what it is.
// Errors are ErrBackup, or what reading gave.
func ReadBackup(r io.ReadSeeker) (BackupInfo, *fleet.State, error) {
	info, length, head, err := checkBackup(r)
	if err != nil {
		return BackupInfo{}, nil, err
	}
	if _, err := r.Seek(head, io.SeekStart); err != nil {
		return BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	packed, err := zstd.NewReader(io.LimitReader(r, length-head), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return BackupInfo{}, nil, fmt.Errorf("read backup: %w", err)
	}
	defer packed.Close()
	sum, got := sha256.New(), counter(0)
	s, err := fleet.Restore(io.TeeReader(io.LimitReader(packed, maxBackupState), io.MultiWriter(sum, &got)))
	switch {
	case errors.Is(err, fleet.ErrNewerSnapshot):
		return BackupInfo{}, nil, fmt.Errorf("%w: it was %w: %w", ErrBackup, ErrNewer, err)
	case err != nil:
		return BackupInfo{}, nil, fmt.Errorf("%w: %w", ErrBackup, err)
	}
	said := info
	info.describe(s)
	if info != said {
		return BackupInfo{}, nil, fmt.Errorf("%w: it does not hold what it says: entry %d with %d machines and %d tasks, not entry %d with %d and %d",
			ErrBackup, info.Index, info.Machines, info.Tasks, said.Index, said.Machines, said.Tasks)
	}
	info.StateSHA256 = fmt.Sprintf("%x", sum.Sum(nil))
	return info, s, nil
}

// checkBackup makes sure that a backup is whole and of a kind that is known
// here. It gives how much of it stands before its last line, and how long its
// first is.
func checkBackup(r io.ReadSeeker) (info BackupInfo, length, head int64, err error) {
	size, err := r.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	if err != nil {
		return info, 0, 0, fmt.Errorf("read backup: %w", err)
	}
	first, err := bufio.NewReaderSize(io.LimitReader(r, maxBackupHead), maxBackupHead).ReadSlice('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return info, 0, 0, fmt.Errorf("read backup: %w", err)
	}
	if info, err = parseHead(first); err != nil {
		return info, 0, 0, err
	}
	length = size - backupEndBytes
	if length < int64(len(first)) {
		return info, 0, 0, fmt.Errorf("%w: it is cut short", ErrBackup)
	}
	if _, err := r.Seek(0, io.SeekStart); err != nil {
		return info, 0, 0, fmt.Errorf("read backup: %w", err)
	}
	sum := sha256.New()
	if _, err := io.CopyN(sum, r, length); err != nil {
		return info, 0, 0, fmt.Errorf("read backup: %w", err)
	}
	end, err := io.ReadAll(r)
	if err != nil {
		return info, 0, 0, fmt.Errorf("read backup: %w", err)
	}
	if string(end) != backupEnd(length, sum.Sum(nil)) {
		if !bytes.HasPrefix(end, []byte(backupFormat+"-end ")) {
			return info, 0, 0, fmt.Errorf("%w: its last line is not where it belongs: it was cut short, or something was written behind it", ErrBackup)
		}
		return info, 0, 0, fmt.Errorf("%w: its checksum is wrong: it was altered, or damaged on its way", ErrBackup)
	}
	sum.Write(end)
	info.Bytes, info.SHA256 = size, fmt.Sprintf("%x", sum.Sum(nil))
	return info, length, int64(len(first)), nil
}

func parseHead(line []byte) (BackupInfo, error) {
	var info BackupInfo
	if err := json.Unmarshal(line, &info); err != nil || info.Format != backupFormat || !bytes.HasSuffix(line, []byte("\n")) {
		return info, fmt.Errorf("%w: the file does not begin like one that lpmos backup has written", ErrBackup)
	}
	switch {
	case info.Version > backupVersion:
		return info, fmt.Errorf("%w: it was %w (version %d); restore it with that one", ErrBackup, ErrNewer, info.Version)
	case info.Version < 1:
		return info, fmt.Errorf("%w: it says that it is of version %d", ErrBackup, info.Version)
	case info.Encryption != "":
		return info, fmt.Errorf("%w: it is encrypted (%.40q), which this version of lpmos cannot read; use a newer one", ErrBackup, info.Encryption)
	case info.Packing != backupPacking:
		return info, fmt.Errorf("%w: it is packed as %.40q, which this version of lpmos cannot read; use a newer one", ErrBackup, info.Packing)
	}
	info.Bytes, info.SHA256, info.StateSHA256 = 0, "", ""
	return info, nil
}
