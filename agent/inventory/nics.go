package inventory

import (
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// nics lists the network cards: interfaces with hardware behind them and an
// Ethernet address.
func (m machine) nics(bootMAC string) []wire.NIC {
	list := []wire.NIC{}
	const dir = "sys/class/net/"
	for _, name := range m.list(dir) {
		d := dir + name + "/"
		mac, err := net.ParseMAC(m.text(d + "address"))
		if err != nil || len(mac) != 6 || allBytes(mac, 0) || !m.exists(d+"device") {
			continue
		}
		n := wire.NIC{
			Name:   clean(name),
			MAC:    mac.String(),
			Driver: m.link(d + "device/driver"),
			Bus:    m.pciAddress(d + "device"),
			Link:   m.text(d+"carrier") == "1",
			Boot:   strings.EqualFold(mac.String(), bootMAC),
		}
		// A card without a link says -1 or 4294967295.
		if speed := m.number(d + "speed"); speed > 0 && speed < 10_000_000 {
			n.SpeedMbps = speed
		}
		if m.live {
			m.askCard(&n)
		}
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b wire.NIC) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// pciAddress is the PCI function a device belongs to: itself, or the nearest one
// above it (a virtio card is one step below its function).
func (m machine) pciAddress(dev string) string {
	real, err := filepath.EvalSymlinks(m.path(dev))
	if err != nil {
		return ""
	}
	parts := strings.Split(real, "/")
	for _, part := range slices.Backward(parts) {
		if isPCIAddress(part) {
			return part
		}
	}
	return ""
}

// isPCIAddress recognises "0000:3b:00.1".
func isPCIAddress(s string) bool {
	if len(s) != 12 || s[4] != ':' || s[7] != ':' || s[10] != '.' {
		return false
	}
	return strings.Trim(s, "0123456789abcdef:.") == ""
}

// askCard asks the kernel what is not in /sys: firmware version and address.
func (m machine) askCard(n *wire.NIC) {
	if info, err := ethtoolDriver(n.Name); err == nil {
		n.Firmware = info.firmware
		if n.Driver == "" {
			n.Driver = info.driver
		}
		if n.Bus == "" {
			n.Bus = info.bus
		}
	}
	ifc, err := net.InterfaceByName(n.Name)
	if err != nil {
		return
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return
	}
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() != nil {
			n.IP = ip.IP.String()
			return
		}
	}
}
