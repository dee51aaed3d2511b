package images

import (
	"errors"
	"fmt"
)

// ErrNotFound means that no manifest or chunk of that digest is kept here.
var ErrNotFound = errors.New("not found")

// ErrNotYet means that the fleet wants an image that, or a part of which, is not
// on this node, and that it could not be had from another just now. Asking again
// is right.
var ErrNotYet = errors.New("not on this node yet")

// ErrCorrupt means that bytes are not what their name promises: those of a file
// of the store, or those another node sent. A damaged chunk is fetched from other
// nodes; where there are none, importing the image again repairs it.
var ErrCorrupt = errors.New("stored bytes do not match their digest")

// RefusedError says why a file was not accepted as a disk image. The store is
// as it was before.
type RefusedError struct {
	Reason string // a sentence for the person who sent the file
}

// Error gives the reason.
func (e *RefusedError) Error() string { return "image refused: " + e.Reason }

// refuse makes a RefusedError.
func refuse(format string, args ...any) error {
	return &RefusedError{Reason: fmt.Sprintf(format, args...)}
}

// SpaceError says that an import or a copy would eat into the space kept free for
// the rest of the node, its log above all. All figures are bytes.
type SpaceError struct {
	Free    uint64 // free on the file system of the store
	Reserve uint64 // to be left free
	Need    uint64 // what is needed at least
}

// Error names the figures and what to do.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("not enough space for the image: %d MiB free, %d MiB are kept in reserve, at least %d MiB needed; delete images that are no longer used",
		e.Free>>20, e.Reserve>>20, e.Need>>20)
}
