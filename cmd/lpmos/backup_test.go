package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/rogpeppe/go-internal/testscript"
)

// kept makes the data directory of a node, which has some machines and at
// address another member of its cluster, if that is given. It returns a backup of
// it and the secret of the cluster. More happened to it if that is given.
func kept(dir, address string, more ...func(do func(fleet.Body) any)) (backup []byte, secret string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	keys, err := trust.Found(dir, "", time.Now())
	if err != nil {
		return nil, "", err
	}
	cfg := consensustest.Config(filepath.Join(dir, "raft"))
	cfg.NodeID = keys.Node
	if cfg.Network, err = consensustest.NewNetwork().Join(keys.Node, ""); err != nil {
		return nil, "", err
	}
	n, err := consensus.Open(cfg)
	if err != nil {
		return nil, "", err
	}
	defer n.Close()
	if err := n.Ready(ctx); err != nil {
		return nil, "", err
	}
	if address != "" {
		if err := n.Admit(ctx, "the-other", address); err != nil {
			return nil, "", err
		}
	}
	do := func(b fleet.Body) any {
		result, proposeErr := n.Propose(ctx, b)
		if proposeErr != nil {
			err = proposeErr
		}
		return result
	}
	do(fleet.PutCluster{Cluster: fleet.Cluster{ID: keys.Cluster, CACert: keys.CA.Raw, Sealed: keys.Founding()}})
	do(fleet.PutNode{Node: fleet.Node{ID: keys.Node, Name: "old", RegionID: "dc1"}})
	do(fleet.PutNode{Node: fleet.Node{ID: "the-other", Name: "other", RegionID: "dc2", ClusterAddress: address}})
	do(consensustest.Image())
	for i := range 3 {
		consensustest.Server(i, do)
	}
	consensustest.Install(1, 0, do)
	for _, m := range more {
		m(do)
	}
	if err != nil {
		return nil, "", err
	}
	var b bytes.Buffer
	if _, err := n.Backup(ctx, &b); err != nil {
		return nil, "", err
	}
	return b.Bytes(), keys.Secret.Text(), keys.Founded()
}

// makeMember is the command "member DIR ADDRESS" of scripts: the data directory of
// a node of two, the other of which was at the address.
func makeMember(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: member DIR ADDRESS")
	}
	ts.Check(os.Mkdir(ts.MkAbs(args[0]), 0o700))
	_, _, err := kept(ts.MkAbs(args[0]), args[1])
	ts.Check(err)
}

// passphrase is that of the backups of tests, with little work for each try of it.
const (
	passphrase = sealed.Passphrase("four words that rhyme")
	littleWork = 4
)

func seal(plain []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := sealed.Seal(&b, passphrase, littleWork)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// makeBackup is the command "backup FILE SECRET-FILE [ADDRESS]" of scripts: a
// backup of a cluster that is gone, in FILE.plain as it once was written and in
// FILE sealed, and the cluster's secret. The address is what its node had for
// others. The passphrase lies in the file "passphrase".
func makeBackup(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: backup FILE SECRET-FILE [ADDRESS]")
	}
	dir, err := os.MkdirTemp(ts.MkAbs("."), ".kept")
	ts.Check(err)
	address := ""
	if len(args) > 2 {
		address = args[2]
	}
	b, secret, err := kept(dir, address)
	ts.Check(err)
	ts.Check(os.RemoveAll(dir))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".plain"), b, 0o600))
	b, err = seal(b)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("passphrase"), []byte(passphrase+"\n"), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(secret+"\n"), 0o600))
}

func TestABackupIsKeptWholeOrNotAtAll(t *testing.T) {
	whole, _, err := kept(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	var sends []byte
	refuses := http.StatusOK
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/backup" {
			t.Errorf("it asks for %s", r.URL.Path)
		}
		if refuses != http.StatusOK {
			api.NewProblem(refuses, "no majority of the cluster is in reach").WriteTo(w)
			return
		}
		w.Write(sends) //nolint:errcheck // the client judges
	}))
	defer node.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	c, err := client.New(node.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	backup := func(force bool) (code int, out string) {
		b := sealedBackup{file: file, force: force, work: littleWork, passphrase: func() (sealed.Passphrase, error) { return passphrase, nil }}
		info, err := b.fetch(t.Context(), c)
		if err != nil {
			var stderr bytes.Buffer
			return report(&stderr, err), stderr.String()
		}
		if kept, err := os.ReadFile(file); err != nil || info.Bytes != int64(len(kept)) || info.SHA256 != fmt.Sprintf("%x", sha256.Sum256(kept)) {
			t.Errorf("it says %d bytes, %s; the file has %d: %v", info.Bytes, info.SHA256, len(kept), err)
		}
		return exitOK, fmt.Sprintf("machines %d, tasks %d", info.Machines, info.Tasks)
	}
	holds := func(want string) {
		t.Helper()
		found, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range found {
			b, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			r, err := sealed.Open(bytes.NewReader(b), int64(len(b)), passphrase)
			if err != nil {
				t.Fatalf("%s does not lie there sealed: %v", f.Name(), err)
			}
			if b, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
			got += f.Name() + " " + string(b)
		}
		if got != want {
			t.Errorf("the directory holds %.100q, want %.100q", got, want)
		}
	}

	sends = whole[:len(whole)-7]
	if code, out := backup(false); code != exitError || !strings.Contains(out, "what the node sent is not whole: ") || !strings.Contains(out, "the backup cannot be used: its last line is not where it belongs") {
		t.Errorf("cut short: exit code %d, %s", code, out)
	}
	holds("")
	refuses = http.StatusServiceUnavailable
	if code, out := backup(false); code != exitError || !strings.Contains(out, "error: no majority of the cluster is in reach") {
		t.Errorf("refused: exit code %d, %s", code, out)
	}
	holds("")
	refuses, sends = http.StatusOK, whole
	if code, out := backup(false); code != exitOK || out != "machines 3, tasks 1" {
		t.Errorf("exit code %d, %s", code, out)
	}
	holds("b " + string(whole))
	sends = nil
	if code, out := backup(false); code != exitConflict || !strings.Contains(out, "is there already; nothing was written\nhint: give another name, or --force") {
		t.Errorf("over another: exit code %d, %s", code, out)
	}
	if code, _ := backup(true); code != exitError {
		t.Errorf("over another, with nothing: exit code %d", code)
	}
	holds("b " + string(whole))
	sends = whole
	if code, out := backup(true); code != exitOK {
		t.Errorf("over another, forced: exit code %d, %s", code, out)
	}
	file = dir
	if code, out := backup(true); code != exitUsage || !strings.Contains(out, "is a directory") {
		t.Errorf("over a directory: exit code %d, %s", code, out)
	}
}
