package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"syscall"

	"github.com/goccy/go-yaml"
)

// Remember adds the interfaces to a configuration file that says nothing of them
// yet, at its end, and leaves all else in it as it is. A file that is not there is
// made, readable for everybody: nothing in it is secret.
func Remember(file string, interfaces []Interface) error {
	old, err := os.ReadFile(file)
	made := errors.Is(err, fs.ErrNotExist)
	if err != nil && !made {
		return fmt.Errorf("add to the configuration: %w", err)
	}
	now, err := remembering(file, old, interfaces)
	if err != nil {
		return fmt.Errorf("add to the configuration: %w", err)
	}
	if made {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = replace(file, now)
	}
	if err != nil {
		return fmt.Errorf("add to the configuration: %w", err)
	}
	return nil
}

// remembering is the file as it will be. It is read once more before anybody relies
// on it: whoever wrote it may have ended it in a way that nothing can follow.
func remembering(file string, old []byte, interfaces []Interface) ([]byte, error) {
	if interfaces == nil {
		interfaces = []Interface{}
	}
	var before, after Config
	keys, err := parseYAML(file, old, &before)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k == "interfaces" {
			return nil, fmt.Errorf("%s has interfaces already", file)
		}
	}
	added, err := yaml.MarshalWithOptions(struct {
		Interfaces []Interface `yaml:"interfaces"`
	}{interfaces}, yaml.IndentSequence(true))
	if err != nil {
		return nil, err
	}
	now := append([]byte(nil), old...)
	if len(now) == 0 {
		now = append(now, "# Configuration of an LPMOS node; lpmos config reference prints every key.\n"...)
	} else if now[len(now)-1] != '\n' {
		now = append(now, '\n')
	}
	now = append(now, "\n# Answered when lpmos up asked.\n"...)
	now = append(now, added...)
	if _, err := parseYAML(file, now, &after); err != nil {
		return nil, err
	}
	before.Interfaces = interfaces
	if len(after.Interfaces) == 0 {
		after.Interfaces = []Interface{}
	}
	if !reflect.DeepEqual(before, after) {
		return nil, fmt.Errorf("%s cannot be added to at its end; write it there yourself:\n%s", file, added)
	}
	return now, nil
}

// replace puts new content in the place of a file, whole or not at all, with the
// owner and the rights that the old one had.
func replace(file string, content []byte) error {
	mode := fs.FileMode(0o644)
	owner := func(*os.File) error { return nil }
	if info, err := os.Stat(file); err == nil {
		mode = info.Mode().Perm()
		was := info.Sys().(*syscall.Stat_t)
		owner = func(f *os.File) error { return f.Chown(int(was.Uid), int(was.Gid)) }
	}
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real // a link stays one
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".lpmos-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, owner(f), f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // what failed is said
	}
	return err
}
