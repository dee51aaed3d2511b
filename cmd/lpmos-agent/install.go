package main

import (
	"context"
	"errors"
	"os"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/install"
	"github.com/lpmos/lpmos/agent/inventory"
	"github.com/lpmos/lpmos/agent/wire"
)

// efiVars is where the kernel shows the firmware's variables.
const efiVars = "/sys/firmware/efi/efivars"

// installer hands agent/install this machine's disks.
type installer struct {
	mac  string
	logf func(format string, args ...any)
}

// Install writes the image the grant names to the disk it names.
func (i installer) Install(ctx context.Context, grant wire.Grant, allowed func() error, src agent.Source, report func(wire.Progress)) error {
	opt := install.Options{
		Grant: grant, Allowed: allowed, Source: src, BootMAC: i.mac, Report: report, Logf: i.logf,
		Disks: candidates, Changed: i.tellChanged,
	}
	if _, err := os.Stat(efiVars); err == nil {
		opt.EFIVars = efiVars
	}
	return outcome(install.Run(ctx, opt), report)
}

// tellChanged lists on the console where the disk differs from the image on purpose.
func (i installer) tellChanged(ranges []install.Range) {
	for _, r := range ranges {
		i.logf("not as in the image: %d bytes at %d, %s", r.Length, r.Offset, r.Reason)
	}
}

// outcome is how an install ended. A disk that holds the finished install of this
// very grant is a success: an agent before this one ended before it could tell.
func outcome(err error, report func(wire.Progress)) error {
	if !errors.Is(err, install.ErrInstalled) {
		return err
	}
	report(wire.Progress{Stage: wire.StageConfiguring, Percentage: 100, Message: "installed"})
	return nil
}

// candidates looks at the disks as they are now.
func candidates() ([]install.Candidate, error) {
	var list []install.Candidate
	for _, d := range inventory.Collect(inventory.Options{}).Disks {
		list = append(list, install.Candidate{Disk: d, Path: "/dev/" + d.Name})
	}
	return list, nil
}
