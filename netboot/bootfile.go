package netboot

import (
	"context"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// bootFile is what the machine's firmware is given to boot; empty for systems
// and when there is nothing, then with a note for the timeline. addr is where the
// machine will ask from, if this node knows.
func (r *responder) bootFile(ctx context.Context, req request, addr netip.Addr) (file, note string) {
	fw := req.machine.Firmware
	if !fw.Netboots() {
		return "", ""
	}
	d := r.fleet.Decide(ctx, req.machine)
	action := d.Action
	if action == BootNothing {
		return "", " and nothing to boot"
	}
	loader := r.loader(fw)
	signed := r.signedOnly(req, d.SecureBoot)
	if d.Reason == strangerTried && req.kind == dhcpv4.MessageTypeDiscover && (signed || loader == LoaderGRUBARM64) {
		r.tell(req, "is left to its disk: it was "+strangerTried)
	}
	switch {
	case loader == LoaderGRUBARM64 && action != BootAgent && action != BootHold:
		return LoaderNone, "" // as for a machine that is given shim
	case signed && (fw.Stage == StageHTTP || action != BootAgent && action != BootHold):
		// What shim starts cannot leave the machine to its disk; its firmware can, and
		// does so at once when there is no such file. Without a name it asks for a minute.
		// GRUB in Debian 12 finds no network after HTTP boot, so that shim is of no use there.
		return r.where(req, LoaderNone), ""
	case signed:
		files, _ := agentFor(fw.CPU)
		loader = files.shim
	case loader == LoaderUEFI && r.uefiLoader == UEFILoaderDrivers:
		loader = LoaderUEFIAll
	}
	switch {
	case fw.Stage == StageIPXE:
		r.loaders.runs(req.machine.MAC)
		return bootURL(r.link.addr, r.bootPort, ipxe{}.name(r.paths.new(req.machine.MAC, addr))), ""
	case loader == "":
		r.stats.add("dhcp.no loader")
		if r.mayComplain() {
			r.log.Warn("no boot loader for this firmware", "mac", req.machine.MAC, "firmware", fw.String(), "arch", fw.ArchCode)
		}
		if fw.Loader() != "" {
			return "", " but no boot file, because this node was built without those for " + fw.CPU
		}
		return "", " but no boot file, because there is none for this architecture"
	}
	return r.where(req, loader), ""
}

// loader is the boot file for the firmware, or empty when this node has none.
func (r *responder) loader(fw Firmware) string {
	if fw.CPU == "arm64" && !(r.files.hasAgent(fw.CPU) && r.files.has(LoaderGRUBARM64)) {
		return ""
	}
	return fw.Loader()
}

// where is a loader as the machine's firmware wants to be told of it.
func (r *responder) where(req request, loader string) string {
	if req.machine.Firmware.Stage == StageHTTP {
		return bootURL(r.link.addr, r.bootPort, loader)
	}
	return loader
}

// signedOnly says whether the machine's firmware starts signed loaders alone; secure is
// whether its agent said so once.
func (r *responder) signedOnly(req request, secure bool) bool {
	fw := req.machine.Firmware
	files, ok := agentFor(fw.CPU)
	if !ok || fw.Platform != "uefi" || fw.Loader() == "" || !r.files.has(files.shim, files.grub) {
		return false
	}
	switch r.uefiLoader {
	case UEFILoaderShim:
		return true
	case UEFILoaderIPXE, UEFILoaderDrivers:
		return false
	}
	signed, vain := r.loaders.asks(req.machine.MAC, secure, r.now())
	if vain != "" {
		r.stats.add("dhcp.loader not started")
		r.tell(req, refused(vain))
	}
	return signed
}

// told is a boot file as people may read of it: the path of a boot is between a
// machine and its node.
func told(req request, file string) string {
	switch {
	case req.machine.Firmware.Stage == StageIPXE:
		return "script"
	case strings.HasSuffix(file, LoaderNone) && req.machine.Firmware.Stage == StageHTTP && req.machine.Firmware.CPU == "arm64":
		return file + toldNone + ": arm64 machines start the agent by PXE only; its firmware goes on with its boot order"
	case strings.HasSuffix(file, LoaderNone):
		return file + toldNone + ": its firmware goes on to its disk"
	}
	return file
}

// toldNone is what stands behind the name of a file that is not to be there.
const toldNone = ", which is none"
