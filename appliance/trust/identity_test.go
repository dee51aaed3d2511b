package trust

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func found(t testing.TB, dir string) *Identity {
	t.Helper()
	id, err := Found(dir, "", now)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestAnIdentityIsKept(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("an empty directory: %v", err)
	}
	made := found(t, dir)
	if made.Founding() == nil {
		t.Error("the authority's key is gone before the log has it")
	}
	kept, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if kept.Node != made.Node || kept.Cluster != made.Cluster || kept.Secret != made.Secret || !bytes.Equal(kept.Founding(), made.Founding()) {
		t.Error("another identity came back")
	}
	if err := kept.Founded(); err != nil {
		t.Fatal(err)
	}
	again, err := Load(dir)
	if err != nil || again.Founding() != nil || kept.Founding() != nil {
		t.Errorf("the cluster is still being made: %v", err)
	}
	err = filepath.WalkDir(filepath.Join(dir, dirName), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o, want %04o", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Found(dir, "", now); err == nil {
		t.Error("a second identity took the place of the first")
	}
}

func TestANodeThatIsOlderThanItsClusterKeepsItsID(t *testing.T) {
	id, err := Found(t.TempDir(), "01k0000000000000000000000a", now)
	if err != nil || id.Node != "01k0000000000000000000000a" {
		t.Fatalf("%v", err)
	}
	if _, err := Found(t.TempDir(), "Node One", now); err == nil || !strings.Contains(err.Error(), "small letters") {
		t.Errorf("an id that is no part of a name: %v", err)
	}
}

func TestDamagedIdentitiesAreRefused(t *testing.T) {
	other := found(t, t.TempDir())
	overwrite := func(name, content string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600) }
	}
	copied := func(name string) func(string) error {
		return func(dir string) error {
			b, err := os.ReadFile(filepath.Join(other.dir, name))
			return errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o600))
		}
	}
	for _, c := range []struct {
		name   string
		damage func(dir string) error
		want   string
	}{
		{"open directory", func(d string) error { return os.Chmod(d, 0o755) }, "chmod 700"},
		{"open secret", func(d string) error { return os.Chmod(filepath.Join(d, secretFile), 0o640) }, "secret is open to other users of this host (mode 0640)"},
		{"closed secret", func(d string) error { return os.Chmod(filepath.Join(d, secretFile), 0) }, "mode 0000"},
		{"empty secret", overwrite(secretFile, ""), "secret is empty"},
		{"short secret", overwrite(secretFile, "abcd"), "secret of 32 bytes"},
		{"huge secret", overwrite(secretFile, strings.Repeat("a", 1<<20)), "larger than any key"},
		{"a directory for a file", func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, secretFile)), os.Mkdir(filepath.Join(d, secretFile), 0o700))
		}, "is no file"},
		{"no secret", func(d string) error { return os.Remove(filepath.Join(d, secretFile)) }, "secret is missing"},
		{"no key", func(d string) error { return os.Remove(filepath.Join(d, keyFile)) }, "node.key is missing"},
		{"no certificate", func(d string) error { return os.Remove(filepath.Join(d, certFile)) }, "node.pem is missing"},
		{"no authority", func(d string) error { return os.Remove(filepath.Join(d, caFile)) }, "ca.pem is missing"},
		{"no cluster", func(d string) error { return os.Remove(filepath.Join(d, clusterFile)) }, "cluster is missing"},
		{"no PEM", overwrite(keyFile, "hello"), "does not hold one PRIVATE KEY"},
		{"no key in the PEM", overwrite(keyFile, string(encodePEM("PRIVATE KEY", []byte("x")))), "node.key"},
		{"another node's key", copied(keyFile), "not for this node's key"},
		{"another node's certificate", copied(certFile), "unknown authority"},
		{"another cluster's authority", copied(caFile), "unknown authority"},
		{"another cluster's id", copied(clusterFile), "says cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.damage(found(t, dir).dir); err != nil {
				t.Fatal(err)
			}
			_, err := Load(dir)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestRenewal(t *testing.T) {
	dir := t.TempDir()
	id := found(t, dir)
	for days, want := range map[int]bool{0: false, 59: false, 61: true, 100: true} {
		if got := id.Due(now.AddDate(0, 0, days)); got != want {
			t.Errorf("after %d days a renewal is due: %v", days, got)
		}
	}
	before, later := id.Certificate(), now.AddDate(0, 0, 100) // it has ended
	if err := id.Renew(id.CA.Raw, id.Founding(), later); err != nil {
		t.Fatal(err)
	}
	after := id.Certificate()
	if !after.Leaf.NotAfter.Equal(later.Add(nodeLife)) || id.Due(later) {
		t.Errorf("it ends %s", after.Leaf.NotAfter)
	}
	if !bytes.Equal(before.Leaf.RawSubjectPublicKeyInfo, after.Leaf.RawSubjectPublicKeyInfo) {
		t.Error("the node has another key, which its id does not fit")
	}
	kept, err := Load(dir)
	if err != nil || !bytes.Equal(kept.Certificate().Certificate[0], after.Certificate[0]) {
		t.Errorf("the new certificate was not kept: %v", err)
	}

	other := found(t, t.TempDir())
	if err := id.Renew(other.CA.Raw, other.Founding(), later); err == nil || !strings.Contains(err.Error(), "another authority") {
		t.Errorf("another cluster renewed it: %v", err)
	}
	if err := id.Renew(id.CA.Raw, other.Founding(), later); err == nil {
		t.Error("another cluster's key renewed it")
	}
	if kept, err := Load(dir); err != nil || !bytes.Equal(kept.Certificate().Certificate[0], after.Certificate[0]) {
		t.Errorf("a failed renewal left its mark: %v", err)
	}
}

func TestACertificateThatHasEndedStillLoads(t *testing.T) {
	dir := t.TempDir()
	if _, err := Found(dir, "", time.Now().AddDate(-1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	id, err := Load(dir)
	if err != nil || !id.Due(time.Now()) {
		t.Errorf("nobody could renew it: %v", err)
	}
}
