// Package inventory finds out what a machine is: processor, memory modules,
// disks and what lies on them, network cards, firmware, management controller.
//
// It reads /proc, /sys, the SMBIOS tables and the first and last sectors of
// disks, with no help from other programs, and writes nothing. Every string
// comes from firmware and is cleaned and capped before it is passed on.
package inventory

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lpmos/lpmos/agent/wire"
)

// Limits of what is reported. A list that is longer is cut and the inventory
// marked as truncated.
const (
	maxDisks      = 256
	maxNICs       = 64
	maxPCI        = 512
	maxDIMMs      = 256
	maxPartitions = 128
	maxFlags      = 256
	maxString     = 128 // bytes
)

// Options say where to look.
type Options struct {
	// Root stands before every path: "" on a machine, a directory in tests.
	// With a Root no ioctl is made, and disks are the files under Root/dev.
	Root string
	// BootMAC marks the interface the agent talks through.
	BootMAC string
}

// Collect looks at the machine. What cannot be read is left empty.
func Collect(o Options) wire.Inventory {
	m := machine{root: o.Root, live: o.Root == "" || o.Root == "/"}
	tables := parseSMBIOS(m.bytes("sys/firmware/dmi/tables/DMI", 1<<20))
	inv := wire.Inventory{
		System:   m.system(tables),
		Firmware: m.firmware(tables),
		CPU:      m.cpu(),
		Memory:   m.memory(tables),
		Disks:    m.disks(),
		NICs:     m.nics(o.BootMAC),
		PCI:      m.pci(),
		BMC:      m.bmc(tables),
		TPM:      m.tpm(),
	}
	inv.Virtualization = m.virtualization(inv.System, inv.CPU.Model)
	clip(&inv.Disks, maxDisks, &inv.Truncated)
	clip(&inv.NICs, maxNICs, &inv.Truncated)
	clip(&inv.PCI, maxPCI, &inv.Truncated)
	clip(&inv.Memory.DIMMs, maxDIMMs, &inv.Truncated)
	fit(&inv)
	return inv
}

// fit drops what people miss least when a very large machine would make a report
// larger than a node takes: PCI devices, then the partitions of disks that have
// the most. The disks themselves always stay.
func fit(inv *wire.Inventory) {
	size := 0
	for _, d := range inv.Disks {
		size += diskCost + partitionCost*len(d.Contents.Partitions)
	}
	if size+pciCost*len(inv.PCI) > maxReport {
		inv.PCI, inv.Truncated = nil, true
	}
	for most := maxPartitions; size > maxReport && most > 4; most /= 2 {
		size = 0
		for i := range inv.Disks {
			clip(&inv.Disks[i].Contents.Partitions, most, &inv.Truncated)
			size += diskCost + partitionCost*len(inv.Disks[i].Contents.Partitions)
		}
	}
}

// Typical bytes of JSON, and how many a report may have: a node takes 256 KiB.
const (
	diskCost      = 500
	partitionCost = 180
	pciCost       = 110
	maxReport     = 200 << 10
)

// clip shortens a list to n entries and says so.
func clip[T any](list *[]T, n int, truncated *bool) {
	if len(*list) > n {
		*list, *truncated = (*list)[:n], true
	}
}

// machine reads files of one machine.
type machine struct {
	root string
	live bool // ioctls make sense
}

func (m machine) path(name string) string { return filepath.Join(m.root, "/", name) }

// bytes returns at most limit bytes of a file, nothing when it cannot be read.
func (m machine) bytes(name string, limit int) []byte {
	f, err := os.Open(m.path(name))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	buf := make([]byte, 0, min(limit, 4096))
	for len(buf) < limit {
		buf = slices.Grow(buf, 4096)
		n, err := f.Read(buf[len(buf):min(cap(buf), limit)])
		buf = buf[:len(buf)+n]
		if err != nil || n == 0 {
			break
		}
	}
	return buf
}

// text returns a file of one value, cleaned.
func (m machine) text(name string) string { return clean(string(m.bytes(name, 4096))) }

// number returns a file of one decimal number, 0 when there is none.
func (m machine) number(name string) int {
	n, err := strconv.Atoi(m.text(name))
	if err != nil {
		return 0
	}
	return n
}

// exists reports whether a path is there.
func (m machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// list returns the names in a directory, in natural order.
func (m machine) list(name string) []string {
	entries, err := os.ReadDir(m.path(name))
	if err != nil {
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// link returns the last element a symbolic link points to.
func (m machine) link(name string) string {
	target, err := os.Readlink(m.path(name))
	if err != nil {
		return ""
	}
	return clean(filepath.Base(target))
}

// clean makes a string from firmware or a disk fit to keep and show: what can be
// printed, one space between words, capped. A node cleans what it is told too, and
// by the same measure: a label it altered would never again be the approved one.
func clean(s string) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		if r == ' ' || r == utf8.RuneError || !strconv.IsPrint(r) {
			space = true
			continue
		}
		gap := ""
		if space && b.Len() > 0 {
			gap = " "
		}
		space = false
		if b.Len()+len(gap)+utf8.UTFMax > maxString {
			break
		}
		b.WriteString(gap)
		b.WriteRune(r)
	}
	return b.String()
}

// arch is what the agent was built for, and so what the processor runs.
const arch = runtime.GOARCH

// Identity reads who the machine is, and nothing else.
func Identity(root string) wire.System {
	m := machine{root: root}
	return m.system(parseSMBIOS(m.bytes("sys/firmware/dmi/tables/DMI", 1<<20)))
}
