package install

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/lpmos/lpmos/agent/wire"
)

// Candidate is a disk of the machine as it is now.
type Candidate struct {
	wire.Disk
	Path  string // to open it by: "/dev/sda"
	InUse string // why it must not be written: "mounted on /mnt"; empty if nothing speaks against it
}

// choose finds the one disk that has the approved identity. Where the kernel
// put it this time does not matter, nor whether it is removable: nodes plan such a
// disk only for a person who named it.
func choose(disks []Candidate, want wire.DiskID) (Candidate, error) {
	if !want.Known() {
		return Candidate{}, fail(wire.CodePlanMismatch, nil, "the approved disk has neither a WWN nor a serial number: it cannot be told from others")
	}
	var found []Candidate
	for _, c := range disks {
		if matches(c.ID(), want) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 0:
		return Candidate{}, fail(wire.CodePlanMismatch, nil, "the approved disk %s is not in this machine; it has %s", describe(want), describeAll(disks))
	case 1:
	default:
		return Candidate{}, fail(wire.CodePlanMismatch, nil, "%d disks answer to %s: %s", len(found), describe(want), describeAll(found))
	}
	c := found[0]
	switch {
	case c.ReadOnly:
		return c, fail(wire.CodeDiskError, nil, "the disk %s is write-protected", describe(want))
	case c.InUse != "":
		return c, fail(wire.CodeDiskBusy, nil, "the disk %s is in use: %s", describe(want), c.InUse)
	}
	return c, nil
}

// matches reports whether a disk is the wanted one. What the plan does not name
// (some disks have no WWN) is not compared; all it names has to be equal.
func matches(have, want wire.DiskID) bool {
	return have.SizeBytes == want.SizeBytes &&
		(want.WWN == "" || have.WWN == want.WWN) &&
		(want.Serial == "" || have.Serial == want.Serial)
}

func describe(id wire.DiskID) string {
	var parts []string
	if id.Serial != "" {
		parts = append(parts, fmt.Sprintf("serial %q", id.Serial))
	}
	if id.WWN != "" {
		parts = append(parts, fmt.Sprintf("WWN %q", id.WWN))
	}
	parts = append(parts, fmt.Sprintf("%d bytes", id.SizeBytes))
	return strings.Join(parts, ", ")
}

func describeAll(disks []Candidate) string {
	if len(disks) == 0 {
		return "none"
	}
	var parts []string
	for _, c := range disks {
		parts = append(parts, c.Name+" ("+describe(c.ID())+")")
	}
	return strings.Join(parts, "; ")
}

// openFailed words why a disk could not be opened.
func openFailed(c Candidate, err error) error {
	if errors.Is(err, syscall.EBUSY) || errors.Is(err, syscall.EWOULDBLOCK) {
		return fail(wire.CodeDiskBusy, err, "the disk %s is in use (mounted, in an array or being installed)", describe(c.ID()))
	}
	return fail(wire.CodeDiskError, err, "the disk %s cannot be opened for writing", describe(c.ID()))
}

// sameContents compares what lies on the disk with what the person approving
// was shown. Both come as JSON, which knows no difference between an empty list
// and none.
func sameContents(now, then wire.Contents) bool {
	return bytes.Equal(mustJSON(now), mustJSON(then))
}

// fail makes the error of a failed install. The cause, if any, becomes its
// details.
func fail(code string, cause error, format string, args ...any) error {
	e := &wire.TaskError{Code: code, Message: fmt.Sprintf(format, args...)}
	if cause != nil {
		e.Details = cause.Error()
	}
	return e
}
