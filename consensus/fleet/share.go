package fleet

import (
	"reflect"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// shared keeps one copy of what values have in common: models, flags and bus
// addresses are most of an inventory, and thousands of machines have the same.
// Nobody sees it but the memory.
type shared struct {
	words map[string]string
	flags map[string][]string
	pci   map[string][]wire.PCIDevice
}

// maxShared bounds what is known of each sort. When it is reached, learning
// begins anew: strangers may make up many words.
const maxShared = 16_384

// inventory makes an inventory small that nobody else has seen yet.
func (s *shared) inventory(inv *wire.Inventory) {
	if inv == nil {
		return
	}
	if len(inv.CPU.Flags) > 0 {
		inv.CPU.Flags = known(&s.flags, strings.Join(inv.CPU.Flags, "\x00"), inv.CPU.Flags)
	}
	pci := inv.PCI
	if len(pci) > 0 {
		var key strings.Builder
		for _, d := range pci {
			for _, field := range []string{d.Address, d.Vendor, d.Device, d.Class, d.Driver} {
				key.WriteString(field)
				key.WriteByte(0)
			}
		}
		pci = known(&s.pci, key.String(), pci)
	}
	flags := inv.CPU.Flags
	inv.PCI, inv.CPU.Flags = nil, nil // are done
	s.value(reflect.ValueOf(inv).Elem())
	inv.PCI, inv.CPU.Flags = pci, flags
}

// task makes a task small that nobody else has seen yet.
func (s *shared) task(t *Task) { s.value(reflect.ValueOf(t).Elem()) }

// value puts common copies in place of all strings of a value, and lists without
// room to grow in place of all lists.
func (s *shared) value(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.Len() > 0 {
			v.SetString(s.word(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			s.value(v.Elem())
		}
	case reflect.Slice:
		if v.Cap() > v.Len() {
			exact := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
			reflect.Copy(exact, v)
			v.Set(exact)
		}
		for i := range v.Len() {
			s.value(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() { // a time's own fields are not ours
				s.value(f)
			}
		}
	}
}

func (s *shared) word(w string) string { return known(&s.words, w, w) }

// known gives the first value that was met with the key.
func known[T any](all *map[string]T, key string, v T) T {
	if old, ok := (*all)[key]; ok {
		return old
	}
	if *all == nil || len(*all) >= maxShared {
		*all = map[string]T{}
	}
	(*all)[key] = v
	return v
}
