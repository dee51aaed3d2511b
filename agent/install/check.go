package install

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/lpmos/lpmos/agent/wire"
)

// check makes sure that everything is as it was approved and that the install
// can succeed. It writes nothing.
func (in *installer) check(ctx context.Context) error {
	if in.Grant.PlanHash != in.plan.Hash() {
		return fail(wire.CodePlanMismatch, nil, "the plan in the grant is not the one that was approved")
	}
	if err := in.openDisk(); err != nil {
		return err
	}
	if err := in.checkContents(); err != nil {
		return err
	}
	if err := in.checkImage(ctx); err != nil {
		return err
	}
	in.journal = journal{Marker: marker(in.Grant), PlanHash: in.Grant.PlanHash}
	if _, err := in.journal.encode(); err != nil {
		return fail(wire.CodeInternal, err, "the grant cannot be noted on the disk")
	}
	return nil
}

// openDisk finds the approved disk and claims it, so that it cannot change
// between being looked at and being written.
func (in *installer) openDisk() error {
	disks, err := in.Disks()
	if err != nil {
		return fail(wire.CodeInternal, err, "the machine's disks cannot be listed")
	}
	if in.cand, err = choose(disks, in.plan.Erase.DiskID); err != nil {
		return err
	}
	if in.disk, err = in.Open(in.cand); err != nil {
		return openFailed(in.cand, err)
	}
	// The list is older than the claim: a disk may have been changed for another
	// under its name. From here on the name is held, so looking again is final.
	if disks, err = in.Disks(); err != nil {
		return fail(wire.CodeInternal, err, "the machine's disks cannot be listed")
	}
	held, err := choose(disks, in.plan.Erase.DiskID)
	if err != nil {
		return err
	}
	if held.Path != in.cand.Path {
		return fail(wire.CodePlanMismatch, nil, "the disks were changed while they were looked at: %s is %s now, it was %s", describe(held.ID()), held.Path, in.cand.Path)
	}
	in.cand = held
	if size := in.disk.Size(); uint64(size) != in.plan.Erase.SizeBytes {
		return fail(wire.CodePlanMismatch, nil, "the approved disk has %d bytes, this one %d", in.plan.Erase.SizeBytes, size)
	}
	if in.disk.Size() < reserveBytes {
		return fail(wire.CodeDiskTooSmall, nil, "the disk has only %d bytes", in.disk.Size())
	}
	return nil
}

// checkContents compares what lies on the disk with the plan, unless it is this
// very grant that has begun to overwrite it.
func (in *installer) checkContents() error {
	old, found, err := readJournal(in.disk)
	if err != nil {
		return fail(wire.CodeDiskError, err, "the disk cannot be read")
	}
	headClean, err := isZero(in.disk, 0, int64(in.disk.Sector()))
	if err != nil {
		return fail(wire.CodeDiskError, err, "the disk cannot be read")
	}
	mine := marker(in.Grant)
	if found {
		if err := in.spent(old.Marker, mine, old.State == stateCommitting && !headClean); err != nil {
			return err
		}
	}
	if found && sameWork(old.Marker, mine) && old.PlanHash == in.Grant.PlanHash && headClean {
		// Nothing but this install makes a disk with this journal and no
		// head, and it did so with the contents compared.
		in.begun, in.resume = true, old.State != stateWiping
		return nil
	}
	now, err := in.Inspect(in.cand)
	if err != nil {
		return fail(wire.CodeDiskError, err, "what lies on the disk %s cannot be read", describe(in.cand.ID()))
	}
	if now.Marker != nil {
		if err := in.spent(*now.Marker, mine, true); err != nil {
			return err
		}
	}
	if !sameContents(now, in.plan.Erase.Contents) {
		return &wire.TaskError{
			Code:    wire.CodePlanMismatch,
			Message: fmt.Sprintf("the disk %s does not hold what was approved to be erased; approve it anew", describe(in.cand.ID())),
			Details: fmt.Sprintf("approved: %s; found: %s", mustJSON(in.plan.Erase.Contents), mustJSON(now)),
		}
	}
	return nil
}

// sameWork reports whether two grants are for the same run of the same task. A
// machine that is started again while it installs gets another for it, which is
// issued later.
func sameWork(a, b wire.Marker) bool {
	a.Issued, b.Issued = 0, 0
	return a == b
}

// spent tells whether what an earlier grant left on the disk, finished or not,
// shows that mine is no longer good. What the person saw who approved is not later
// than the approval, whatever the clock said when it was installed.
func (in *installer) spent(left, mine wire.Marker, finished bool) error {
	seen := in.plan.Erase.Contents.Marker
	switch {
	case left.TaskID != mine.TaskID && seen != nil && *seen == left:
		return nil
	case left.TaskID != mine.TaskID && left.Issued != 0 && left.Issued >= mine.Issued:
		return ErrGrantLate
	case left.TaskID != mine.TaskID, left.Generation < mine.Generation:
		return nil
	case left.Generation > mine.Generation:
		return ErrGrantUsed
	case finished:
		return ErrInstalled
	}
	return nil
}

// checkImage gets the manifest and the first chunk, and works out all that will
// be put beside the image.
func (in *installer) checkImage(ctx context.Context) error {
	digest := in.plan.Image.Digest
	man, err := retry(ctx, in, "manifest", func() (wire.Manifest, error) { return in.Source.Manifest(ctx, digest) })
	if err != nil {
		return err
	}
	in.man = man
	if err := man.Validate(); err != nil {
		return fail(wire.CodeImageError, err, "the image's manifest is not sound")
	}
	switch disk := in.disk; {
	case man.Digest() != digest:
		return fail(wire.CodeImageError, nil, "the manifest is not that of the approved image %s", digest)
	case man.SizeBytes != in.plan.Image.SizeBytes:
		return fail(wire.CodePlanMismatch, nil, "the approved image has %d bytes, its manifest says %d", in.plan.Image.SizeBytes, man.SizeBytes)
	case disk.Sector() != man.SectorBytes:
		return fail(wire.CodeImageError, nil, "the disk has sectors of %d bytes and the image is made for %d; it would not start", disk.Sector(), man.SectorBytes)
	case uint64(disk.Size()) < man.SizeBytes+reserveBytes:
		return fail(wire.CodeDiskTooSmall, nil, "the image needs %d bytes with its first-boot data, the disk has %d", man.SizeBytes+reserveBytes, disk.Size())
	case man.Chunks[0] == "":
		return fail(wire.CodeImageError, nil, "the image begins with %d zeros: it is no disk image", man.ChunkLen(0))
	}

	in.fetch = &fetcher{
		src: in.Source, task: in.Grant.TaskID, image: digest, man: man,
		workers: in.workers, stall: in.StallTimeout, after: in.after,
		meter: in.meter, pool: in.pool, logf: in.logf,
	}
	var first []byte
	for _, name := range man.Chunks {
		if name != "" {
			in.meter.expect(1)
		}
	}
	err = in.fetch.run(ctx, []int{0}, func(_ int, raw []byte) error {
		first = slices.Clone(raw)
		return nil
	})
	if err != nil {
		return err
	}
	return in.planBoot(first)
}

// planBoot makes the partition table and the seed.
func (in *installer) planBoot(first []byte) error {
	var err error
	in.table, err = planTable(first, tableWish{
		size: in.disk.Size(), sector: in.disk.Sector(), image: int64(in.man.SizeBytes),
		grow: in.plan.Layout.GrowRoot, seedID: seedGUID(in.Grant.TaskID, in.Grant.Generation),
	})
	if errors.Is(err, errNoSlot) {
		return fail(wire.CodeBootSetup, err, "the partition table has no room for the first-boot data")
	} else if err != nil {
		return fail(wire.CodeImageError, err, "the image cannot be made to start from this disk")
	}
	for _, n := range in.table.notes {
		in.logf("%s", n)
	}
	if in.seed, err = seedVolume(in.Grant, in.BootMAC, in.table.seedOff, in.disk.Sector()); err != nil {
		return fail(wire.CodeBootSetup, err, "the first-boot data cannot be put on a partition")
	}
	return nil
}
