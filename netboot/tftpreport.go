package netboot

import (
	"errors"
	"fmt"
	"strings"
)

// TFTPEnd is how a transfer over TFTP ended.
type TFTPEnd string

// The ends.
const (
	TFTPSent    TFTPEnd = "sent"    // the client has the whole file
	TFTPProbe   TFTPEnd = "probe"   // it wanted the size alone, as EDK2 does before it fetches: no failure
	TFTPSilent  TFTPEnd = "silent"  // it answered no more, or never
	TFTPHungUp  TFTPEnd = "hung up" // it sent an error
	TFTPRefused TFTPEnd = "refused" // its port was closed: it had given up, or never asked
	TFTPAnother TFTPEnd = "another" // it asked for a file anew before it had this one
	TFTPStopped TFTPEnd = "stopped" // this node stopped it: it took too long, or the node went down
	TFTPFailed  TFTPEnd = "failed"  // this node could not read or send
	TFTPPanic   TFTPEnd = "panic"   // a mistake in this program
)

// TFTPTransfer is how a file was fetched over TFTP, or how far that got.
type TFTPTransfer struct {
	File     string  `json:"file"`
	Size     int64   `json:"size"`
	Bytes    int64   `json:"bytes"`              // that the client has acknowledged
	Blocks   int64   `json:"blocks"`             // the same in blocks
	Block    int     `json:"block"`              // the length of a block in bytes
	Window   int     `json:"window"`             // blocks sent at once
	Answered bool    `json:"answered,omitempty"` // the client acknowledged something, be it the options alone
	Tries    int     `json:"tries,omitempty"`    // how often the block it stopped at was sent
	End      TFTPEnd `json:"end"`
	Code     uint16  `json:"code,omitempty"` // of the error it hung up with
	Said     string  `json:"said,omitempty"` // and its text
}

// Oversized says that the client heard the node's short packet with the options, and
// then not one long block: something on the way drops frames of that length.
func (x TFTPTransfer) Oversized() bool {
	if !x.Answered || x.Blocks > 0 || x.Block <= tftpPlain || x.Size < int64(x.Block) {
		return false
	}
	switch x.End {
	case TFTPSilent, TFTPAnother:
		return true
	case TFTPHungUp, TFTPRefused: // or it may have been in a hurry
		return x.Tries >= tftpFirst
	}
	return false
}

// String is the transfer in a sentence without its subject.
func (x TFTPTransfer) String() string {
	switch {
	case x.End == TFTPSent:
		return fmt.Sprintf("fetched %s over TFTP (%d bytes)", x.File, x.Bytes)
	case x.Oversized():
		return fmt.Sprintf("stopped fetching %s over TFTP at block 1: a %d-byte block does not pass this path", x.File, x.Block)
	}
	because := map[TFTPEnd]string{
		TFTPProbe:   "it wanted to know the size",
		TFTPSilent:  "it answered no more",
		TFTPHungUp:  fmt.Sprintf("it hung up with error %d, %q", x.Code, x.Said),
		TFTPRefused: "it had closed its port",
		TFTPAnother: "it asked anew",
		TFTPStopped: "this node stopped it",
	}[x.End]
	if !x.Answered && x.End == TFTPSilent {
		because = "it never answered"
	}
	if because == "" {
		because = "this node failed"
	}
	return fmt.Sprintf("stopped fetching %s over TFTP after %d of %d bytes: %s", x.File, x.Bytes, x.Size, because)
}

// report is how the transfer went, when it ended because of err.
func (x *tftpTransfer) report(err error) TFTPTransfer {
	blocks := max(x.first-1, 0)
	r := TFTPTransfer{
		File: tftpTold(x.req.name), Size: x.file.Size(), Bytes: min(blocks*int64(x.block), x.file.Size()),
		Blocks: blocks, Block: x.block, Window: int(x.window), Answered: x.answered,
	}
	if !x.done() {
		r.Tries = x.tries
	}
	var hungUp tftpHungUp
	switch {
	case err == nil:
		r.End = TFTPSent
	case errors.As(err, &hungUp):
		r.End, r.Code, r.Said = TFTPHungUp, hungUp.code, clip(hidePath(hungUp.said))
		if blocks == 0 && x.asked.size {
			r.End = TFTPProbe
		}
	case errors.Is(err, errTFTPRefused) && x.answered && x.next > x.last:
		// It has all but said so: its last acknowledgement was lost, and it is gone.
		r.End, r.Blocks, r.Bytes, r.Tries = TFTPSent, x.last, r.Size, 0
	case errors.Is(err, errTFTPRefused):
		r.End = TFTPRefused
	case errors.Is(err, errTFTPSilent):
		r.End = TFTPSilent
	case errors.Is(err, errTFTPAnother):
		r.End = TFTPAnother
	case errors.Is(err, errTFTPStop), errors.Is(err, errTFTPLong):
		r.End = TFTPStopped
	case errors.Is(err, errTFTPPanic):
		r.End = TFTPPanic
	default:
		r.End = TFTPFailed
	}
	return r
}

// tftpTold is a file as people may read of it.
func tftpTold(name string) string {
	name = strings.TrimLeft(name, "/")
	if _, ok := (grub{}).asks(name); ok {
		return "script"
	}
	return hidePath(name)
}
