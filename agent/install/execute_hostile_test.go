package install

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// S57: nothing out of an image is run by the agent, and nothing else by its name
// either: what makes a disk boot is written by the agent itself.
func TestS57_NothingOfAnImageIsRun(t *testing.T) {
	image := gptImage(t, 33*mib)
	mke2fs := tool(t, "mke2fs", "e2fsprogs")
	dir := t.TempDir()
	mark := filepath.Join(dir, "pwned")
	script := []byte("#!/bin/sh\necho \"$0\" >> " + mark + "\n")
	root, programs := filepath.Join(dir, "root"), filepath.Join(dir, "programs")
	for _, name := range []string{"sh", "bash", "mount", "umount", "chroot", "grub-install", "update-grub", "efibootmgr", "sgdisk", "sfdisk", "parted", "partprobe", "blockdev", "wipefs", "mkfs.vfat", "resize2fs", "e2fsck", "growpart", "udevadm", "qemu-img", "dd", "gzip"} {
		for _, path := range []string{filepath.Join(root, "usr/sbin", name), filepath.Join(root, "bin", name), filepath.Join(root, "etc/kernel/postinst.d", name), filepath.Join(programs, name)} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, script, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	partition := filepath.Join(dir, "root.ext4")
	if err := os.WriteFile(partition, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(partition, 16*mib); err != nil {
		t.Fatal(err)
	}
	sh(t, mke2fs, "-q", "-t", "ext4", "-d", root, partition)
	content, err := os.ReadFile(partition)
	if err != nil {
		t.Fatal(err)
	}
	copy(image[12*mib:], content) // the third partition begins there

	const size = 96 * mib
	src := newSource(t, image, 512)
	g := grantFor(src.man, size, wire.Contents{})
	g.Plan.FirstBoot.UserData = string(script)
	g.PlanHash = g.Plan.Hash()
	d := newMemDisk(size, 512)
	t.Setenv("PATH", programs+":"+filepath.Join(root, "usr/sbin"))
	t.Chdir(root)
	if err := installTo(context.Background(), g, src, d, nil); err != nil {
		t.Fatal(err)
	}
	if ran, err := os.ReadFile(mark); err == nil {
		t.Errorf("programs were run:\n%s", ran)
	}
	if !bytes.Contains(d.view, script) || !bytes.Equal(d.view[:440], image[:440]) {
		t.Error("the image is not on the disk, so this has shown nothing")
	}
}
