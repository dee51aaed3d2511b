package netboot

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Machine is who a packet says it is from. Nothing in it is proven: anybody on
// the wire can send any MAC and any UUID.
type Machine struct {
	MAC      string     // lower case, colons
	UUID     string     // SMBIOS UUID in the order it came, lower case; empty when not told
	Firmware Firmware   // what asked
	Addr     netip.Addr // its address, when it has one
}

// UUIDs returns both readings of the machine's UUID: as it came, and with the
// first three fields byte-swapped. Firmware sends the 16 bytes as SMBIOS keeps
// them (little-endian fields), some of it after swapping, and Linux prints the
// swapped form: one of the two is the one an inventory holds.
func (m Machine) UUIDs() []string {
	if m.UUID == "" {
		return nil
	}
	b, err := hex.DecodeString(strings.ReplaceAll(m.UUID, "-", ""))
	if err != nil || len(b) != 16 {
		return nil
	}
	swapped := formatUUID([]byte{
		b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6],
		b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15],
	})
	if swapped == m.UUID {
		return []string{m.UUID}
	}
	return []string{m.UUID, swapped}
}

// sameUUID is one of both readings, the same for all that tell this UUID: firmware
// and iPXE disagree about the order of its bytes, and so do two packets of one boot.
func (m Machine) sameUUID() string {
	if all := m.UUIDs(); len(all) > 0 {
		return slices.Min(all)
	}
	return ""
}

// ParseMAC reads an Ethernet address written with colons or hyphens and
// returns it in lower case with colons. Group addresses and the zero address
// identify no machine and are refused.
func ParseMAC(s string) (string, bool) {
	if len(s) != 17 {
		return "", false
	}
	hw, err := net.ParseMAC(s)
	if err != nil {
		return "", false
	}
	return macOf(hw)
}

// macOf is the canonical form of a machine's Ethernet address.
func macOf(hw net.HardwareAddr) (string, bool) {
	if len(hw) != 6 || hw[0]&1 != 0 || hw.String() == "00:00:00:00:00:00" {
		return "", false
	}
	return hw.String(), true
}

// ParseUUID reads a UUID in its 36-character form and returns it in lower
// case. All-zero and all-one UUIDs are placeholders and are refused.
func ParseUUID(s string) (string, bool) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return "", false
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil {
		return "", false
	}
	return uuidOf(b)
}

// uuidFromOption97 reads the client machine identifier (RFC 4578 section 2.3):
// a type byte, 0, and 16 bytes. Firmware that sends anything else simply has
// no UUID.
func uuidFromOption97(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	uuid, _ := uuidOf(b[1:])
	return uuid
}

// uuidOf formats 16 bytes unless they are a placeholder.
func uuidOf(b []byte) (string, bool) {
	if len(b) != 16 {
		return "", false
	}
	same := true
	for _, c := range b {
		same = same && c == b[0]
	}
	if same && (b[0] == 0 || b[0] == 0xff) {
		return "", false
	}
	return formatUUID(b), true
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
