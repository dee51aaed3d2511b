package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// diskBytes is the size of the images the scripts import.
const diskBytes = 2 << 20

// disk writes a disk image with one partition in a table of the old kind (MBR);
// its bytes follow from the seed. A name that ends in .gz gets it
// packed, one in .qcow2 the first bytes of that format.
func disk(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: disk FILE [SEED]")
	}
	raw := bytes.Repeat([]byte("lpmos test disk "), diskBytes/16)
	clear(raw[:512])
	if len(args) == 2 {
		copy(raw[4096:], args[1])
	}
	raw[446+4] = 0x83 // Linux
	binary.LittleEndian.PutUint32(raw[446+8:], 8)
	binary.LittleEndian.PutUint32(raw[446+12:], diskBytes/512-8)
	raw[510], raw[511] = 0x55, 0xaa
	switch filepath.Ext(args[0]) {
	case ".qcow2":
		copy(raw, "QFI\xfb\x00\x00\x00\x03")
	case ".gz":
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err := z.Write(raw)
		ts.Check(err)
		ts.Check(z.Close())
		raw = packed.Bytes()
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), raw, 0o600))
}
