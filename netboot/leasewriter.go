package netboot

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// commitEvery is how often the book is written to at most. What comes meanwhile shares
// one write: a disk that is asked for every lease of a thousand by itself takes several
// times the processor, and a client does not notice the wait. A lease that comes alone
// does not wait at all.
const commitEvery = 5 * time.Millisecond

// errLeasesClosed is why nothing is written any more.
var errLeasesClosed = errors.New("the book of leases is closed")

// entry is a lease on its way to the disk.
type entry struct {
	lease Lease
	value []byte      // as the book has it
	loser string      // whose lease it takes the place of
	done  func(error) // called when it is there, or will not be
}

// leaseWriter writes leases to the disk, in the order in which they came.
type leaseWriter struct {
	update func(func(*bolt.Tx) error) error // changes the book on the disk, all of it or nothing
	wake   chan struct{}
	ended  chan struct{}

	// unwritten are the machines of leases that could not be written, with the address
	// that each has in memory now, or none. What the disk has of them at another is over:
	// memory may lend that to others, who could not be told from them after a restart.
	unwritten map[string]netip.Addr

	mu     sync.Mutex
	queue  []entry
	closed bool
}

func newLeaseWriter(db *bolt.DB) *leaseWriter {
	w := &leaseWriter{update: db.Update, wake: make(chan struct{}, 1), ended: make(chan struct{}), unwritten: map[string]netip.Addr{}}
	go w.run()
	return w
}

// put has a lease written. done is called when it is on the disk.
func (w *leaseWriter) put(lease Lease, loser string, done func(error)) {
	value, err := writeLease(lease)
	if err != nil { // and not those that are written together with it
		done(fmt.Errorf("lease %s to %s: %w", lease.Addr, lease.MAC, err))
		return
	}
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.queue = append(w.queue, entry{lease, value, loser, done})
		if len(w.queue) == 1 {
			w.wake <- struct{}{} // there is room: who took the last queue has taken the last word, too
		}
	}
	w.mu.Unlock()
	if closed {
		done(errLeasesClosed)
	}
}

// close writes what has come and ends.
func (w *leaseWriter) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.wake)
	}
	w.mu.Unlock()
	<-w.ended
}

func (w *leaseWriter) run() {
	defer close(w.ended)
	pace := time.NewTimer(0)
	for range w.wake {
		<-pace.C
		pace.Reset(commitEvery)
		w.mu.Lock()
		batch := w.queue
		w.queue = nil
		w.mu.Unlock()
		err := w.write(batch)
		for _, e := range batch {
			e.done(err)
		}
	}
}

// write writes all of them or none.
func (w *leaseWriter) write(batch []entry) error {
	err := w.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(leaseBucket)
		for mac, addr := range w.unwritten {
			if there, err := readLease([]byte(mac), b.Get([]byte(mac))); err == nil && there.Addr == addr {
				continue // it was to be lent on, and runs as long as it was before
			}
			if err := b.Delete([]byte(mac)); err != nil {
				return err
			}
		}
		for _, e := range batch {
			if e.loser != "" {
				if err := b.Delete([]byte(e.loser)); err != nil {
					return err
				}
			}
			if err := b.Put([]byte(e.lease.MAC), e.value); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		clear(w.unwritten)
		return nil
	}
	for _, e := range batch {
		w.unwritten[e.lease.MAC] = e.lease.Addr
		if e.loser != "" {
			w.unwritten[e.loser] = netip.Addr{}
		}
	}
	return err
}
