package consensus

import (
	"errors"
	"fmt"
)

var (
	// ErrNotReady says that the command was not taken: the node is starting,
	// closing, or has no leader. Asking again later is safe.
	ErrNotReady = errors.New("this node cannot take commands now; try again")

	// ErrUncertain says that the command may or may not have been agreed on: the
	// node stopped, its disk failed or the caller gave up while it was under way.
	// Look at the state before asking again.
	ErrUncertain = errors.New("it is not known whether the command was carried out; look before you repeat it")

	// ErrCutOff says that no majority of the cluster is in reach: nothing was
	// taken, and nothing new can be decided until it is. It is an ErrNotReady.
	ErrCutOff = fmt.Errorf("this node cannot reach a majority of the cluster, so nothing new can be decided here: %w", ErrNotReady)

	// ErrNoSpace says that the disk has no room for the log.
	ErrNoSpace = errors.New("the disk of this node has no room for its log: nothing can be written until space is made; machines go on booting")

	// ErrTooOld says that the events asked for are no longer kept here, or never
	// were. Start again with SnapshotAndWatch.
	ErrTooOld = errors.New("the events asked for are not kept here any more; start again with a snapshot")

	// ErrSlow says that a watcher was cut because it did not keep up. Start again
	// with SnapshotAndWatch.
	ErrSlow = errors.New("the watcher did not keep up and was cut; start again with a snapshot")

	// ErrClosed says that the watcher or its node has been closed.
	ErrClosed = errors.New("watcher closed")

	// ErrCorrupt says that what lies in the data directory is not what was
	// written there.
	ErrCorrupt = errors.New("data directory is damaged; restore it from a backup, or take it away and let the node start anew")

	// ErrNewer says that the data directory was written by a newer version.
	ErrNewer = errors.New("made by a newer lpmos")

	// ErrInUse says that another process has the data directory open.
	ErrInUse = errors.New("data directory is in use")

	// ErrStorage says that the log could not be written, so the node stopped: it
	// could not keep what it would promise.
	ErrStorage = errors.New("the log cannot be written; the node has stopped: make room or mend the disk, then start it again")

	// ErrApply says that a committed entry could not be applied, so the node
	// stopped rather than go on with a state of its own.
	ErrApply = errors.New("a committed entry could not be applied; the node has stopped")
)
