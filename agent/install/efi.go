package install

import "encoding/binary"

// entryName is what our boot entry is called in firmware menus.
const entryName = "LPMOS"

// loadOption encodes an EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3): active,
// named, starting a file on a GPT partition.
func loadOption(name string, esp espPartition, path string) []byte {
	le := binary.LittleEndian
	hd := make([]byte, 42) // section 10.3.5.1
	hd[0], hd[1] = 4, 1    // media, hard drive
	le.PutUint16(hd[2:], 42)
	le.PutUint32(hd[4:], esp.number)
	le.PutUint64(hd[8:], esp.first)
	le.PutUint64(hd[16:], esp.count)
	copy(hd[24:], esp.unique[:])
	hd[40], hd[41] = 2, 2 // GPT, known by GUID

	file := append([]byte{4, 4, 0, 0}, ucs2(path)...) // media, file path
	le.PutUint16(file[2:], uint16(len(file)))
	dp := append(append(hd, file...), 0x7f, 0xff, 4, 0) // end of the path

	opt := le.AppendUint32(nil, 1) // LOAD_OPTION_ACTIVE
	opt = le.AppendUint16(opt, uint16(len(dp)))
	opt = append(opt, ucs2(name)...)
	return append(opt, dp...)
}

// ucs2 encodes ASCII text as UEFI wants it, ending in a zero.
func ucs2(s string) []byte {
	var b []byte
	for _, r := range s {
		b = binary.LittleEndian.AppendUint16(b, uint16(r))
	}
	return append(b, 0, 0)
}

// bootOption is what has to be known of an entry somebody made.
type bootOption struct {
	name    string
	network bool
}

// parseLoadOption reads the description and device path of an EFI_LOAD_OPTION;
// ok is false when it is not one.
func parseLoadOption(b []byte) (o bootOption, ok bool) {
	if len(b) < 6 {
		return o, false
	}
	le := binary.LittleEndian
	pathLen := int(le.Uint16(b[4:]))
	b = b[6:]
	var name []rune
	for {
		if len(b) < 2 {
			return o, false
		}
		c := le.Uint16(b)
		b = b[2:]
		if c == 0 {
			break
		}
		name = append(name, rune(c))
	}
	o.name = string(name)
	if pathLen > len(b) {
		return o, false
	}
	for path := b[:pathLen]; len(path) >= 4; {
		n := int(le.Uint16(path[2:]))
		if n < 4 || n > len(path) {
			return o, false
		}
		// Messaging nodes: MAC address, IPv4, IPv6, URI.
		if path[0] == 3 && (path[1] == 11 || path[1] == 12 || path[1] == 13 || path[1] == 24) {
			o.network = true
		}
		path = path[n:]
	}
	return o, true
}

// bootOrder puts our entry behind the entry that netbooted this machine, so
// that the node decides every start, and before everything else.
func bootOrder(order []uint16, current uint16, currentIsNetwork bool, ours uint16) []uint16 {
	var out []uint16
	if currentIsNetwork && current != ours {
		out = append(out, current)
	}
	out = append(out, ours)
	for _, n := range order {
		if n != ours && !(currentIsNetwork && n == current) {
			out = append(out, n)
		}
	}
	return out
}
