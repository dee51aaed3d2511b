package initramfs

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// Modules are the modules of one kernel, as depmod listed them.
type Modules struct {
	dir     string              // …/lib/modules/VERSION
	version string              // of the kernel
	deps    map[string][]string // file → files it needs, nearest first
	byName  map[string]string   // name → file
	builtin map[string]bool     // names that are part of the kernel itself
}

// Open reads the lists of dir, which is …/lib/modules/VERSION.
func Open(dir string) (*Modules, error) {
	m := &Modules{dir: dir, version: filepath.Base(dir), deps: map[string][]string{}, byName: map[string]string{}, builtin: map[string]bool{}}
	err := eachLine(filepath.Join(dir, "modules.dep"), func(line string) {
		file, needs, ok := strings.Cut(line, ":")
		if ok {
			m.deps[file] = strings.Fields(needs)
			m.byName[Name(file)] = file
		}
	})
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	err = eachLine(filepath.Join(dir, "modules.builtin"), func(line string) { m.builtin[Name(line)] = true })
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	if len(m.deps) == 0 {
		return nil, fmt.Errorf("kernel modules: %s lists none; run depmod", dir)
	}
	if err := m.foldSoftdeps(); err != nil {
		return nil, fmt.Errorf("kernel modules: %w", err)
	}
	return m, nil
}

// foldSoftdeps makes hard dependencies of the soft ones that have to be loaded
// before ("softdep libcrc32c pre: crc32c", modprobe.d(5)). Nobody in an
// initramfs answers when the kernel asks for a module by itself, and without
// its checksum ext4 mounts nothing and bnx2x does not even load.
func (m *Modules) foldSoftdeps() error {
	provides := map[string][]string{} // alias without wildcards → names
	err := eachLine(filepath.Join(m.dir, "modules.alias"), func(line string) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" && !strings.ContainsAny(f[1], "*?[") {
			provides[f[1]] = append(provides[f[1]], strings.ReplaceAll(f[2], "-", "_"))
		}
	})
	if err != nil {
		return err
	}
	before := map[string][]string{} // file → files
	err = eachLine(filepath.Join(m.dir, "modules.softdep"), func(line string) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "softdep" || f[2] != "pre:" {
			return
		}
		for _, want := range f[3:] {
			if strings.HasSuffix(want, ":") {
				return
			}
			if file := m.provider(want, provides[want]); file != "" {
				before[m.byName[f[1]]] = append(before[m.byName[f[1]]], file)
			}
		}
	})
	if err != nil {
		return err
	}
	folded := make(map[string][]string, len(m.deps))
	for file, needs := range m.deps {
		all := slices.Clone(needs)
		for _, has := range append([]string{file}, needs...) {
			for _, soft := range before[has] {
				for _, add := range append([]string{soft}, m.deps[soft]...) {
					if add != file && !slices.Contains(all, add) {
						all = append(all, add)
					}
				}
			}
		}
		folded[file] = all
	}
	m.deps = folded
	return nil
}

// provider is the module of a name or, for an alias, the generic one of those
// that share it: the others may refuse to load on this processor.
func (m *Modules) provider(name string, names []string) string {
	if file := m.byName[strings.ReplaceAll(name, "-", "_")]; file != "" {
		return file
	}
	slices.Sort(names)
	for _, n := range names {
		if strings.HasSuffix(n, "_generic") {
			return m.byName[n]
		}
	}
	if len(names) > 0 {
		return m.byName[names[0]]
	}
	return ""
}

// eachLine calls do with every line of a file.
func eachLine(name string, do func(line string)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		do(s.Text())
	}
	return s.Err()
}

// Name is the name of the module in a file: "kernel/fs/fat/nls-x.ko.xz" holds
// nls_x.
func Name(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}

// Resolve returns the files of the modules whose names match the patterns
// (path.Match, "virtio*"), and of all they need, in an order in which they can
// be loaded. A pattern that matches no module and nothing built into the kernel
// is an error: a driver has been renamed, and a machine would stay without it.
func (m *Modules) Resolve(patterns []string) ([]string, error) {
	names := make([]string, 0, len(m.byName))
	for name := range m.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	var files, unknown []string
	have := map[string]bool{}
	var add func(file string)
	add = func(file string) {
		if have[file] {
			return
		}
		have[file] = true // before its needs: a damaged list may go in circles
		for _, need := range slices.Backward(m.deps[file]) {
			add(need)
		}
		files = append(files, file)
	}
	for _, pattern := range patterns {
		found := m.builtin[pattern]
		for _, name := range names {
			ok, err := path.Match(pattern, name)
			if err != nil {
				return nil, fmt.Errorf("kernel modules: pattern %q: %w", pattern, err)
			}
			if ok {
				found = true
				add(m.byName[name])
			}
		}
		if !found {
			unknown = append(unknown, pattern)
		}
	}
	if len(unknown) > 0 {
		return nil, fmt.Errorf("kernel modules: kernel %s has none called %s", m.version, strings.Join(unknown, ", "))
	}
	return files, nil
}

// AddTo puts the files, and the lists cut down to them, into an archive under
// /lib/modules/VERSION. A packed module is unpacked: finit_module(2) takes
// plain ones, and the archive is packed as a whole.
func (m *Modules) AddTo(a *Archive, files []string) error {
	root := "lib/modules/" + m.version
	names := map[string]bool{}
	var dep bytes.Buffer
	for _, file := range files {
		names[Name(file)] = true
		data, err := os.ReadFile(filepath.Join(m.dir, file))
		if err != nil {
			return fmt.Errorf("kernel modules: %w", err)
		}
		if strings.HasSuffix(file, ".xz") {
			if data, err = unxz(data); err != nil {
				return fmt.Errorf("kernel modules: %s: %w", file, err)
			}
		}
		a.File(path.Join(root, Plain(file)), 0o644, data)
		fmt.Fprintf(&dep, "%s:", Plain(file))
		for _, need := range m.deps[file] {
			fmt.Fprintf(&dep, " %s", Plain(need))
		}
		dep.WriteByte('\n')
	}
	var alias bytes.Buffer
	err := eachLine(filepath.Join(m.dir, "modules.alias"), func(line string) {
		if f := strings.Fields(line); len(f) == 3 && names[strings.ReplaceAll(f[2], "-", "_")] {
			fmt.Fprintln(&alias, line)
		}
	})
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(m.dir, "modules.builtin"))
	if err != nil {
		return fmt.Errorf("kernel modules: %w", err)
	}
	a.File(path.Join(root, "modules.dep"), 0o644, dep.Bytes())
	a.File(path.Join(root, "modules.alias"), 0o644, alias.Bytes())
	a.File(path.Join(root, "modules.builtin"), 0o644, builtin)
	return nil
}

// Plain is the file under which AddTo stores a module: unpacked.
func Plain(file string) string { return strings.TrimSuffix(file, ".xz") }

func unxz(data []byte) ([]byte, error) {
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
