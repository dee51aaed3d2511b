package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// efiGlobal is the vendor GUID of the variables UEFI itself defines.
const efiGlobal = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// Attributes of a variable: kept over power-off, readable by the firmware's
// boot and the running system.
const efiAttributes = 7

// Flags of a file and the requests that read and set them (linux/fs.h). The
// kernel marks most variables immutable so that rm -r spares the firmware.
const (
	fsGetFlags  = 0x80086601
	fsSetFlags  = 0x40086602
	fsImmutable = 0x10
)

// loaderPath is the name under which firmware looks for a loader on a disk it
// knows nothing about (UEFI 2.10, table 3.4), and so where images have one.
func loaderPath() string {
	if runtime.GOARCH == "arm64" {
		return `\EFI\BOOT\BOOTAA64.EFI`
	}
	return `\EFI\BOOT\BOOTX64.EFI`
}

// writeBootEntry makes the firmware know the installed system and start it
// after the network. It uses our own entry again if there is one, and writes
// nothing that is already as it should be. It returns the entry's name.
func writeBootEntry(dir string, esp espPartition) (string, error) {
	options, err := readBootOptions(dir)
	if err != nil {
		return "", err
	}
	ours, found := uint16(0), false
	for _, n := range slices.Sorted(maps.Keys(options)) {
		if options[n].name == entryName {
			ours, found = n, true
			break
		}
	}
	for n := 0; !found; n++ {
		if n > 0xffff {
			return "", errors.New("every boot entry is taken")
		}
		if _, taken := options[uint16(n)]; !taken {
			ours, found = uint16(n), true
		}
	}
	entry := fmt.Sprintf("Boot%04X", ours)
	if err := writeVar(dir, entry, loadOption(entryName, esp, loaderPath())); err != nil {
		return "", err
	}

	var order []uint16
	if b, err := readVar(dir, "BootOrder"); err == nil {
		for ; len(b) >= 2; b = b[2:] {
			order = append(order, binary.LittleEndian.Uint16(b))
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var current uint16
	network := false
	if b, err := readVar(dir, "BootCurrent"); err == nil && len(b) == 2 {
		current = binary.LittleEndian.Uint16(b)
		network = options[current].network
	}
	var out []byte
	for _, n := range bootOrder(order, current, network, ours) {
		out = binary.LittleEndian.AppendUint16(out, n)
	}
	if err := writeVar(dir, "BootOrder", out); err != nil {
		return "", err
	}
	return entry, nil
}

// readBootOptions reads all Boot#### variables. One that is no load option
// still takes its number.
func readBootOptions(dir string) (map[uint16]bootOption, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	options := make(map[uint16]bootOption)
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), "-"+efiGlobal)
		if !ok || len(name) != 8 || !strings.HasPrefix(name, "Boot") {
			continue
		}
		n, err := strconv.ParseUint(name[4:], 16, 16)
		if err != nil {
			continue
		}
		b, err := readVar(dir, name)
		if err != nil {
			return nil, err
		}
		o, _ := parseLoadOption(b)
		options[uint16(n)] = o
	}
	return options, nil
}

// readVar returns a variable's bytes without its attributes.
func readVar(dir, name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, name+"-"+efiGlobal))
	if err != nil {
		return nil, err
	}
	if len(b) < 4 {
		return nil, fmt.Errorf("EFI variable %s has only %d bytes", name, len(b))
	}
	return b[4:], nil
}

// writeVar sets a variable. efivarfs wants all of it, attributes first, in one
// write. Flash wears: a variable that is right is left alone.
func writeVar(dir, name string, data []byte) error {
	if old, err := readVar(dir, name); err == nil && bytes.Equal(old, data) {
		return nil
	}
	path := filepath.Join(dir, name+"-"+efiGlobal)
	clearImmutable(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append([]byte{efiAttributes, 0, 0, 0}, data...))
	return errors.Join(err, f.Close())
}

// clearImmutable is done on a best guess: the variables written here are mostly
// free to write, and the write itself tells if this one is not.
func clearImmutable(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	var flags uintptr
	if _, _, e := syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fsGetFlags, uintptr(unsafe.Pointer(&flags))); e != 0 {
		return
	}
	flags &^= fsImmutable
	syscall.Syscall(syscall.SYS_IOCTL, f.Fd(), fsSetFlags, uintptr(unsafe.Pointer(&flags)))
}
