package netboot

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net/netip"
	"strings"
	"time"
)

// pathLife is how long the path of a boot leads anywhere.
const pathLife = 10 * time.Minute

// paths makes and checks the part of a script's address that nobody can guess: it
// is for one machine, at one address, for a while, and says so under a key that
// only nodes know. Nothing is kept of it, so no flood of packets can push out what
// another machine was given, and a node that starts anew still knows its own.
type paths struct {
	key [32]byte
	now func() time.Time
}

// A path is the end in seconds since 1970 and the first 16 bytes of an HMAC over
// that and whom it is for, in small base32: 32 characters.
const (
	pathEndBytes = 4
	pathMACBytes = 16
)

const pathLetters = "abcdefghijklmnopqrstuvwxyz234567"

var pathCoding = base32.NewEncoding(pathLetters).WithPadding(base32.NoPadding)

// new makes the path for the machine with the MAC ("": whichever) at the address
// (zero: wherever).
func (p paths) new(mac string, addr netip.Addr) string {
	end := binary.BigEndian.AppendUint32(nil, uint32(p.now().Add(pathLife).Unix()))
	return pathCoding.EncodeToString(append(end, p.proof(end, mac, addr)...))
}

func (p paths) proof(end []byte, mac string, addr netip.Addr) []byte {
	h := hmac.New(sha256.New, p.key[:])
	h.Write(end)
	h.Write([]byte(mac + " " + addr.String()))
	return h.Sum(nil)[:pathMACBytes]
}

// formed says whether a path could be one, which is all that can be said before
// the machine has told its MAC.
func (p paths) formed(path string) bool {
	_, ok := p.read(path)
	return ok
}

func (p paths) read(path string) ([]byte, bool) {
	if len(path) != pathCoding.EncodedLen(pathEndBytes+pathMACBytes) {
		return nil, false
	}
	b, err := pathCoding.DecodeString(path)
	return b, err == nil && len(b) == pathEndBytes+pathMACBytes
}

// hidePath is a name from the wire as people may read it: the path of a boot is between
// a machine and its node. What is longer than a path and of its letters goes, too: a
// path may have grown by what stood before it.
func hidePath(name string) string {
	least := pathCoding.EncodedLen(pathEndBytes + pathMACBytes)
	var out strings.Builder
	for len(name) > 0 {
		n := 0
		for n < len(name) && strings.IndexByte(pathLetters, name[n]) >= 0 {
			n++
		}
		if n >= least {
			out.WriteString("PATH")
		} else {
			out.WriteString(name[:n])
		}
		if n < len(name) {
			out.WriteByte(name[n])
			n++
		}
		name = name[n:]
	}
	return out.String()
}

// leads says whether a path was made for this machine at this address, and still
// leads to its script. One that was made for an address is good for who has it.
func (p paths) leads(path, mac string, addr netip.Addr) bool {
	return p.runs(path) && (p.exactly(path, mac, addr) || p.exactly(path, "", addr))
}

// anywhere says whether a path was made for this machine before it had an address, and
// still leads to its script, from where it is bound to.
func (p paths) anywhere(path, mac string) bool {
	return p.runs(path) && p.exactly(path, mac, netip.Addr{})
}

// runs says whether a path has not ended, if it is one.
func (p paths) runs(path string) bool {
	b, ok := p.read(path)
	return ok && p.now().Unix() <= int64(binary.BigEndian.Uint32(b[:pathEndBytes]))
}

// exactly says whether a path was made for this machine at this address: the node that
// made it had lent it that.
func (p paths) exactly(path, mac string, addr netip.Addr) bool {
	b, ok := p.read(path)
	return ok && hmac.Equal(b[pathEndBytes:], p.proof(b[:pathEndBytes], mac, addr))
}

// pathOf reads the path of a boot out of what stands below BootPath.
func pathOf(name string) (path string, ok bool) {
	path, ok = strings.CutSuffix(name, ipxe{}.name(""))
	return path, ok && path != "" && !strings.Contains(path, "/")
}
