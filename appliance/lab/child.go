package lab

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// dieWithParent ties a child's life to ours. The signal follows the death of the
// thread that started the child, not of the process, and Go ends a thread with
// the goroutine that is locked to it: a child has to be started by bear, or by a
// goroutine that is locked and stays until the child is gone, as in cable.start.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// bear starts a child on a thread that lives as long as the process. Started on
// any other, a machine was killed now and then when a node ended: the thread that
// had once started the machine had become the node's, and ended with it.
func bear(cmd *exec.Cmd) error {
	result := make(chan error)
	nursery() <- func() { result <- cmd.Start() }
	return <-result
}

var nursery = sync.OnceValue(func() chan<- func() {
	births := make(chan func())
	go func() {
		runtime.LockOSThread()
		for start := range births {
			start()
		}
	}()
	return births
})
