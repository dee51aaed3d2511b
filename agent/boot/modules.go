package boot

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
)

// Drivers loads the kernel modules that the devices of this machine ask for.
type Drivers struct {
	dir    string              // /lib/modules/RELEASE
	deps   map[string][]string // path of a module -> modules it needs, nearest first
	byName map[string]string   // name -> path
	alias  []alias
	sys    string // /sys
	load   func(path string) error
	tried  map[string]bool // modules, by path
	seen   map[string]bool // devices, by modalias
	loaded int
}

// alias is a line of modules.alias: devices whose modalias matches the pattern
// are driven by the module. The plain text before the first wildcard tells most
// of the twenty thousand apart without a match.
type alias struct{ plain, pattern, name string }

// OpenDrivers reads the lists under /lib/modules of the running kernel.
func OpenDrivers() (*Drivers, error) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("drivers: %w", err)
	}
	return openDrivers(filepath.Join("/lib/modules", strings.TrimSpace(string(release))), "/sys", finitModule)
}

func openDrivers(dir, sys string, load func(string) error) (*Drivers, error) {
	d := &Drivers{dir: dir, sys: sys, load: load, tried: map[string]bool{}, seen: map[string]bool{}}
	dep, err := os.Open(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("drivers: %w", err)
	}
	defer func() { _ = dep.Close() }()
	if d.deps, d.byName, err = parseDep(dep); err != nil {
		return nil, fmt.Errorf("drivers: modules.dep: %w", err)
	}
	al, err := os.Open(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, fmt.Errorf("drivers: %w", err)
	}
	defer func() { _ = al.Close() }()
	if d.alias, err = parseAlias(al); err != nil {
		return nil, fmt.Errorf("drivers: modules.alias: %w", err)
	}
	return d, nil
}

// moduleName is the name the kernel knows a module by.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// parseDep reads "kernel/a.ko: kernel/b.ko kernel/c.ko".
func parseDep(r io.Reader) (deps map[string][]string, byName map[string]string, err error) {
	deps, byName = map[string][]string{}, map[string]string{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		file, needs, ok := strings.Cut(s.Text(), ":")
		if !ok {
			continue
		}
		deps[file] = strings.Fields(needs)
		byName[moduleName(file)] = file
	}
	return deps, byName, s.Err()
}

// parseAlias reads "alias PATTERN MODULE".
func parseAlias(r io.Reader) ([]alias, error) {
	var list []alias
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if f := strings.Fields(s.Text()); len(f) == 3 && f[0] == "alias" {
			plain := f[1]
			if i := strings.IndexAny(plain, "*?["); i >= 0 {
				plain = plain[:i]
			}
			list = append(list, alias{plain, f[1], strings.ReplaceAll(f[2], "-", "_")})
		}
	}
	return list, s.Err()
}

// Coldplug loads drivers for the devices there are, and then for those that the
// new drivers brought to light (a USB stick behind a host controller, a disk
// behind an adapter), until a round loads nothing. It returns how many modules
// it has loaded so far; calling it again later finds late comers.
func (d *Drivers) Coldplug(say Say) int {
	for {
		before := d.loaded
		for _, modalias := range d.modaliases() {
			for _, name := range d.match(modalias) {
				d.Load(name, say)
			}
		}
		if d.loaded == before {
			return d.loaded
		}
	}
}

// modaliases of the devices on all buses that were not there before.
func (d *Drivers) modaliases() []string {
	files, err := filepath.Glob(filepath.Join(d.sys, "bus/*/devices/*/modalias"))
	if err != nil {
		return nil
	}
	var list []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		m := strings.TrimSpace(string(b))
		if err == nil && m != "" && !d.seen[m] {
			d.seen[m] = true
			list = append(list, m)
		}
	}
	return list
}

// match returns the modules for a modalias. The kernel's patterns are shell
// patterns; path.Match differs only at "/", which device tree names may hold.
func (d *Drivers) match(modalias string) []string {
	flat := strings.ReplaceAll(modalias, "/", "\x00")
	var names []string
	for _, a := range d.alias {
		if !strings.HasPrefix(modalias, a.plain) {
			continue
		}
		if ok, err := path.Match(strings.ReplaceAll(a.pattern, "/", "\x00"), flat); err == nil && ok {
			names = append(names, a.name)
		}
	}
	return names
}

// Load loads a module by name with all it needs. A module that this kernel has
// built in or that the boot image does not carry is passed over in silence.
func (d *Drivers) Load(name string, say Say) {
	file, ok := d.byName[strings.ReplaceAll(name, "-", "_")]
	if !ok || d.tried[file] {
		return
	}
	needs := d.deps[file]
	for i := len(needs) - 1; i >= 0; i-- { // the furthest is needed first
		d.loadFile(needs[i], say)
	}
	d.loadFile(file, say)
}

func (d *Drivers) loadFile(file string, say Say) {
	if d.tried[file] {
		return
	}
	d.tried[file] = true
	err := d.load(filepath.Join(d.dir, file))
	switch {
	case err == nil, errors.Is(err, syscall.EEXIST):
		d.loaded++
	case errors.Is(err, syscall.ENODEV), errors.Is(err, fs.ErrNotExist):
		// The driver looked and found none of its hardware, as is usual for
		// ACPI; or it is for sound or graphics, which no boot image carries.
	default:
		say("drivers: %s: %v", moduleName(file), err)
	}
}
