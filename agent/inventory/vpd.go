package inventory

import (
	"encoding/binary"
	"encoding/hex"
)

// Vital product data pages of SCSI (SPC-4, section 7.8) as the kernel keeps
// them: byte 1 is the page, bytes 2 and 3 the length of what follows.

// vpdBody checks the head of a page and returns what follows.
func vpdBody(b []byte, page byte) []byte {
	if len(b) < 4 || b[1] != page {
		return nil
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	return b[4:min(len(b), 4+n)]
}

// parseVPD80 reads the unit serial number page.
func parseVPD80(b []byte) string { return clean(string(vpdBody(b, 0x80))) }

// parseVPD83 reads the device identification page and returns the best name of
// the disk itself: NAA, else EUI-64, in the form the kernel gives them.
func parseVPD83(b []byte) string {
	b = vpdBody(b, 0x83)
	var naa, eui string
	for len(b) >= 4 {
		n := int(b[3])
		if len(b) < 4+n {
			break
		}
		id := b[4 : 4+n]
		// Association 0 is the disk; 1 and 2 are its port and target.
		if b[1]>>4&3 == 0 && b[0]&0xf == 1 && len(id) > 0 && !allBytes(id, 0) {
			switch b[1] & 0xf {
			case 3:
				if naa == "" && (n == 8 || n == 16) {
					naa = "naa." + hex.EncodeToString(id)
				}
			case 2:
				if eui == "" && (n == 8 || n == 12 || n == 16) {
					eui = "eui." + hex.EncodeToString(id)
				}
			}
		}
		b = b[4+n:]
	}
	if naa != "" {
		return naa
	}
	return eui
}
