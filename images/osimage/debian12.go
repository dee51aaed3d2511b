package osimage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianPackages are what the image holds besides Debian's essential set. The
// generic kernel is taken, since the cloud one lacks drivers for real machines.
var debianPackages = []string{
	"linux-image-amd64", "initramfs-tools", "zstd", "systemd-sysv", "dbus", "udev", "kmod", "e2fsprogs",
	"cloud-init", "netplan.io", "systemd-resolved", "iproute2", "iputils-ping", "openssh-server", "ca-certificates",
	"sudo", "procps", "less", "nano", "login",
}

// debianExclude are files a server does without, as dpkg's path-exclude. The
// rule stays in the image, so that a new kernel does not bring them back.
var debianExclude = []string{
	"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*",
	"/lib/modules/*/kernel/sound/*", "/lib/modules/*/kernel/drivers/media/*", "/lib/modules/*/kernel/drivers/net/wireless/*",
	"/lib/modules/*/kernel/drivers/gpu/drm/amd/*", "/lib/modules/*/kernel/drivers/gpu/drm/nouveau/*",
	"/lib/modules/*/kernel/drivers/gpu/drm/radeon/*", "/lib/modules/*/kernel/drivers/gpu/drm/i915/*",
	"/lib/modules/*/kernel/drivers/staging/*", "/lib/modules/*/kernel/drivers/iio/*",
	"/lib/modules/*/kernel/drivers/bluetooth/*", "/lib/modules/*/kernel/net/bluetooth/*", "/lib/modules/*/kernel/drivers/isdn/*",
}

// cloudConfig makes the first boot quick: one source is looked for, and only
// the modules that matter on a machine of one's own are run. The installer has
// already grown the partition; resizefs grows the file system.
const cloudConfig = `datasource_list: [NoCloud, None]
locale: false
growpart: {mode: "off"}
resize_rootfs: true
cloud_init_modules:
  - bootcmd
  - write-files
  - disk_setup
  - mounts
  - resizefs
  - set_hostname
  - update_hostname
  - update_etc_hosts
  - users-groups
  - ssh
cloud_config_modules:
  - ssh-import-id
  - set-passwords
  - ntp
  - timezone
  - apt-configure
  - runcmd
cloud_final_modules:
  - package-update-upgrade-install
  - write-files-deferred
  - scripts-vendor
  - scripts-per-once
  - scripts-per-boot
  - scripts-per-instance
  - scripts-user
  - phone-home
  - final-message
  - power-state-change
`

// buildDebian makes Debian 12 with cloud-init. It has no password at all: who
// may enter is told by the seed.
func buildDebian(ctx context.Context, b *builder) error {
	sources, err := debianSources(ctx, "bookworm")
	if err != nil {
		return err
	}
	root := filepath.Join(b.work, "root")
	b.logf("installing Debian packages; this takes a minute or two")
	args := []string{"--mode=root", "--variant=minbase", "--format=directory", "--include=" + strings.Join(debianPackages, ",")}
	for _, pattern := range debianExclude {
		args = append(args, "--dpkgopt=path-exclude="+pattern)
	}
	if err := b.run(ctx, sources, "mmdebstrap", append(args, "bookworm", root, "-")...); err != nil {
		return err
	}
	uuid := b.uuid("root file system")
	if err := finishDebian(root, uuid); err != nil {
		return err
	}
	return b.makeDisk(ctx, diskSpec{size: 1280 * mib, esp: 64 * mib, fat: 32, root: root, rootUID: uuid})
}

// debianSources lists where this machine's own apt gets a Debian release from,
// for use as a sources.list.
func debianSources(ctx context.Context, release string) ([]byte, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN)|$(CODENAME)|deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(REPO_URI) $(CODENAME) $(COMPONENT)",
		"Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for its sources: %w", err)
	}
	return filterSources(out, release)
}

// filterSources keeps main of a release, its updates and its security fixes.
func filterSources(targets []byte, release string) ([]byte, error) {
	var list bytes.Buffer
	seen := map[string]bool{}
	for line := range strings.Lines(string(targets)) {
		origin, rest, _ := strings.Cut(strings.TrimSpace(line), "|")
		codename, source, _ := strings.Cut(rest, "|")
		base, suffix, _ := strings.Cut(codename, "-")
		wanted := suffix == "" || suffix == "updates" || suffix == "security"
		if origin != "Debian" || base != release || !wanted || !strings.HasSuffix(source, " main") || seen[source] {
			continue
		}
		seen[source] = true
		fmt.Fprintln(&list, source)
	}
	if list.Len() == 0 {
		return nil, fmt.Errorf("apt on this machine knows no source for Debian %s; add one to /etc/apt/sources.list.d and run: apt-get update", release)
	}
	return list.Bytes(), nil
}

// finishDebian makes a fresh Debian tree bootable and removes what each machine
// must have of its own.
func finishDebian(root, uuid string) error {
	// A new kernel moves these links; the boot configuration stays as it is.
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		if _, err := os.Lstat(filepath.Join(root, name)); err != nil {
			return fmt.Errorf("the kernel package left no /%s: %w", name, err)
		}
	}
	for _, pattern := range []string{
		"etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "var/lib/systemd/random-seed",
		// Where the packages came from is this machine's affair; cloud-init
		// writes Debian's own sources on first boot.
		"etc/apt/sources.list", "etc/apt/sources.list.d/*", "var/lib/apt/lists/*",
		"etc/cloud/cloud.cfg.d/90_dpkg.cfg", "var/log/*.log", "var/log/apt/*", "var/cache/apt/*.bin", "vmlinuz.old", "initrd.img.old",
	} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range paths {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	err := writeFiles(root, map[string]string{
		// Empty, not absent: systemd then makes one on first boot.
		"etc/machine-id":                     "",
		"etc/fstab":                          "UUID=" + uuid + " / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077,nofail 0 2\n",
		"etc/cloud/cloud.cfg.d/99_lpmos.cfg": cloudConfig,
		"boot/grub/grub.cfg": "set timeout=1\n" +
			"menuentry Debian {\n" +
			"\tlinux /vmlinuz root=UUID=" + uuid + " ro console=tty0 console=ttyS0,115200\n" +
			"\tinitrd /initrd.img\n" +
			"}\n",
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "boot/efi"), 0o755); err != nil {
		return err
	}
	// minbase brings no resolver file of systemd's when it is first unpacked in
	// a place that has one of its own.
	resolv := filepath.Join(root, "etc/resolv.conf")
	if err := os.Remove(resolv); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink("../run/systemd/resolve/stub-resolv.conf", resolv)
}
