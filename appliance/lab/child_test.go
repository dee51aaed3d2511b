package lab

import (
	"os/exec"
	"sync"
	"testing"
	"time"
)

// Threads come and go while nodes are started and killed; no machine may end with one.
func TestNoChildEndsWithAThread(t *testing.T) {
	type child struct {
		cmd   *exec.Cmd
		close func() error
	}
	var all []child
	var mu sync.Mutex
	var births sync.WaitGroup
	for range 16 {
		births.Go(func() {
			cmd := exec.Command("cat")
			cmd.SysProcAttr = dieWithParent()
			in, err := cmd.StdinPipe()
			if err == nil {
				err = bear(cmd)
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, child{cmd, in.Close})
		})
	}
	births.Wait()
	for range 20 { // each takes threads that others have used, and throws them away
		var threads sync.WaitGroup
		for range 16 {
			threads.Go(func() { _ = apart(func() error { time.Sleep(time.Millisecond); return nil }) })
		}
		threads.Wait()
	}
	for _, c := range all {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if err := c.cmd.Wait(); err != nil { // cat ends by itself, unless it was killed
			t.Errorf("a child ended with %v", err)
		}
	}
}
