// Package debian takes files out of Debian packages. Packages come through the
// apt of the machine this runs on, from whatever source it is configured with,
// and apt checks their signatures; they are kept in a cache by digest, so a
// second run needs no network. Packages of another architecture come the same
// way, and the machine is not told that there is one: see apt.go.
package debian

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Package is one version of a binary package.
type Package struct {
	Name         string
	Version      string
	Architecture string // Debian's name: "amd64", "arm64", "all"
	SHA256       string // of the .deb
	Depends      string // the control field
}

// Cache fetches and unpacks packages below Dir.
type Cache struct {
	Dir  string
	Arch string                           // of the packages, as Debian calls it; empty: this machine's
	Log  func(format string, args ...any) // tells what is being done; nil: nothing is
}

func (c Cache) log(format string, args ...any) {
	if c.Log != nil {
		c.Log(format, args...)
	}
}

// Lookup asks apt for the version of a package it would install.
func (c Cache) Lookup(ctx context.Context, name string) (Package, error) {
	out, err := c.apt(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if err != nil {
		return Package{}, fmt.Errorf("package %s: %w; is the package list there? run: apt-get update", name, err)
	}
	p := parseControl(out)
	if p.Name != name || p.Version == "" || len(p.SHA256) != 64 {
		return Package{}, fmt.Errorf("package %s: apt does not say what it would install; run: apt-get update", name)
	}
	return p, nil
}

// parseControl reads the first paragraph of a control file.
func parseControl(data []byte) Package {
	var p Package
	s := bufio.NewScanner(bytes.NewReader(data))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "":
			return p
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Architecture = value
		case "SHA256":
			p.SHA256 = strings.ToLower(value)
		case "Depends":
			p.Depends = value
		}
	}
	return p
}

// Unpack returns a folder with the files of a package, fetching it when it is
// not in the cache.
func (c Cache) Unpack(ctx context.Context, name string) (Package, string, error) {
	p, err := c.Lookup(ctx, name)
	if err != nil {
		return Package{}, "", err
	}
	dir := filepath.Join(c.Dir, p.Name+"_"+p.SHA256[:16])
	if _, err := os.Stat(dir); err == nil {
		return p, dir, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return Package{}, "", fmt.Errorf("package cache: %w", err)
	}
	work, err := os.MkdirTemp(c.Dir, ".fetch-")
	if err != nil {
		return Package{}, "", fmt.Errorf("package cache: %w", err)
	}
	defer os.RemoveAll(work)
	c.log("fetching package %s %s", p.Name, p.Version)
	if _, err := c.apt(ctx, work, "apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", p.Name+"="+p.Version); err != nil {
		return Package{}, "", fmt.Errorf("package %s: %w", name, err)
	}
	debs, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil || len(debs) != 1 {
		return Package{}, "", fmt.Errorf("package %s: apt-get download left %d files instead of one", name, len(debs))
	}
	if err := checkSum(debs[0], p.SHA256); err != nil {
		return Package{}, "", fmt.Errorf("package %s: %w", name, err)
	}
	tree := filepath.Join(work, "tree")
	if _, err := run(ctx, "", "dpkg-deb", "-x", debs[0], tree); err != nil {
		return Package{}, "", fmt.Errorf("package %s: %w", name, err)
	}
	if err := os.Rename(tree, dir); err != nil {
		return Package{}, "", fmt.Errorf("package cache: %w", err)
	}
	return p, dir, nil
}

// checkSum compares a file with its SHA-256.
func checkSum(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("SHA-256 is %s, want %s", got, want)
	}
	return nil
}

// run runs a program and returns what it prints; what it complains about
// becomes part of the error.
func run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", program, err, lastLine(complaint.String()))
	}
	return out, nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
