package inventory

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/lpmos/lpmos/agent/wire"
)

// structure is one SMBIOS structure (DSP0134, section 6.1).
type structure struct {
	kind    byte
	data    []byte   // with the four-byte header
	strings []string // numbered from 1 in the data
}

// Types of structures that are read (DSP0134, section 7).
const (
	smbiosBIOS     = 0
	smbiosSystem   = 1
	smbiosBoard    = 2
	smbiosChassis  = 3
	smbiosMemory   = 17
	smbiosIPMI     = 38
	smbiosEndTable = 127
)

// parseSMBIOS walks the table. A structure that does not fit ends the walk: what
// comes after cannot be trusted.
func parseSMBIOS(b []byte) []structure {
	var list []structure
	for len(b) >= 4 {
		n := int(b[1])
		if n < 4 || n > len(b) {
			break
		}
		s := structure{kind: b[0], data: b[:n]}
		b = b[n:]
		for {
			end := 0
			for end < len(b) && b[end] != 0 {
				end++
			}
			if end == len(b) {
				return list // no end: cut off
			}
			if end == 0 {
				// An empty set of strings is two zeros, a set's end is one more.
				if len(s.strings) == 0 {
					if len(b) < 2 {
						return list
					}
					b = b[1:]
				}
				b = b[1:]
				break
			}
			s.strings = append(s.strings, clean(string(b[:end])))
			b = b[end+1:]
		}
		list = append(list, s)
		if s.kind == smbiosEndTable {
			break
		}
	}
	return list
}

// byteAt, word and long return 0 past the end: older tables are shorter.
func (s structure) byteAt(off int) byte {
	if off >= len(s.data) {
		return 0
	}
	return s.data[off]
}

func (s structure) word(off int) uint16 {
	if off+2 > len(s.data) {
		return 0
	}
	return binary.LittleEndian.Uint16(s.data[off:])
}

func (s structure) long(off int) uint32 {
	if off+4 > len(s.data) {
		return 0
	}
	return binary.LittleEndian.Uint32(s.data[off:])
}

// str returns the string numbered by the byte at off.
func (s structure) str(off int) string {
	n := int(s.byteAt(off))
	if n == 0 || n > len(s.strings) {
		return ""
	}
	return s.strings[n-1]
}

// first returns the first structure of a type; the zero one has no values.
func first(list []structure, kind byte) structure {
	for _, s := range list {
		if s.kind == kind {
			return s
		}
	}
	return structure{}
}

// system reads types 1, 2 and 3, and where there is no table what the kernel
// shows in its stead (ARM boards).
func (m machine) system(tables []structure) wire.System {
	sys, board, chassis := first(tables, smbiosSystem), first(tables, smbiosBoard), first(tables, smbiosChassis)
	if len(tables) == 0 {
		id := func(name string) string { return m.text("sys/class/dmi/id/" + name) }
		return wire.System{
			Vendor: id("sys_vendor"), Product: id("product_name"), Serial: id("product_serial"),
			UUID: strings.ToLower(id("product_uuid")), BoardVendor: id("board_vendor"), BoardProduct: id("board_name"),
			BoardSerial: id("board_serial"), ChassisSerial: id("chassis_serial"), AssetTag: id("chassis_asset_tag"),
		}
	}
	return wire.System{
		Vendor:        sys.str(4),
		Product:       sys.str(5),
		Serial:        sys.str(7),
		UUID:          smbiosUUID(sys),
		BoardVendor:   board.str(4),
		BoardProduct:  board.str(5),
		BoardSerial:   board.str(7),
		ChassisSerial: chassis.str(7),
		AssetTag:      chassis.str(8),
	}
}

// smbiosUUID formats the UUID with its first three fields little-endian, as
// SMBIOS 2.6 has it and Linux prints it. All zeros and all ones mean none.
func smbiosUUID(s structure) string {
	if len(s.data) < 24 {
		return ""
	}
	u := s.data[8:24]
	if allBytes(u, 0) || allBytes(u, 0xff) {
		return ""
	}
	return guidString(u)
}

// guidString prints sixteen bytes in the mixed order of SMBIOS and GPT.
func guidString(u []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%s-%s",
		binary.LittleEndian.Uint32(u), binary.LittleEndian.Uint16(u[4:]), binary.LittleEndian.Uint16(u[6:]),
		hex.EncodeToString(u[8:10]), hex.EncodeToString(u[10:16]))
}

func allBytes(b []byte, v byte) bool {
	for _, x := range b {
		if x != v {
			return false
		}
	}
	return true
}

// dimms reads type 17.
func dimms(tables []structure) []wire.DIMM {
	var list []wire.DIMM
	for _, s := range tables {
		if s.kind != smbiosMemory {
			continue
		}
		size := dimmBytes(s)
		if size == 0 {
			continue // an empty slot
		}
		speed := int(s.word(0x20)) // configured
		if speed == 0 || speed == 0xffff {
			speed = int(s.word(0x15))
		}
		if speed == 0xffff {
			speed = 0
		}
		list = append(list, wire.DIMM{
			Slot: s.str(0x10), SizeBytes: size, Type: memoryType(s.byteAt(0x12)), SpeedMTs: speed,
			Manufacturer: s.str(0x17), Serial: s.str(0x18), Part: s.str(0x1a),
		})
	}
	return list
}

// dimmBytes decodes the size (DSP0134, sections 7.18.4 and 7.18.5): 0 is empty,
// ffff unknown, 7fff "see the extended field", bit 15 chooses kilobytes.
func dimmBytes(s structure) uint64 {
	switch n := s.word(0x0c); {
	case n == 0 || n == 0xffff:
		return 0
	case n == 0x7fff:
		return uint64(s.long(0x1c)&0x7fffffff) << 20
	case n&0x8000 != 0:
		return uint64(n&0x7fff) << 10
	default:
		return uint64(n) << 20
	}
}

// memoryType names the types still met in machines (DSP0134, table 78).
func memoryType(b byte) string {
	switch b {
	case 0x07:
		return "RAM"
	case 0x13:
		return "DDR2"
	case 0x18:
		return "DDR3"
	case 0x1a:
		return "DDR4"
	case 0x1e:
		return "LPDDR4"
	case 0x20:
		return "HBM"
	case 0x22:
		return "DDR5"
	case 0x23:
		return "LPDDR5"
	}
	return ""
}
