package netboot

import (
	"fmt"
	"net/netip"
	"strings"
)

// UEFI firmware with Secure Boot starts nothing that is not signed by a key it
// knows, and no iPXE that Debian has is. Such a machine is given Debian's shim, which
// most firmware knows by Microsoft's signature; shim fetches GRUB from where it came
// from itself, and GRUB starts the agent's kernel, which Debian has signed, too.
//
// Debian's signed GRUB speaks TFTP and no HTTP, so that all of this goes over TFTP.
//
// On arm64 it is what every machine is given, since Debian has no iPXE for that; and shim
// before it to who does not start GRUB.

// Names under which shim and GRUB ask. shim's second stage has a fixed name.
const (
	LoaderShim = "shimx64.efi"
	LoaderGRUB = "grubx64.efi"
)

// LoaderNone is a boot file that is never there.
const LoaderNone = "none.efi"

// Names of the files that are the same for every machine.
const (
	grubFirst      = "grub/x86_64-efi/grub.cfg" // GRUB looks for it by itself, and then for grubOther
	grubFirstARM64 = "grub/arm64-efi/grub.cfg"
	grubOther      = "grub/grub.cfg"
	grubBegin      = "grub/begin.cfg" // where a machine gets the path of its boot
)

// grubLoop is where GRUB comes back to after a script that has the machine wait. Scripts
// are read in its place (source) and end: GRUB can nest only so many.
func grubLoop(node netip.Addr) string {
	return fmt.Sprintf(`set held=
while true; do
  if source "(tftp,%s)/%s"; then
    true
  elif [ -z "$held" ]; then
    echo "LPMOS: no node answers; booting the disk"
%s  fi
  sleep 5
done
`, node, grubBegin, grubLocalBoot)
}

// grub speaks GRUB's language. Words are quoted: what an operator adds to the kernel's
// may hold a semicolon, which ends a command.
type grub struct{}

// stub has GRUB say who the machine is: net_default_mac is the card it came by, and
// grub_cpu what GRUB was built for.
func (grub) stub(node netip.AddrPort, path string) string {
	return fmt.Sprintf(`set uuid=
smbios --type 1 --get-uuid 8 --set uuid
source "(tftp,%s)%s%s/${net_default_mac}/${uuid}/${grub_cpu}/grub.cfg"
`, node.Addr(), BootPath, path)
}

// asks reads the name of a file that a stub had GRUB ask for.
func (grub) asks(name string) (ask scriptAsk, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 6 || parts[0] != "boot" || parts[5] != "grub.cfg" {
		return ask, false
	}
	return scriptAsk{path: parts[1], mac: parts[2], uuid: parts[3], platform: "efi", built: parts[4]}, true
}

func (grub) agent(a agentScript) string {
	var words strings.Builder
	for _, word := range strings.Fields(a.words()) {
		words.WriteString(" '" + word + "'")
	}
	var tries strings.Builder
	for i, node := range a.nodes() {
		if i > 0 {
			fmt.Fprintf(&tries, "echo \"LPMOS: trying the node at %s\"\n", node.Addr())
		}
		fmt.Fprintf(&tries, `if linux (tftp,%[1]s)/%[3]s%[2]s; then
  if initrd (tftp,%[1]s)/%[4]s; then
    boot
  fi
fi
`, node.Addr(), words.String(), a.Files.kernel, a.Files.initrd)
	}
	return fmt.Sprintf(`echo "LPMOS: starting the agent. %s"
%secho "LPMOS: the agent could not be started; booting the disk"
%s`, a.Title, tries.String(), grubLocalBoot)
}

func (grub) local(title string, _ int) string {
	return fmt.Sprintf("echo \"LPMOS: booting the disk. %s\"\n%s", title, grubLocalBoot)
}

// hold ends, and grubLoop begins anew: with a new path, since this one's time is short.
func (grub) hold(_ netip.AddrPort, title string) string {
	return fmt.Sprintf(`set held=1
echo "LPMOS: HELD. %s"
echo "LPMOS: release it on the dashboard or with lpmos machine release. Asking again every minute."
sleep 60
`, title)
}

// grubLocalBoot starts what the first disk with one offers to any firmware, else what
// systems put under their own names: their entry in the firmware's boot order finds it
// there, and GRUB reads none of those. It is for a machine whose kernel did not come, or
// that was to boot its disk a moment after it was to do something else: GRUB cannot tell
// the firmware to go on with its boot order, so that such a machine is not given GRUB to
// begin with.
const grubLocalBoot = `if [ "$grub_cpu" = arm64 ]; then set cpu=aa64; else set cpu=x64; fi
for dir in BOOT debian ubuntu fedora redhat centos rocky almalinux opensuse sles systemd Microsoft/Boot; do
  for name in BOOT$cpu shim$cpu grub$cpu shim grub systemd-boot$cpu bootmgfw; do
    if search --no-floppy --file --set=root /EFI/$dir/$name.efi; then
      if chainloader /EFI/$dir/$name.efi; then
        boot
      fi
    fi
  done
done
echo "LPMOS: no disk has anything to boot; starting again in a minute"
sleep 60
reboot
`
