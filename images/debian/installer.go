package debian

import (
	"context"
	_ "embed"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Installer is Debian's own installer as it is booted from the network.
type Installer struct {
	Package Package
	Kernel  string // path
	Initrd  string // path
}

// installerPackage holds it for Debian 12, from any Debian.
const installerPackage = "debian-installer-12-netboot-amd64"

// Installer fetches and unpacks it.
func (c Cache) Installer(ctx context.Context) (Installer, error) {
	p, tree, err := c.Unpack(ctx, installerPackage)
	if err != nil {
		return Installer{}, err
	}
	dir := filepath.Join(tree, "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64")
	i := Installer{Package: p, Kernel: filepath.Join(dir, "linux"), Initrd: filepath.Join(dir, "initrd.gz")}
	for _, path := range []string{i.Kernel, i.Initrd} {
		if _, err := os.Stat(path); err != nil {
			return Installer{}, fmt.Errorf("package %s: %w", installerPackage, err)
		}
	}
	return i, nil
}

// InstallerArgs is the template of the installer's kernel line: it asks nothing, not even
// whether a network without a way out or names is meant, and gets its answers from the node. In {{braces}} stands what is filled in for each machine.
const InstallerArgs = "auto=true priority=critical url={{answers}}preseed.cfg interface=auto netcfg/no_default_route=true netcfg/get_nameservers= hostname={{name}} domain= console=tty0 console=ttyS0,115200"

//go:embed preseed.cfg
var preseed string

// Preseed is the template of a preseed that installs onto the one disk that was approved,
// from the mirror, and asks nothing. rootPassword is a crypt(3) hash, or empty: then nobody can log in
// as root but by what keys hold, lines of an authorized_keys file.
func Preseed(mirror, rootPassword string, keys []string) (string, error) {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !plain(u.Host) || !plain(u.Path) {
		return "", fmt.Errorf("mirror %.100q: give an address like http://deb.debian.org/debian; the installer checks what it fetches by signature", mirror)
	}
	if !hash(rootPassword) {
		return "", fmt.Errorf("the root password has to be a crypt(3) hash, as mkpasswd -m yescrypt makes it")
	}
	login := "d-i passwd/root-login boolean true\nd-i passwd/root-password-crypted password " + rootPassword
	if rootPassword == "" {
		login = "d-i passwd/root-login boolean true\nd-i passwd/root-password-crypted password !"
	}
	for _, k := range keys {
		if strings.ContainsAny(k, "\r\n\\%'\"$`{}") || len(strings.Fields(k)) < 2 {
			return "", fmt.Errorf("%.60q is no line of an authorized_keys file that can stand in a preseed", k)
		}
	}
	return strings.NewReplacer("@MIRROR_HOST@", u.Host, "@MIRROR_DIRECTORY@", "/"+strings.Trim(u.Path, "/"), "@LOGIN@", login,
		"@KEYS@", strings.Join(keys, `\n`)).Replace(preseed), nil
}

// plain reports whether a part of an address means nothing to a preseed or a shell.
func plain(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:/_-") == ""
}

// hash reports whether s is empty or may be a crypt(3) hash.
func hash(s string) bool {
	return s == "" || strings.HasPrefix(s, "$") && len(s) > 10 && len(s) < 200 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./$=,-") == ""
}
