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

// Names under which shim and GRUB ask. shim's second stage has a fixed name.
const (
	LoaderShim = "shimx64.efi"
	LoaderGRUB = "grubx64.efi"
)

// grubConfig is how the path of a boot ends for GRUB.
const grubConfig = "grub.cfg"

// asksGRUB says whether a file's name is one under which GRUB looks for what to do:
// the first of them is found, the others are for other builds of GRUB.
func asksGRUB(name string) bool {
	switch strings.TrimLeft(name, "/") {
	case "grub/x86_64-efi/grub.cfg", "grub/grub.cfg", "boot/grub/grub.cfg":
		return true
	}
	return false
}

// grub speaks GRUB's language. Words are quoted: what an operator adds to the kernel's
// may hold a semicolon, which ends a command.
type grub struct{}

func (grub) name(path string) string { return path + "/" + grubConfig }

// stub has GRUB say who the machine is. The firmware's UUID comes as Linux prints it.
func (g grub) stub(node netip.AddrPort, path string) string {
	return fmt.Sprintf(`set uuid=
smbios --type 1 --get-uuid 8 --set uuid
configfile "(http,%s)%s%s?mac=${net_default_mac}&uuid=${uuid}&platform=efi"
`, node, BootPath, g.name(path))
}

func (g grub) agent(a agentScript) string {
	var words strings.Builder
	for _, word := range strings.Fields(a.words()) {
		words.WriteString(" '" + word + "'")
	}
	return fmt.Sprintf(`echo "LPMOS: starting the agent. %[1]s"
if linux (http,%[2]s)/boot/vmlinuz%[3]s; then
  if initrd (http,%[2]s)/boot/initrd; then
    boot
  fi
fi
echo "LPMOS: the agent could not be started; booting the disk"
%[4]s`, a.Title, a.Node, words.String(), grubLocalBoot)
}

func (grub) local(title string, _ int) string {
	return fmt.Sprintf("echo \"LPMOS: booting the disk. %s\"\n%s", title, grubLocalBoot)
}

func (grub) hold(node netip.AddrPort, title string) string {
	return fmt.Sprintf(`echo "LPMOS: HELD. %s"
echo "LPMOS: release it on the dashboard or with lpmos machine release. Asking again every minute."
while true; do
  sleep 60
  configfile "(http,%s)%s%s"
done
`, title, node, BootPath, grubConfig)
}

const grubLocalBoot = "exit 1\n"
