package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kernelMeta is the package that depends on Debian's current generic kernel.
// The cloud kernel is smaller but has no drivers for real machines.
func (c Cache) kernelMeta() string {
	if c.Arch == "" {
		return "linux-image-amd64"
	}
	return "linux-image-" + c.Arch
}

// Kernel is an unpacked kernel package.
type Kernel struct {
	Package Package
	Version string // "6.1.0-56-amd64"
	Image   string // path of vmlinuz
	Modules string // path of …/lib/modules/VERSION, with depmod's lists
}

// Kernel fetches and unpacks Debian's generic kernel.
func (c Cache) Kernel(ctx context.Context) (Kernel, error) {
	meta, err := c.Lookup(ctx, c.kernelMeta())
	if err != nil {
		return Kernel{}, err
	}
	name, _, _ := strings.Cut(meta.Depends, " ")
	name = strings.TrimSuffix(name, ",")
	version, ok := strings.CutPrefix(name, "linux-image-")
	if !ok {
		return Kernel{}, fmt.Errorf("package %s depends on %q, which is no kernel", meta.Name, meta.Depends)
	}
	p, tree, err := c.Unpack(ctx, name)
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{Package: p, Version: version, Image: filepath.Join(tree, "boot", "vmlinuz-"+version)}
	if _, err := os.Stat(k.Image); err != nil {
		return Kernel{}, fmt.Errorf("package %s: %w", name, err)
	}
	// lib, or usr/lib since Debian 13.
	for _, lib := range []string{"lib", "usr/lib"} {
		k.Modules = filepath.Join(tree, lib, "modules", version)
		if _, err := os.Stat(k.Modules); err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(k.Modules, "modules.dep")); err == nil {
			return k, nil
		}
		c.log("listing the modules of kernel %s", version)
		base := filepath.Dir(filepath.Dir(filepath.Dir(k.Modules)))
		if _, err := run(ctx, "", "depmod", "-b", base, version); err != nil {
			return Kernel{}, fmt.Errorf("list the kernel's modules: %w; is the package kmod installed?", err)
		}
		return k, nil
	}
	return Kernel{}, fmt.Errorf("package %s holds no modules", name)
}
