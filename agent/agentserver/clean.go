package agentserver

import (
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lpmos/lpmos/agent/wire"
)

// Limits on an inventory. A machine that has more is kept with the rest left
// out and marked as truncated.
const (
	maxString = 256 // bytes
	maxNICs   = 64
	maxDisks  = 256
	maxList   = 512 // of anything else
)

// clean makes a report safe to keep and to show: firmware strings are whatever
// the vendor, or an attacker, put there.
func clean(req *wire.ReportRequest) {
	inv := &req.Inventory
	cap := func(n, limit int) int {
		if n > limit {
			inv.Truncated = true
			return limit
		}
		return n
	}
	inv.NICs = inv.NICs[:cap(len(inv.NICs), maxNICs)]
	inv.Disks = inv.Disks[:cap(len(inv.Disks), maxDisks)]
	inv.PCI = inv.PCI[:cap(len(inv.PCI), maxList)]
	inv.Memory.DIMMs = inv.Memory.DIMMs[:cap(len(inv.Memory.DIMMs), maxList)]
	inv.CPU.Flags = inv.CPU.Flags[:cap(len(inv.CPU.Flags), maxList)]
	for i := range inv.Disks {
		c := &inv.Disks[i].Contents
		c.Partitions = c.Partitions[:cap(len(c.Partitions), 128)]
		c.Signatures = c.Signatures[:cap(len(c.Signatures), 32)]
	}
	if cleanStrings(reflect.ValueOf(req).Elem()) {
		inv.Truncated = true
	}
}

func cleanError(e *wire.TaskError) { cleanStrings(reflect.ValueOf(e).Elem()) }

// cleanStrings walks every string of the messages, which are plain structs,
// slices and pointers, and reports whether one was too long.
func cleanStrings(v reflect.Value) (cut bool) {
	switch v.Kind() {
	case reflect.String:
		was := v.String()
		v.SetString(cleanString(was))
		cut = len(was) > maxString
	case reflect.Struct:
		for i := range v.NumField() {
			cut = cleanStrings(v.Field(i)) || cut
		}
	case reflect.Slice:
		for i := range v.Len() {
			cut = cleanStrings(v.Index(i)) || cut
		}
	case reflect.Pointer:
		if !v.IsNil() {
			cut = cleanStrings(v.Elem())
		}
	}
	return cut
}

// cleanString drops what is not printable (control characters, direction
// overrides, broken UTF-8) and cuts at maxString bytes.
func cleanString(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= maxString {
		return s
	}
	s = s[:maxString]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s
}
