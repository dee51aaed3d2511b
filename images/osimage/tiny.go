package osimage

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lpmos/lpmos/images/debian"
	"github.com/lpmos/lpmos/images/initramfs"
)

// tinyInit is the whole of the tiny system.
//
//go:embed tiny_init.sh
var tinyInit []byte

//go:embed tiny_dhcp.sh
var tinyDHCP []byte

//go:embed tiny_login.sh
var tinyLogin []byte

// tinyDrivers suffice for virtual machines; what they need comes along.
var tinyDrivers = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "e1000", "e1000e", "ahci", "ata_piix", "sd_mod", "nvme",
	"ext4", "vfat", "nls_cp437", "nls_ascii", "nls_utf8",
}

// buildTiny makes a system that lives in its initramfs. It does on first boot
// what an installed system has to: it reads its seed, takes its name, gets an
// address and reports home. It has no accounts; "poweroff" given as a login
// name ends it.
func buildTiny(ctx context.Context, b *builder) error {
	cache := debian.Cache{Dir: b.packages, Log: b.logf}
	kernel, err := cache.Kernel(ctx)
	if err != nil {
		return err
	}
	initrd, err := tinyInitrd(ctx, cache, kernel)
	if err != nil {
		return err
	}
	vmlinuz, err := os.ReadFile(kernel.Image)
	if err != nil {
		return err
	}
	root := filepath.Join(b.work, "root")
	uuid := b.uuid("root file system")
	err = writeFiles(root, map[string]string{
		"boot/vmlinuz": string(vmlinuz),
		"boot/initrd":  string(initrd),
		"boot/grub/grub.cfg": "set timeout=0\n" +
			"menuentry tiny {\n" +
			"\tlinux /boot/vmlinuz root=UUID=" + uuid + " console=tty0 console=ttyS0,115200 quiet panic=10\n" +
			"\tinitrd /boot/initrd\n" +
			"}\n",
		"etc/issue": "The root file system of the tiny image. The system itself lives in /boot/initrd.\n",
	})
	if err != nil {
		return err
	}
	return b.makeDisk(ctx, diskSpec{size: 64 * mib, esp: 8 * mib, fat: 16, root: root, rootUID: uuid})
}

func tinyInitrd(ctx context.Context, cache debian.Cache, kernel debian.Kernel) ([]byte, error) {
	_, tree, err := cache.Unpack(ctx, "busybox-static")
	if err != nil {
		return nil, err
	}
	var busybox []byte
	for _, name := range []string{"bin/busybox", "usr/bin/busybox"} { // the latter since Debian 13
		if busybox, err = os.ReadFile(filepath.Join(tree, name)); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	modules, err := initramfs.Open(kernel.Modules)
	if err != nil {
		return nil, err
	}
	files, err := modules.Resolve(tinyDrivers)
	if err != nil {
		return nil, err
	}
	archive := initramfs.New()
	if err := modules.AddTo(archive, files); err != nil {
		return nil, err
	}
	var order bytes.Buffer
	for _, file := range files {
		fmt.Fprintf(&order, "/lib/modules/%s/%s\n", kernel.Version, initramfs.Plain(file))
	}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", "mnt/root", "mnt/seed"} {
		archive.Dir(dir)
	}
	archive.CharDevice("dev/console", 5, 1)
	archive.File("bin/busybox", 0o755, busybox)
	archive.File("init", 0o755, tinyInit)
	archive.File("etc/drivers", 0o644, order.Bytes())
	archive.File("etc/dhcp", 0o755, tinyDHCP)
	archive.File("bin/console-login", 0o755, tinyLogin)
	archive.File("etc/issue", 0o644, []byte("\nLPMOS tiny image. It has no accounts: log in as \"poweroff\" or \"reboot\".\n\n"))
	var out bytes.Buffer
	if err := archive.WriteZstd(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
