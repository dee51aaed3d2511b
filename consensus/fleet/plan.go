package fleet

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// SeedBytes is kept free at the end of the disk for the seed partition and the
// backup partition table.
const SeedBytes = 8 << 20

// guarded are signatures of storage that spans disks or belongs to a cluster:
// such a disk is never chosen, it has to be named.
var guarded = []string{"vmfs", "gpfs", "zfs", "ceph", "lvm2", "md", "bcache", "luks"}

// MakePlan works out what an install of the image would destroy and write. It
// is a pure function of what the agent reported and what was asked; the error is
// a sentence for the person who asked.
func MakePlan(m *Machine, spec Spec, img *Image) (wire.Plan, error) {
	if m.Inventory == nil {
		return wire.Plan{}, refuse(Conflict, "machine %s has not reported its disks yet", m.Name)
	}
	cpu := m.Inventory.CPU.Arch
	if img.Arch != "" && cpu != "" && img.Arch != cpu {
		return wire.Plan{}, refuse(Conflict, "image %s is for %s machines and %s is an %s machine: it would not start", img.Name, img.Arch, m.Name, cpu)
	}
	disk, warnings, err := chooseDisk(m.Inventory.Disks, spec.DiskLayout.Disk, img)
	if err != nil {
		return wire.Plan{}, err
	}
	if img.Arch == "" && cpu == "arm64" {
		// Images that say nothing are for x86 as a rule, and some are for arm64: a person has to know.
		warnings = append(warnings, fmt.Sprintf("its partition table does not say which processor image %s is for, and this is an arm64 machine", img.Name))
	}
	p := wire.Plan{
		MachineID:     m.ID,
		SystemUUID:    m.IDs.UUID,
		SystemSerial:  m.IDs.Serial,
		MACs:          m.Inventory.MACs(),
		InventoryHash: m.InventoryHash,
		Erase:         planDisk(disk),
		Image:         wire.PlanImage{Name: img.Name, Digest: img.Digest, SizeBytes: img.SizeBytes},
		Layout:        wire.Layout{GrowRoot: !spec.DiskLayout.KeepRoot},
		FirstBoot: wire.FirstBoot{
			Hostname:      spec.NetworkConfig.Hostname,
			SSHKeys:       spec.NetworkConfig.SSHKeys,
			NetworkConfig: spec.NetworkConfig.Config,
			UserData:      spec.UserData,
		},
		Untouched: []wire.PlanDisk{},
		Warnings:  warnings,
	}
	if p.FirstBoot.Hostname == "" {
		p.FirstBoot.Hostname = m.Name
	}
	for _, d := range m.Inventory.Disks {
		if d.ID() != disk.ID() {
			p.Untouched = append(p.Untouched, planDisk(d))
		}
	}
	slices.SortFunc(p.Untouched, func(a, b wire.PlanDisk) int {
		return strings.Compare(a.WWN+"/"+a.Serial, b.WWN+"/"+b.Serial)
	})
	return p, nil
}

func planDisk(d wire.Disk) wire.PlanDisk {
	return wire.PlanDisk{DiskID: d.ID(), Name: d.Name, Model: d.Model, Transport: d.Transport,
		LogicalSector: d.LogicalSector, Contents: d.Contents}
}

// chooseDisk finds the one disk to erase. A name must match exactly one disk;
// without a name the smallest that fits is taken, never one that is removable,
// unreadable, on a storage network or part of storage that spans disks. A read-only disk, and one that
// cannot be told from another, is not written at all.
func chooseDisk(disks []wire.Disk, want string, img *Image) (wire.Disk, []string, error) {
	var fit []wire.Disk
	var why []string
	named, count := 0, map[wire.DiskID]int{}
	for _, d := range disks {
		count[d.ID()]++
		if matches(d, want) {
			named++
		}
	}
	if named > 1 {
		return wire.Disk{}, nil, invalid("disk_layout.disk", "%d disks of this machine answer to %q; give the other of serial and WWN", named, want)
	}
	for _, d := range disks {
		reason := unfit(d, want, img)
		if reason == "" && count[d.ID()] > 1 {
			reason = "another disk has the same serial, WWN and size, so they could be mistaken for each other"
		}
		if reason != "" {
			if want == "" || matches(d, want) {
				why = append(why, fmt.Sprintf("%s %s: %s", d.Name, d.ID(), reason))
			}
			continue
		}
		fit = append(fit, d)
	}
	if len(fit) == 0 {
		what := "no disk can take image " + img.Name
		if want != "" {
			what = fmt.Sprintf("disk %q cannot take image %s", want, img.Name)
			if len(why) == 0 {
				return wire.Disk{}, nil, invalid("disk_layout.disk", "no disk of this machine has serial or WWN %q", want)
			}
		}
		if len(why) > 0 {
			what += " (" + strings.Join(why, "; ") + ")"
		}
		return wire.Disk{}, nil, refuse(Conflict, "%s", what)
	}
	if want != "" {
		return fit[0], guardWarnings(fit[0]), nil
	}
	slices.SortStableFunc(fit, func(a, b wire.Disk) int {
		if a.SizeBytes != b.SizeBytes {
			if a.SizeBytes < b.SizeBytes {
				return -1
			}
			return 1
		}
		return strings.Compare(a.WWN+"/"+a.Serial, b.WWN+"/"+b.Serial)
	})
	var warnings []string
	if len(fit) > 1 {
		warnings = append(warnings, fmt.Sprintf("no disk was named: %s was chosen as the smallest of %d that fit", fit[0].ID(), len(fit)))
	}
	return fit[0], warnings, nil
}

func matches(d wire.Disk, want string) bool {
	return want != "" && (strings.EqualFold(d.Serial, want) || strings.EqualFold(d.WWN, want))
}

func unfit(d wire.Disk, want string, img *Image) string {
	switch {
	case want != "" && !matches(d, want):
		return "not the disk that was named"
	case d.ReadOnly:
		return "read-only"
	case !d.ID().Known():
		return "has neither serial nor WWN, so it could be mistaken for another"
	case img.SizeBytes > d.SizeBytes || d.SizeBytes-img.SizeBytes < SeedBytes:
		return fmt.Sprintf("too small: %s, needs %s", Bytes(d.SizeBytes), Bytes(img.SizeBytes+SeedBytes))
	case img.Sector != 0 && d.LogicalSector != 0 && d.LogicalSector != img.Sector:
		return fmt.Sprintf("has sectors of %d bytes, the image is made for %d", d.LogicalSector, img.Sector)
	}
	if want != "" {
		return ""
	}
	if d.Removable || d.Transport == "usb" {
		return "removable; name it to use it"
	}
	if networked(d) {
		return "on a storage network, where other machines may use it; name it to use it"
	}
	if g := guardedBy(d); g != "" {
		return "holds " + g + "; name it to use it"
	}
	if d.Contents.Unreadable != "" {
		return "could not be read (" + d.Contents.Unreadable + "); name it to use it"
	}
	return ""
}

func guardedBy(d wire.Disk) string {
	for _, s := range d.Contents.Signatures {
		if slices.Contains(guarded, s) {
			return s
		}
	}
	for _, p := range d.Contents.Partitions {
		if slices.Contains(guarded, p.Filesystem) {
			return p.Filesystem
		}
	}
	return ""
}

// networked reports whether the disk is lent by a storage network: what looks
// blank or small here may be another machine's.
func networked(d wire.Disk) bool { return d.Transport == "fc" || d.Transport == "iscsi" }

func guardWarnings(d wire.Disk) []string {
	var w []string
	if networked(d) {
		w = append(w, "this disk is on a storage network, where other machines may use it")
	}
	if g := guardedBy(d); g != "" {
		w = append(w, "this disk holds "+g+", which may span other disks")
	}
	if d.Removable || d.Transport == "usb" {
		w = append(w, "this disk is removable")
	}
	if d.Contents.Unreadable != "" {
		w = append(w, "what lies on this disk could not be read: "+d.Contents.Unreadable)
	}
	return w
}

// PlanChanges says in sentences how two plans differ.
func PlanChanges(old, new *wire.Plan) []string {
	if old == nil || new == nil {
		return []string{"there was no plan to compare with"}
	}
	var out []string
	add := func(changed bool, format string, args ...any) {
		if changed {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	add(old.MachineID != new.MachineID, "it is another machine")
	add(old.InventoryHash != new.InventoryHash, "the machine's hardware is not what it was")
	add(old.Erase.DiskID != new.Erase.DiskID, "the disk to erase is %s (%s), it was %s (%s)",
		new.Erase, Bytes(new.Erase.SizeBytes), old.Erase, Bytes(old.Erase.SizeBytes))
	sameDisk := old.Erase.DiskID == new.Erase.DiskID
	add(sameDisk && asJSON(old.Erase.Contents) != asJSON(new.Erase.Contents), "what lies on disk %s has changed", new.Erase)
	add(asJSON(withoutNames(old.Untouched)) != asJSON(withoutNames(new.Untouched)), "the other disks have changed")
	add(old.Image.Digest != new.Image.Digest, "image %s has other bytes", new.Image.Name)
	add(asJSON(old.FirstBoot) != asJSON(new.FirstBoot) || old.Layout != new.Layout, "what the installed system is told has changed")
	if len(out) == 0 && old.Hash() != new.Hash() {
		out = append(out, "the machine's ids have changed")
	}
	return out
}

// Bytes is a size as people read disk sizes: powers of 1000.
func Bytes(n uint64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, u := float64(n), 0
	for f >= 1000 && u < len(units)-1 {
		f, u = f/1000, u+1
	}
	if f >= 100 || u == 0 {
		return fmt.Sprintf("%.0f %s", f, units[u])
	}
	return fmt.Sprintf("%.3g %s", f, units[u])
}

func withoutNames(disks []wire.PlanDisk) []wire.PlanDisk {
	out := slices.Clone(disks)
	for i := range out {
		out[i].Name = ""
	}
	return out
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("fleet: cannot hash: " + err.Error())
	}
	return string(b)
}
