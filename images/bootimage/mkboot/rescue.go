package main

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/images/debian"
	"github.com/lpmos/lpmos/images/initramfs"
)

// rescueInit is the first process of the rescue system, udhcpcScript what sets an address
// there.
var (
	//go:embed rescue.sh
	rescueInit []byte
	//go:embed udhcpc.sh
	udhcpcScript []byte
)

// memtests are Memtest86+ for each firmware.
var memtests = []struct{ name, path string }{
	{bootimage.MemtestBIOS, "boot/memtest86+x64.bin"},
	{bootimage.MemtestUEFI, "boot/memtest86+x64.efi"},
}

// addProfiles adds the files of the profiles that every node has.
func addProfiles(ctx context.Context, packages debian.Cache, set *fileSet) error {
	p, tree, err := packages.Unpack(ctx, "busybox-static")
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(filepath.Join(tree, "bin/busybox"))
	if err != nil {
		return fmt.Errorf("package busybox-static: %w", err)
	}
	rescue, err := buildRescue(busybox)
	if err != nil {
		return err
	}
	set.add(bootimage.Rescue, rescue, p)
	p, tree, err = packages.Unpack(ctx, "memtest86+")
	if err != nil {
		return err
	}
	for _, m := range memtests {
		data, err := os.ReadFile(filepath.Join(tree, m.path))
		if err != nil {
			return fmt.Errorf("package memtest86+: %w", err)
		}
		set.add(m.name, data, p)
	}
	return nil
}

// buildRescue makes what is laid over the agent's initramfs, whose drivers it uses.
func buildRescue(busybox []byte) ([]byte, error) {
	archive := initramfs.New()
	archive.File("bin/busybox", 0o755, busybox)
	archive.File("rescue", 0o755, rescueInit)
	archive.File("usr/share/udhcpc/default.script", 0o755, udhcpcScript)
	var buf bytes.Buffer
	if err := archive.WriteZstd(&buf); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
