package netboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
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
	// tftpHeaders are those of IP, UDP and TFTP in front of a block.
	tftpHeaders = 20 + 8 + 4
	// tftpBlock is the longest block that fits an Ethernet frame, and tftpPlain that of
	// a client which asks for none. A larger frame may fit this node's link and not the
	// client's: firmware knows nothing of jumbo frames.
	tftpBlock = 1500 - tftpHeaders
	tftpPlain = 512
	// tftpWindow is the largest window granted: more would not fit a client's socket.
	tftpWindow = 64
)

// tftpRequest is a read request, taken apart: what was asked for, and after limit what
// is granted.
type tftpRequest struct {
	name   string
	block  int           // bytes (RFC 2348); 0 if the client asks for none
	window int           // blocks (RFC 7440); 0 if the client asks for none
	wait   time.Duration // before a packet is sent again (RFC 2349); 0 if the client asks for none
	size   bool          // the client wants to know how long the file is (RFC 2349)
}

// parseTFTP reads a packet that came to the port for requests. What is no request
// is not answered, so that two servers never talk errors to each other.
func parseTFTP(b []byte) (tftpRequest, error) {
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
	// Each may be there once (RFC 2347): the first counts. One out of its range is
	// left out of the answer, as if it was never asked for.
	for ; len(options) > 0; options = options[2:] {
		value := options[1]
		switch strings.ToLower(string(options[0])) {
		case "blksize":
			if n, ok := tftpNumber(value, 8, 65464); ok && req.block == 0 {
				req.block = n
			}
		case "windowsize":
			if n, ok := tftpNumber(value, 1, 65535); ok && req.window == 0 {
				req.window = n
			}
		case "timeout":
			if n, ok := tftpNumber(value, 1, 255); ok && req.wait == 0 {
				req.wait = time.Duration(n) * time.Second
			}
		case "tsize":
			req.size = true
		}
	}
	return req, nil
}

// tftpNumber reads a number as RFC 2347 writes them: digits.
func tftpNumber(b []byte, least, most int) (int, bool) {
	n, err := strconv.ParseUint(string(b), 10, 16)
	return int(n), err == nil && int(n) >= least && int(n) <= most
}

// limit is the request with what is granted of it, when largest bytes fit a block.
func (r tftpRequest) limit(largest int) tftpRequest {
	r.block = min(r.block, largest)
	r.window = min(r.window, tftpWindow)
	return r
}

// answer confirms the options that were asked for and are granted, none other
// (RFC 2347), to a client whose file is of that size. It is nil if there are none: then
// the file itself is the answer.
func (r tftpRequest) answer(size int64) []byte {
	b := []byte{0, tftpOACK}
	if r.block > 0 {
		b = fmt.Appendf(b, "blksize\x00%d\x00", r.block)
	}
	if r.size {
		b = fmt.Appendf(b, "tsize\x00%d\x00", size)
	}
	if r.wait > 0 {
		b = fmt.Appendf(b, "timeout\x00%d\x00", r.wait/time.Second)
	}
	if r.window > 0 {
		b = fmt.Appendf(b, "windowsize\x00%d\x00", r.window)
	}
	if len(b) == 2 {
		return nil
	}
	return b
}

// packet is the request on the wire, in one way of writing it.
func (r tftpRequest) packet() []byte {
	b := fmt.Appendf([]byte{0, tftpRead}, "%s\x00octet\x00", r.name)
	if r.size {
		b = append(b, "tsize\x000\x00"...)
	}
	sizeless := r
	sizeless.size = false
	if options := sizeless.answer(0); options != nil {
		b = append(b, options[2:]...)
	}
	return b
}
