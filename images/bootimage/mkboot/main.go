// Command mkboot makes the files a netbooting machine is given: Debian's
// generic kernel, an initramfs with the agent as /init and drivers for common
// servers, and the loaders: iPXE, and the signed ones. Run it through "make boot-image".
//
// The same packages and the same agent give the same bytes.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/images/debian"
	"github.com/lpmos/lpmos/images/initramfs"
)

// sizeLimit is what kernel and initramfs may have together, in bytes: firmware
// loads them into memory, over links as slow as 100 Mbit/s.
const sizeLimit = 32 << 20

// loaders are what firmware is given, and where Debian has it.
var loaders = []struct{ name, pkg, path string }{
	{bootimage.Undionly, "ipxe", "usr/lib/ipxe/undionly.kpxe"},
	{bootimage.SNPOnly, "ipxe", "usr/lib/ipxe/snponly.efi"},
	{bootimage.IPXE, "ipxe", "usr/lib/ipxe/ipxe.efi"},
	{bootimage.Shim, "shim-signed", "usr/lib/shim/shimx64.efi.signed"},
	{bootimage.GRUB, "grub-efi-amd64-signed", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"},
}

func main() {
	agent := flag.String("agent", "bin/lpmos-agent", "the agent's static binary, which becomes /init")
	out := flag.String("out", "images/bootimage/assets", "folder to write to")
	cache := flag.String("cache", "build/cache", "folder that keeps fetched packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	packages := debian.Cache{Dir: *cache, Log: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}}
	if err := run(ctx, packages, *agent, *out); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run gathers every file in memory, then writes them; SOURCES.json comes last,
// so that its presence means that the others are whole.
func run(ctx context.Context, packages debian.Cache, agentPath, out string) error {
	agent, err := os.ReadFile(agentPath)
	if err != nil {
		return fmt.Errorf("the agent: %w; run: make agent", err)
	}
	kernel, err := packages.Kernel(ctx)
	if err != nil {
		return err
	}
	vmlinuz, err := os.ReadFile(kernel.Image)
	if err != nil {
		return err
	}
	initrd, modules, err := buildInitrd(kernel, agent)
	if err != nil {
		return err
	}
	if size := len(vmlinuz) + len(initrd); size > sizeLimit {
		return fmt.Errorf("kernel and initramfs have %d bytes, more than %d", size, sizeLimit)
	}
	set := &fileSet{data: map[string][]byte{}}
	set.add(bootimage.Kernel, vmlinuz, kernel.Package)
	set.add(bootimage.Initrd, initrd, kernel.Package)
	for _, l := range loaders {
		p, tree, err := packages.Unpack(ctx, l.pkg)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(tree, l.path))
		if err != nil {
			return fmt.Errorf("package %s: %w", l.pkg, err)
		}
		set.add(l.name, data, p)
	}
	if err := addProfiles(ctx, packages, set); err != nil {
		return err
	}
	if err := set.write(out); err != nil {
		return err
	}
	fmt.Printf("%s: kernel %s %d bytes, initramfs with %d modules %d bytes\n",
		out, kernel.Version, len(vmlinuz), modules, len(initrd))
	return nil
}

// buildInitrd makes the initramfs: the agent, drivers and nothing else. The
// agent makes and mounts the rest itself.
func buildInitrd(kernel debian.Kernel, agent []byte) (packed []byte, modules int, err error) {
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
}

func (s *fileSet) add(name string, data []byte, from debian.Package) {
	sum := sha256.Sum256(data)
	s.data[name] = data
	s.sources = append(s.sources, bootimage.Source{
		File: name, SHA256: hex.EncodeToString(sum[:]),
		Package: from.Name, Version: from.Version, PackageSHA256: from.SHA256,
	})
}

// write writes the files. The list is removed first and comes back last.
func (s *fileSet) write(dir string) error {
	list := filepath.Join(dir, bootimage.Sources)
	if err := os.Remove(list); err != nil && !os.IsNotExist(err) {
		return err
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
