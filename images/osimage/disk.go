package osimage

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
)

// grubDir is where Debian's grub-pc-bin and grub-efi-amd64-bin put GRUB.
const grubDir = "/usr/lib/grub"

// grubPrefix is where GRUB finds its configuration: the third partition of the
// disk it was itself loaded from, so that a twin of this disk in the same
// machine is never booted by mistake.
const grubPrefix = "(,gpt3)/boot/grub"

// diskSpec says how large a disk and its parts are, in bytes.
type diskSpec struct {
	size    int64  // of the whole; a multiple of 4 MiB
	esp     int64  // of the EFI system partition
	fat     int    // its FAT bits: 16 or 32
	root    string // folder that becomes the root file system
	rootUID string // UUID of the root file system
}

// makeDisk lays out the disk: GRUB for BIOS, EFI system partition, root. The
// last 4 MiB hold the backup GPT alone.
func (b *builder) makeDisk(ctx context.Context, d diskSpec) error {
	b.logf("writing the disk, %d MiB", d.size/mib)
	const biosAt, espAt = align, 2 * align
	rootAt := espAt + d.esp
	parts := []partition{
		{typeBIOSBoot, b.guid("bios boot"), "BIOS boot", biosAt, align},
		{typeESP, b.guid("esp"), "EFI system", espAt, d.esp},
		{typeLinux, b.guid("root"), "root", rootAt, d.size - align - rootAt},
	}
	f, err := os.Create(b.image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		return err
	}
	bootCode, core, err := b.grubBIOS(ctx, biosAt/sectorBytes)
	if err != nil {
		return err
	}
	if len(core) > align {
		return fmt.Errorf("GRUB for BIOS has %d bytes, more than its partition", len(core))
	}
	if err := writeGPT(f, d.size, b.guid("disk"), bootCode, parts); err != nil {
		return err
	}
	if _, err := f.WriteAt(core, biosAt); err != nil {
		return err
	}
	if err := b.makeESP(ctx, espAt, d); err != nil {
		return err
	}
	if err := b.makeRoot(ctx, rootAt, parts[2].size, d); err != nil {
		return err
	}
	return f.Sync()
}

// grubBIOS makes GRUB for BIOS: the code of the MBR, and the image it loads
// from sector lba. What grub-install would patch into them after asking the
// kernel for the disk is known here beforehand (GRUB 2.06,
// include/grub/i386/pc/boot.h and diskboot.S).
func (b *builder) grubBIOS(ctx context.Context, lba uint64) (bootCode, core []byte, err error) {
	path := filepath.Join(b.work, "core.img")
	err = b.run(ctx, nil, "grub-mkimage", "-O", "i386-pc", "-d", filepath.Join(grubDir, "i386-pc"), "-o", path, "-p", grubPrefix,
		"biosdisk", "part_gpt", "ext2", "normal", "linux", "echo", "test", "configfile", "reboot", "halt")
	if err != nil {
		return nil, nil, err
	}
	if core, err = os.ReadFile(path); err != nil {
		return nil, nil, err
	}
	boot, err := os.ReadFile(filepath.Join(grubDir, "i386-pc", "boot.img"))
	if err != nil {
		return nil, nil, err
	}
	if len(boot) != sectorBytes || len(core) < 2*sectorBytes {
		return nil, nil, fmt.Errorf("GRUB's boot.img has %d bytes and core.img %d", len(boot), len(core))
	}
	binary.LittleEndian.PutUint64(boot[0x5c:], lba) // where core.img begins
	// Two NOPs over a jump: some BIOSes boot from the first hard disk (0x80) and
	// say it was a diskette (0x00); boot.img then corrects the number.
	boot[0x66], boot[0x67] = 0x90, 0x90
	// The first sector of core.img loads the others by this list of one block.
	binary.LittleEndian.PutUint64(core[0x1f4:], lba+1)
	return boot[:440], core, nil
}

// makeESP makes the EFI system partition with GRUB under the name firmware
// looks for on any disk (UEFI specification 2.10 §3.5.1.1).
func (b *builder) makeESP(ctx context.Context, at int64, d diskSpec) error {
	loader := filepath.Join(b.work, "BOOTX64.EFI")
	err := b.run(ctx, nil, "grub-mkimage", "-O", "x86_64-efi", "-d", filepath.Join(grubDir, "x86_64-efi"), "-o", loader, "-p", grubPrefix,
		"part_gpt", "ext2", "fat", "normal", "linux", "echo", "test", "configfile", "reboot", "halt", "efi_gop", "efi_uga", "all_video")
	if err != nil {
		return err
	}
	volume := fmt.Sprintf("%s@@%d", b.image, at)
	format := []string{"-i", volume, "-T", fmt.Sprint(d.esp / sectorBytes), "-h", "64", "-s", "32",
		"-H", fmt.Sprint(at / sectorBytes), "-N", b.uuid("esp volume")[:8], "-v", "ESP"}
	if d.fat == 32 {
		// One sector a cluster: 64 MiB have enough clusters for FAT32 only then.
		format = append(format, "-F", "-c", "1")
	}
	if err := b.run(ctx, nil, "mformat", append(format, "::")...); err != nil {
		return err
	}
	if err := b.run(ctx, nil, "mmd", "-i", volume, "::/EFI", "::/EFI/BOOT"); err != nil {
		return err
	}
	return b.run(ctx, nil, "mcopy", "-i", volume, loader, "::/EFI/BOOT/BOOTX64.EFI")
}

// makeRoot makes the root file system from a folder. Features that GRUB 2.06
// cannot read, or that older kernels refuse, are left out.
func (b *builder) makeRoot(ctx context.Context, at, size int64, d diskSpec) error {
	return b.run(ctx, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-U", d.rootUID, "-m", "1",
		"-O", "^metadata_csum_seed,^orphan_file",
		"-E", fmt.Sprintf("offset=%d,hash_seed=%s,root_owner=0:0,nodiscard", at, d.rootUID),
		"-d", d.root, b.image, fmt.Sprintf("%dk", size/1024))
}

// writeFiles writes small files below a folder.
func writeFiles(root string, files map[string]string) error {
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
