package install

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/lpmos/lpmos/agent/grant"
	"github.com/lpmos/lpmos/agent/wire"
)

// Options is what an install needs from its surroundings. Grant, Allowed, Source
// and Disks have to be there; the rest has defaults.
type Options struct {
	Grant  wire.Grant
	Source Source

	// Allowed is asked right before the first byte is written, after all that may
	// take long: an error says that the grant has ended. Without somebody who has
	// checked the grant nothing is written.
	Allowed func() error

	// Disks lists the machine's disks as they are at the time of the call.
	Disks func() ([]Candidate, error)
	// Inspect looks at what lies on a disk; without it a candidate's own
	// Contents count.
	Inspect func(Candidate) (wire.Contents, error)
	// Open opens a disk for writing; OpenDevice if nil.
	Open func(c Candidate) (Device, error)

	// EFIVars is the directory of the mounted efivarfs; empty on a machine
	// that was started by a BIOS, and no boot entry is written.
	EFIVars string
	// BootMAC is the interface the machine netbooted from. The installed
	// system gets an address on it unless the plan says otherwise.
	BootMAC string

	// Workers fetch, verify and write at the same time; 4 if zero.
	Workers int
	// StallTimeout is how long a source may send nothing; 30 s if zero.
	StallTimeout time.Duration

	// Report is told of progress, from one goroutine at a time, and must not
	// block.
	Report func(wire.Progress)
	// Logf is given lines for the machine's console.
	Logf func(format string, args ...any)
	// Changed is told, after a success, in which places the disk differs from
	// the image on purpose.
	Changed func([]Range)

	Now   func() time.Time                       // time.Now if nil
	After func(d time.Duration) <-chan time.Time // time.After if nil
}

// Why a grant is refused that was good once. Nothing was written.
var (
	// ErrInstalled says that the disk holds the finished install this very
	// grant was for: the machine went down before it could tell.
	ErrInstalled error = &wire.TaskError{
		Code:    wire.CodePlanMismatch,
		Message: "this grant was already used: the disk holds the finished install it was for",
	}
	// ErrGrantUsed says that the disk holds the work of a later grant of the
	// same task.
	ErrGrantUsed error = &wire.TaskError{
		Code:    wire.CodePlanMismatch,
		Message: "this grant was already used: the disk holds the work of a later one",
	}
	// ErrGrantLate says that something was installed on the disk since the grant was
	// given: whoever approved it has not seen that.
	ErrGrantLate error = &wire.TaskError{
		Code:    wire.CodePlanMismatch,
		Message: "this grant is older than what is on the disk: another task has installed it since; approve it anew",
	}
)

// installer is one install under way.
type installer struct {
	Options
	plan    wire.Plan
	man     wire.Manifest
	cand    Candidate
	disk    Device
	journal journal
	begun   bool // this grant has written to the disk, in this run or in one before it
	resume  bool // the first sector is zero and chunks of this image may be there
	fetch   *fetcher
	table   table
	seed    []byte
	meter   *meter
	pool    *chunkPool
	workers int
	logf    func(string, ...any)
	after   func(time.Duration) <-chan time.Time
}

// Run installs what the grant says. The caller has already moved the task to
// installing, and nobody else writes the disk.
//
// The error is a *wire.TaskError that says why the task failed, or the
// context's error when it ended first: the same grant may then be run again and
// goes on where it stopped. plan_mismatch, disk_too_small and disk_busy mean that
// this run has written nothing; one before it may have. grant.ErrEnded means that
// too, and that another grant may be had.
func Run(ctx context.Context, opt Options) error {
	in := newInstaller(opt)
	defer func() {
		if in.disk != nil {
			in.disk.Close()
		}
	}()
	err := in.run(ctx)
	var failed *wire.TaskError
	switch {
	case err == nil || errors.Is(err, grant.ErrEnded):
		return err
	case errors.As(err, &failed):
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		err = fail(wire.CodeInternal, err, "the install failed")
		errors.As(err, &failed)
	}
	// The code plan_mismatch says so by itself, and errors of it are told apart.
	if in.begun || failed.Code == wire.CodePlanMismatch {
		return err
	}
	said := *failed // it may be the source's, which hands it out again
	said.Untouched = true
	return &said
}

func newInstaller(opt Options) *installer {
	in := &installer{Options: opt, plan: opt.Grant.Plan, pool: new(chunkPool)}
	in.workers = opt.Workers
	if in.workers <= 0 {
		in.workers = 4
	}
	if in.StallTimeout <= 0 {
		in.StallTimeout = 30 * time.Second
	}
	if in.Open == nil {
		in.Open = func(c Candidate) (Device, error) { return OpenDevice(c.Path, c.LogicalSector) }
	}
	if in.Inspect == nil {
		in.Inspect = func(c Candidate) (wire.Contents, error) { return c.Contents, nil }
	}
	if in.logf = opt.Logf; in.logf == nil {
		in.logf = func(string, ...any) {}
	}
	if in.after = opt.After; in.after == nil {
		in.after = time.After
	}
	in.meter = &meter{report: opt.Report, now: opt.Now}
	if in.meter.report == nil {
		in.meter.report = func(wire.Progress) {}
	}
	if in.meter.now == nil {
		in.meter.now = time.Now
	}
	return in
}

func (in *installer) run(ctx context.Context) error {
	in.meter.stage(wire.StagePartitioning, "checking the disk")
	if err := in.check(ctx); err != nil {
		return err
	}
	if in.Allowed == nil {
		return fail(wire.CodeInternal, nil, "nobody has checked the grant")
	}
	if err := in.Allowed(); err != nil {
		return err
	}
	// From here on the disk is written.
	in.begun = true
	have, err := in.prepare(ctx)
	if err != nil {
		return err
	}
	in.meter.stage(wire.StageDownloading, "writing the image")
	if err := in.download(ctx, have); err != nil {
		return err
	}
	in.meter.stage(wire.StageInstalling, "reading the disk back")
	if err := in.verify(ctx); err != nil {
		return err
	}
	in.bootEntry()
	in.meter.stage(wire.StageConfiguring, "writing the first-boot data")
	if err := in.commit(); err != nil {
		return err
	}
	in.meter.message("installed")
	if in.Changed != nil {
		in.Changed(in.changed())
	}
	return nil
}

// prepare makes the disk ready for chunks and returns those that an earlier
// attempt has left on it.
func (in *installer) prepare(ctx context.Context) ([]int, error) {
	var have []int
	if in.resume {
		var err error
		if have, err = in.present(ctx); err != nil {
			return nil, err
		}
	} else if err := in.wipe(); err != nil {
		return nil, err
	}
	if err := in.note(stateWriting); err != nil {
		return nil, err
	}
	return have, in.zero(ctx)
}

func (in *installer) wipe() error {
	in.meter.message("wiping old signatures")
	if err := in.note(stateWiping); err != nil {
		return err
	}
	spans := wipeSpans(in.disk.Size(), in.plan.Erase.Contents.Partitions)
	if err := wipe(in.disk, spans, func(part float64) { in.meter.progress(0.5 * part) }); err != nil {
		return fail(wire.CodeDiskError, err, "the old contents cannot be wiped")
	}
	if err := in.disk.Reread(); err != nil {
		in.logf("the kernel keeps the old partition table for now: %v", err)
	}
	return nil
}

// note moves the journal on.
func (in *installer) note(s journalState) error {
	in.journal.State = s
	if err := in.journal.write(in.disk); err != nil {
		return fail(wire.CodeDiskError, err, "the disk cannot be written")
	}
	return nil
}

func (in *installer) download(ctx context.Context, have []int) error {
	var want []int
	for i, name := range in.man.Chunks {
		if i > 0 && name != "" && !slices.Contains(have, i) {
			want = append(want, i)
		}
	}
	in.fetch.got = append(in.fetch.got, have...)
	in.meter.expect(-len(have))
	var done atomic.Int64
	done.Store(int64(len(have)))
	err := in.fetch.run(ctx, want, func(i int, raw []byte) error {
		if _, err := in.disk.WriteAt(raw, int64(i)*chunkBytes); err != nil {
			return fail(wire.CodeDiskError, err, "chunk %d cannot be written at byte %d", i, int64(i)*chunkBytes)
		}
		in.meter.wrote(len(raw))
		in.meter.progress(float64(done.Add(1)) / float64(len(have)+len(want)))
		return nil
	})
	if err != nil {
		return err
	}
	in.fetch.finish(ctx)
	return nil
}

// bootEntry tells UEFI firmware of the system. Where that fails the firmware
// still finds the loader by its removable-media name, so it is no reason to
// fail.
func (in *installer) bootEntry() {
	if in.EFIVars == "" {
		return
	}
	if in.table.esp == nil {
		in.logf("no boot entry: the image has no EFI system partition")
		return
	}
	if _, err := os.Stat(in.EFIVars); err != nil {
		in.logf("no boot entry: %v", err)
		return
	}
	entry, err := writeBootEntry(in.EFIVars, *in.table.esp)
	if err != nil {
		in.logf("no boot entry: %v; the firmware has to find the loader by itself", err)
		return
	}
	in.logf("boot entry %s starts the installed system", entry)
}

// commit makes the disk one that starts. Everything goes in the order in which
// it may be cut. The boot record in the first sector is last: neither firmware
// nor kernel takes a disk without it for one with partitions, and a single
// sector is there or it is not.
func (in *installer) commit() error {
	head := in.table.head
	rest := in.disk.Sector()
	if err := in.put("the first-boot seed", in.table.seedOff, in.seed); err != nil {
		return err
	}
	in.meter.progress(0.3)
	if err := in.put("the image's first chunk", int64(rest), head[rest:]); err != nil {
		return err
	}
	in.meter.progress(0.6)
	if err := in.note(stateCommitting); err != nil {
		return err
	}
	if in.table.backup != nil {
		if err := in.put("the backup partition table", in.table.backupOff, in.table.backup); err != nil {
			return err
		}
	}
	if err := in.put("the boot record", 0, head[:rest]); err != nil {
		// Nobody shall start from a disk of which this cannot be told.
		if zerr := errors.Join(in.disk.Zero(0, int64(rest)), in.disk.Sync()); zerr != nil {
			in.logf("the disk's head cannot be cleared: %v", zerr)
		}
		return err
	}
	in.meter.wrote(len(head))
	if err := in.disk.Reread(); err != nil {
		in.logf("the kernel does not know the new partition table yet: %v", err)
	}
	in.meter.progress(1)
	return nil
}

// changed lists where the disk differs from the image on purpose.
func (in *installer) changed() []Range {
	return append(slices.Clone(in.table.changed),
		Range{in.table.seedOff, int64(len(in.seed)), "first-boot seed"},
		Range{journalOffset(in.disk.Size()), journalCopies * journalBytes, "install journal"})
}
