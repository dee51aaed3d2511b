// Command mkboot makes the files a netbooting machine is given: Debian's
// generic kernel, an initramfs with the agent as /init and drivers for common
// servers, and the loaders: iPXE, and the signed ones; the same again for arm64, if
// its packages can be had. Run it through "make boot-image".
//
// The same packages and the same agent give the same bytes.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/images/debian"
	"github.com/lpmos/lpmos/images/initramfs"
)

// sizeLimit is what a machine fetches of kernel and initramfs together, in bytes:
// firmware loads them into memory, over links as slow as 100 Mbit/s.
const sizeLimit = 32 << 20

// loader is what firmware is given, and where Debian has it.
type loader struct{ name, pkg, path string }

// arch is what is made for one architecture.
type arch struct {
	debian         string // its name; empty: of the machine this runs on
	drivers        []string
	kernel, initrd string // the files
	packed         bool   // the kernel is packed here, since Debian does not
	limit          int    // of kernel and initramfs, in bytes
	loaders        []loader
}

var amd64 = arch{drivers: slices.Concat(drivers, driversAMD64), kernel: bootimage.Kernel, initrd: bootimage.Initrd, limit: sizeLimit, loaders: []loader{
	{bootimage.Undionly, "ipxe", "usr/lib/ipxe/undionly.kpxe"},
	{bootimage.SNPOnly, "ipxe", "usr/lib/ipxe/snponly.efi"},
	{bootimage.IPXE, "ipxe", "usr/lib/ipxe/ipxe.efi"},
	{bootimage.Shim, "shim-signed", "usr/lib/shim/shimx64.efi.signed"},
	{bootimage.GRUB, "grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"},
}}

// Debian has no iPXE for arm64. The kernel alone is 32 MiB.
var arm64 = arch{debian: "arm64", drivers: slices.Concat(drivers, driversARM64), kernel: bootimage.KernelARM64, initrd: bootimage.InitrdARM64, packed: true, limit: 2 * sizeLimit, loaders: []loader{
	{bootimage.ShimARM64, "shim-signed", "usr/lib/shim/shimaa64.efi.signed"},
	{bootimage.GRUBARM64, "grub-efi-arm64-signed", "usr/lib/grub/arm64-efi-signed/grubnetaa64.efi.signed"},
}}

func main() {
	agent := flag.String("agent", "bin/lpmos-agent", "the agent's static binary, which becomes /init")
	agentARM64 := flag.String("agent-arm64", "bin/lpmos-agent-arm64", "the same for arm64")
	out := flag.String("out", "images/bootimage/assets", "folder to write to")
	cache := flag.String("cache", "build/cache", "folder that keeps fetched packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	packages := debian.Cache{Dir: *cache, Log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	if err := run(ctx, packages, *agent, *agentARM64, *out); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run gathers every file in memory, then writes them; SOURCES.json comes last,
// so that its presence means that the others are whole.
func run(ctx context.Context, packages debian.Cache, agent, agentARM64, out string) error {
	set := &fileSet{data: map[string][]byte{}}
	if err := set.make(ctx, packages, amd64, agent); err != nil {
		return err
	}
	if err := addProfiles(ctx, packages, set); err != nil {
		return err
	}
	err := set.make(ctx, packages, arm64, agentARM64)
	if unavailable := (*unavailable)(nil); errors.As(err, &unavailable) {
		fmt.Fprintf(os.Stderr, "warning: this boot image is without arm64, whose packages cannot be had here: %v\n", err)
	} else if err != nil {
		return err
	}
	if err := set.write(out); err != nil {
		return err
	}
	for _, line := range set.made {
		fmt.Printf("%s: %s\n", out, line)
	}
	return nil
}

// unavailable says that a package of an architecture cannot be had.
type unavailable struct{ error }

func (u *unavailable) Unwrap() error { return u.error }

// make adds the files of an architecture, all or none.
func (s *fileSet) make(ctx context.Context, packages debian.Cache, a arch, agentPath string) error {
	agent, err := os.ReadFile(agentPath)
	if err != nil {
		return fmt.Errorf("the agent: %w; run: make agent", err)
	}
	packages.Arch = a.debian
	kernel, err := packages.Kernel(ctx)
	if err != nil {
		return &unavailable{err}
	}
	own := &fileSet{data: map[string][]byte{}}
	for _, l := range a.loaders {
		p, tree, err := packages.Unpack(ctx, l.pkg)
		if err != nil {
			return &unavailable{err}
		}
		data, err := os.ReadFile(filepath.Join(tree, l.path))
		if err != nil {
			return fmt.Errorf("package %s: %w", l.pkg, err)
		}
		own.add(l.name, data, p)
	}
	vmlinuz, err := os.ReadFile(kernel.Image)
	if err != nil {
		return err
	}
	initrd, modules, err := buildInitrd(kernel, a.drivers, agent)
	if err != nil {
		return err
	}
	if size := len(vmlinuz) + len(initrd); size > a.limit {
		return fmt.Errorf("kernel and initramfs have %d bytes, more than %d", size, a.limit)
	}
	line := fmt.Sprintf("kernel %s %d bytes, initramfs with %d modules %d bytes", kernel.Version, len(vmlinuz), modules, len(initrd))
	if a.packed {
		if vmlinuz, err = pack(vmlinuz); err != nil {
			return err
		}
	}
	own.add(a.kernel, vmlinuz, kernel.Package)
	own.add(a.initrd, initrd, kernel.Package)
	maps.Copy(s.data, own.data)
	s.sources = append(s.sources, own.sources...)
	s.made = append(s.made, line)
	return nil
}

// pack packs a kernel. The same bytes make the same bytes.
func pack(kernel []byte) ([]byte, error) {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	return zw.EncodeAll(kernel, nil), nil
}

// buildInitrd makes the initramfs: the agent, drivers and nothing else. The
// agent makes and mounts the rest itself.
func buildInitrd(kernel debian.Kernel, drivers []string, agent []byte) (packed []byte, modules int, err error) {
	list, err := initramfs.Open(kernel.Modules)
	if err != nil {
		return nil, 0, err
	}
	files, err := list.Resolve(drivers)
	if err != nil {
		return nil, 0, err
	}
	archive := initramfs.New()
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp"} {
		archive.Dir(dir)
	}
	archive.CharDevice("dev/console", 5, 1)
	archive.CharDevice("dev/null", 1, 3)
	archive.File("init", 0o755, agent)
	if err := list.AddTo(archive, files); err != nil {
		return nil, 0, err
	}
	var buf bytes.Buffer
	if err := archive.WriteZstd(&buf); err != nil {
		return nil, 0, err
	}
	return buf.Bytes(), len(files), nil
}

// fileSet is the files to be written and where they came from.
type fileSet struct {
	data    map[string][]byte
	sources []bootimage.Source
	made    []string // a line for each architecture
}

func (s *fileSet) add(name string, data []byte, from debian.Package) {
	sum := sha256.Sum256(data)
	s.data[name] = data
	s.sources = append(s.sources, bootimage.Source{
		File: name, SHA256: hex.EncodeToString(sum[:]),
		Package: from.Name, Version: from.Version, Architecture: from.Architecture, PackageSHA256: from.SHA256,
	})
}

// write writes the files. The list is removed first and comes back last.
func (s *fileSet) write(dir string) error {
	list := filepath.Join(dir, bootimage.Sources)
	if err := os.Remove(list); err != nil && !os.IsNotExist(err) {
		return err
	}
	for _, name := range bootimage.NamesARM64() {
		if _, ok := s.data[name]; ok {
			continue
		}
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !os.IsNotExist(err) {
			return err // one of an earlier build would be embedded, and nobody would know it
		}
	}
	for name, data := range s.data {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return err
		}
	}
	doc, err := json.MarshalIndent(s.sources, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(list, append(doc, '\n'), 0o644)
}
