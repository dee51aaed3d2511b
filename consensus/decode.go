package consensus

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// decoded is what entries of the log say. An entry that is no command says nothing.
type decoded struct {
	cmds [][]fleet.Command
	errs []error
	size int64 // of all commands, in bytes
}

// manyBytes is how much is decoded by several goroutines: a node that starts on a
// long log does little else, and in between there is seldom so much at once.
const manyBytes = 64 << 10

// decodeEntries reads a batch.
func decodeEntries(logs []*raft.Log) decoded {
	d := decoded{cmds: make([][]fleet.Command, len(logs)), errs: make([]error, len(logs))}
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			d.size += int64(len(l.Data))
		}
	}
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(logs); i = int(next.Add(1)) - 1 {
			if logs[i].Type == raft.LogCommand {
				d.cmds[i], d.errs[i] = fleet.DecodeEntry(logs[i].Data)
			}
		}
	}
	var wg sync.WaitGroup
	if d.size >= manyBytes {
		for range runtime.GOMAXPROCS(0) - 1 {
			wg.Go(work)
		}
	}
	work()
	wg.Wait()
	return d
}
