package netboot

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// S47: a book of leases that was damaged is told to be, and is neither used nor the
// end of the process.
func TestS47_ADamagedBookOfLeases(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	now := func() time.Time { return time.Unix(1700000000, 0) }
	l, err := OpenLeases(good, now)
	if err != nil {
		t.Fatal(err)
	}
	all := Range{netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199")}
	terms := Terms{From: []Range{all}, Keeps: all.Contains, Usable: all.Contains, Heard: now()}
	want := map[string]netip.Addr{}
	for i := range 60 {
		mac, addr := fmt.Sprintf("52:54:00:00:00:%02x", i), netip.AddrFrom4([4]byte{10, 77, 0, byte(100 + i)})
		if err := l.Commit(mac, addr, now().Add(time.Hour), terms); err != nil {
			t.Fatal(err)
		}
		want[mac] = addr
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	book, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(47, 47))
	told, harmless := 0, 0
	try := func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, "book.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("%s: a panic: %v", name, p)
			}
		}()
		l, err := OpenLeases(path, now)
		if err != nil {
			told++
			return
		}
		defer l.Close()
		harmless++
		for _, lease := range l.All() {
			if a, ok := want[lease.MAC]; !ok || a != lease.Addr {
				t.Errorf("%s: %s is said to have %s", name, lease.MAC, lease.Addr)
			}
		}
	}
	for n := 0; n < len(book); n += 1 + len(book)/60 {
		if n > 0 { // an empty file is a new book
			try(fmt.Sprintf("cut at %d", n), book[:n])
		}
	}
	for range 300 {
		b := append([]byte(nil), book...)
		at, bit := rng.IntN(len(b)), rng.IntN(8)
		b[at] ^= 1 << bit
		try(fmt.Sprintf("bit %d of byte %d", bit, at), b)
	}
	// A digit of an address, in every copy that pages hold of a record.
	copies := 0
	for at := 0; ; copies++ {
		i := bytes.Index(book[at:], []byte(`"addr":"10.77.0.159"`))
		if i < 0 {
			break
		}
		at += i + len(`"addr":"10.77.0.15`)
		b := append([]byte(nil), book...)
		b[at] ^= 1
		try(fmt.Sprintf("another address at %d", at), b)
	}
	if copies == 0 {
		t.Error("no record was found to spoil")
	}
	for range 50 {
		b := append([]byte(nil), book...)
		at := rng.IntN(len(b) - 64)
		for i := range 64 {
			b[at+i] = byte(rng.Uint32())
		}
		try(fmt.Sprintf("noise at %d", at), b)
	}
	t.Logf("%d told, %d harmless", told, harmless)
	if told < 20 {
		t.Errorf("only %d of the damages were noticed", told)
	}
}
