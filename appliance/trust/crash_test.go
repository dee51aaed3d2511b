package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var errCrash = errors.New("the power went")

// crashAt is a disk on which the power goes before the n-th step. A file that is
// not in place yet is half written then.
func crashAt(n int) disk {
	steps := 0
	return disk{step: func(what string) error {
		if steps++; steps <= n {
			return nil
		}
		if file, renaming := strings.CutPrefix(what, "rename "); renaming && strings.HasSuffix(file, ".tmp") {
			if err := os.Truncate(file, 3); err != nil {
				return err
			}
		}
		return fmt.Errorf("%w before: %s", errCrash, what)
	}}
}

// eachCrash runs try on disks that crash before every step it takes, one after
// the other, and after each what comes next.
func eachCrash(t *testing.T, try func(d disk, dir string) error, next func(t *testing.T, dir string)) {
	t.Helper()
	for n := 0; ; n++ {
		dir := t.TempDir()
		err := try(crashAt(n), dir)
		if err == nil {
			if n < 5 {
				t.Errorf("only %d steps were seen", n)
			}
			return
		}
		if !errors.Is(err, errCrash) {
			t.Fatalf("crash %d: %v", n, err)
		}
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			t.Log(err)
			next(t, dir)
		})
	}
}

func TestR19_ACrashWhileAClusterIsMade(t *testing.T) {
	eachCrash(t,
		func(d disk, dir string) error { _, err := d.found(dir, "", now); return err },
		func(t *testing.T, dir string) {
			id, err := Load(dir)
			if errors.Is(err, fs.ErrNotExist) {
				id, err = Found(dir, "", now)
			}
			if err != nil || id.Founding() == nil {
				t.Errorf("it cannot be made any more: %v", err)
			}
			if _, is := Unfinished(dir); is {
				t.Error("it is taken for a join")
			}
		})
}

func TestR19_ACrashWhileTheMakingEnds(t *testing.T) {
	for n := range 2 {
		dir := t.TempDir()
		id := found(t, dir)
		id.disk = crashAt(n)
		if err := id.Founded(); !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		kept, err := Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if kept.Founding() != nil {
			if err := kept.Founded(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestR19_ACrashWhileANodeJoins(t *testing.T) {
	ca, secret := newCA(t), NewSecret()
	finish := func(j *Joining) (*Identity, error) {
		return j.Finish(ca.Certificate(), answer(t, ca, j), secret)
	}
	asked := "" // the id under which the cluster was asked before the crash
	eachCrash(t,
		func(d disk, dir string) error {
			asked = ""
			j, err := d.beginJoin(dir)
			if err != nil {
				return err
			}
			asked = j.Node
			_, err = finish(j)
			return err
		},
		func(t *testing.T, dir string) {
			id, err := Load(dir)
			if errors.Is(err, fs.ErrNotExist) {
				if _, is := Unfinished(dir); !is && asked != "" {
					t.Error("it does not show that a join was begun")
				}
				var j *Joining
				if j, err = BeginJoin(dir); err == nil {
					id, err = finish(j)
				}
			}
			if err != nil {
				t.Fatal(err)
			}
			if id.Secret != secret || id.Cluster != ca.Cluster() || id.Founding() != nil || asked != "" && id.Node != asked {
				t.Errorf("it came back as node %s of %s, it had asked as %s", id.Node, id.Cluster, asked)
			}
			if _, is := Unfinished(dir); is {
				t.Error("the join is still called unfinished")
			}
		})
}

func TestAJoinThatCannotBeTakenUp(t *testing.T) {
	dir := t.TempDir()
	if _, err := BeginJoin(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, joiningName, keyFile), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := BeginJoin(dir); err == nil || !strings.Contains(err.Error(), "remove that directory and join with a new token") {
		t.Error(err)
	}
}

func TestAnAnswerThatIsNotForThisNode(t *testing.T) {
	ours, theirs := newCA(t), newCA(t)
	dir := t.TempDir()
	j, err := BeginJoin(dir)
	if err != nil {
		t.Fatal(err)
	}
	ownCert := answer(t, ours, j)
	renamed, err := ours.sign("n1", &j.key.PublicKey, now)
	if err != nil {
		t.Fatal(err)
	}
	for name, given := range map[string][2][]byte{
		"another node's":   {ours.Certificate(), certify(t, ours).Raw},
		"another cluster":  {theirs.Certificate(), ownCert},
		"another id":       {ours.Certificate(), renamed},
		"no certificate":   {ours.Certificate(), []byte("x")},
		"no authority":     {nil, ownCert},
		"a node as a boss": {ownCert, ownCert},
	} {
		if _, err := j.Finish(given[0], given[1], NewSecret()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it left its mark: %v", err)
	}
}
