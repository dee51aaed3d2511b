package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// What a TFTP packet begins with (RFC 1350 section 5, RFC 2347).
const (
	tftpRead  = 1
	tftpWrite = 2
	tftpData  = 3
	tftpAck   = 4
	tftpError = 5
	tftpOACK  = 6
)

// The errors a client is told, with their codes.
var (
	errTFTPNoFile    = tftpFault{code: 1, text: "file not found"}
	errTFTPNoWrites  = tftpFault{code: 2, text: "nothing can be written here"}
	errTFTPMode      = tftpFault{code: 4, text: "only the mode octet is spoken here"}
	errTFTPOptions   = tftpFault{code: 8, text: "an option without its value"}
	errTFTPTooMany   = tftpFault{code: 0, text: "too many transfers"}
	errTFTPMalformed = tftpFault{silent: true}
)

// tftpFault is why a request is refused.
type tftpFault struct {
	code   uint16
	text   string
	silent bool // it is no request at all, and nothing is answered
}

func (f tftpFault) Error() string { return f.text }

// packet is the fault as it goes over the wire.
func (f tftpFault) packet() []byte {
	b := binary.BigEndian.AppendUint16(nil, tftpError)
	b = binary.BigEndian.AppendUint16(b, f.code)
	return append(append(b, f.text...), 0)
}

const (
	// tftpLargest is the longest request: what fits a frame. RFC 2347 has 512.
	tftpLargest = 1500
	// tftpBlock is the longest block that fits an Ethernet frame with the IP, UDP
	// and TFTP headers, and tftpPlain that of a client which asks for none.
	tftpBlock = 1468
	tftpPlain = 512
)

// tftpRequest is a read request, taken apart.
type tftpRequest struct {
	name  string
	block int  // bytes; 0 if the client asks for none
	size  bool // the client wants to know how long the file is
}

// parseTFTP reads a packet that came to the port for requests. What is no request
// is not answered, so that two servers never talk errors to each other.
func parseTFTP(b []byte, largest int) (tftpRequest, error) {
	req := tftpRequest{}
	if len(b) < 4 {
		return req, errTFTPMalformed
	}
	switch binary.BigEndian.Uint16(b) {
	case tftpRead:
	case tftpWrite:
		return req, errTFTPNoWrites
	default:
		return req, errTFTPMalformed
	}
	if b[len(b)-1] != 0 {
		return req, errTFTPMalformed
	}
	fields := bytes.Split(b[2:len(b)-1], []byte{0})
	if len(fields) < 2 {
		return req, errTFTPMalformed
	}
	req.name = string(fields[0])
	if !strings.EqualFold(string(fields[1]), "octet") {
		return req, errTFTPMode
	}
	options := fields[2:]
	if len(options)%2 != 0 {
		return req, errTFTPOptions
	}
	seen := map[string]bool{}
	for ; len(options) > 0; options = options[2:] {
		name := strings.ToLower(string(options[0]))
		if seen[name] {
			continue // each may be there once, RFC 2347
		}
		switch name {
		case "blksize":
			// RFC 2348 begins at 8, but the library serves no less than it sends to
			// those who ask for nothing. What is left out of the answer is as if it
			// was never asked for.
			n, ok := tftpNumber(options[1])
			if !ok || n < tftpPlain || n > 65464 {
				continue
			}
			req.block = min(n, largest)
		case "tsize":
			req.size = true
		default:
			continue
		}
		seen[name] = true
	}
	return req, nil
}

// tftpNumber reads a number as RFC 2347 writes them: digits.
func tftpNumber(b []byte) (int, bool) {
	n, err := strconv.ParseUint(string(b), 10, 16)
	return int(n), err == nil
}

// packet is the request as the library gets it: what is understood, in one way of
// writing it.
func (r tftpRequest) packet() []byte {
	b := binary.BigEndian.AppendUint16(nil, tftpRead)
	b = fmt.Appendf(b, "%s\x00octet\x00", r.name)
	if r.block > 0 {
		b = fmt.Appendf(b, "blksize\x00%d\x00", r.block)
	}
	if r.size {
		b = append(b, "tsize\x000\x00"...)
	}
	return b
}
