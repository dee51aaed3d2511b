package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/lpmos/lpmos/images/debian"
)

// packages are those of the cache "make boot-image" fills; without it and
// without apt's lists there is nothing to build from.
func packages(t *testing.T) debian.Cache {
	t.Helper()
	cache := debian.Cache{Dir: filepath.Join("..", "..", "..", "build", "cache"), Log: t.Logf}
	if _, err := os.Stat(cache.Dir); err != nil {
		t.Skip("no packages here; make boot-image fetches them")
	}
	return cache
}

// Every driver of the list is known to the kernel, and two builds are equal.
func TestSameInputSameBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("packs the initramfs twice")
	}
	cache := packages(t)
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("the agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := t.TempDir(), t.TempDir()
	for _, out := range []string{first, second} {
		if err := run(t.Context(), cache, agent, agent, out); err != nil {
			t.Fatal(err)
		}
	}
	names := append(bootimage.Names(), bootimage.Sources)
	if _, err := os.Stat(filepath.Join(first, bootimage.KernelARM64)); err == nil {
		names = append(names, bootimage.NamesARM64()...)
	}
	for _, name := range names {
		a, err := os.ReadFile(filepath.Join(first, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, name))
		if err != nil {
			t.Fatal(err)
		}
		if len(a) == 0 || !bytes.Equal(a, b) {
			t.Errorf("%s has %d bytes once and %d then, or differs", name, len(a), len(b))
		}
	}
}

func TestMissingAgentIsNamed(t *testing.T) {
	err := run(t.Context(), debian.Cache{}, filepath.Join(t.TempDir(), "nothing"), "", t.TempDir())
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("make agent")) {
		t.Errorf("got %v", err)
	}
}
