package images

import (
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/wire"
)

// partitioned is a disk with partitions of these types.
func partitioned(t testing.TB, sector int, types ...string) []byte {
	t.Helper()
	raw := gptImage(2*wire.ChunkBytes, sector, uint64(2*wire.ChunkBytes/sector-1))
	binary.LittleEndian.PutUint64(raw[sector+72:], 2)
	binary.LittleEndian.PutUint32(raw[sector+80:], 128)
	binary.LittleEndian.PutUint32(raw[sector+84:], 128)
	clear(raw[2*sector : 2*sector+128*128])
	for i, text := range types {
		g, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
		if err != nil {
			t.Fatal(err)
		}
		copy(raw[2*sector+128*i:], append([]byte{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6]}, g[8:]...))
	}
	return raw
}

const (
	typeESP       = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeData      = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	typeBIOS      = "21686148-6449-6e6f-744e-656564454649"
	typeRootAMD64 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
	typeRootARM64 = "b921b045-1df0-41c3-af44-4c6f280d3fae"
)

func TestAnImageSaysWhichProcessorItIsFor(t *testing.T) {
	s := openStore(t, t.TempDir())
	for _, c := range []struct {
		name string
		raw  []byte
		want string
	}{
		{"a root of x86-64", partitioned(t, 512, typeESP, typeRootAMD64), "amd64"},
		{"GRUB for a BIOS", partitioned(t, 512, typeData, typeBIOS, typeESP), "amd64"},
		{"a root of arm64", partitioned(t, 512, typeRootARM64, typeESP), "arm64"},
		{"a root of arm64 in sectors of 4096 bytes", partitioned(t, 4096, typeRootARM64), "arm64"},
		{"both", partitioned(t, 512, typeRootARM64, typeRootAMD64), ""},
		{"partitions for any", partitioned(t, 512, typeESP, typeData), ""},
		{"no GPT", diskImage(2*wire.ChunkBytes, 1), ""},
	} {
		_, digest := mustImport(t, s, c.raw)
		if got, err := s.Architecture(digest); got != c.want || err != nil {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	if _, err := s.Architecture(strings.Repeat("ab", 32)); err == nil {
		t.Error("an image that is not here has an architecture")
	}
}

func FuzzDiskArch(f *testing.F) {
	f.Add(partitioned(f, 512, typeRootARM64)[:headBytes], 512)
	f.Add(partitioned(f, 4096, typeBIOS)[:headBytes], 4096)
	f.Add(diskImage(8192, 1), 512)
	f.Fuzz(func(t *testing.T, head []byte, sector int) {
		if sector != 512 && sector != 4096 { // what inspectDisk has found
			return
		}
		if got := diskArch(head, sector); got != "" && got != "amd64" && got != "arm64" {
			t.Errorf("it is for %q", got)
		}
	})
}
