package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// qmpLimit is how long QEMU may take to answer a command. It answers from its
// main loop, which a busy host can hold up for seconds.
const qmpLimit = 20 * time.Second

// errQMPClosed means that QEMU has gone away.
var errQMPClosed = errors.New("machine has no power any more")

// qmp speaks QEMU's machine protocol: one JSON document a message, one answer
// a command, events in between (docs/interop/qmp-spec in QEMU's sources).
type qmp struct {
	conn    io.ReadWriteCloser
	mu      sync.Mutex // one command at a time
	lastID  int
	answers chan qmpMessage
	closed  chan struct{}
}

type qmpMessage struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       int             `json:"id"` // of the command this answers
	Event    string          `json:"event"`
	Data     struct {
		Guest  bool   `json:"guest"`  // the guest asked for it
		Reason string `json:"reason"` // "guest-reset", "host-qmp-system-reset", ...
	} `json:"data"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
}

// newQMP takes over the connection and negotiates. Events go to the given
// function, on the reader's goroutine.
func newQMP(conn io.ReadWriteCloser, event func(name, reason string)) (*qmp, error) {
	q := &qmp{conn: conn, answers: make(chan qmpMessage, 1), closed: make(chan struct{})}
	go q.read(event)
	if _, err := q.execute("qmp_capabilities", nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("speak to QEMU: %w", err)
	}
	return q, nil
}

func (q *qmp) read(event func(name, reason string)) {
	defer close(q.closed)
	dec := json.NewDecoder(q.conn)
	for {
		var m qmpMessage
		if err := dec.Decode(&m); err != nil {
			return
		}
		switch {
		case m.Event != "":
			event(m.Event, m.Data.Reason)
		case m.Greeting != nil:
		default:
			select {
			case <-q.answers: // nobody came for the one before
			default:
			}
			q.answers <- m
		}
	}
}

// execute runs one command; arguments may be nil.
func (q *qmp) execute(command string, arguments any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.lastID++
	request := map[string]any{"execute": command, "id": q.lastID}
	if arguments != nil {
		request["arguments"] = arguments
	}
	if err := json.NewEncoder(q.conn).Encode(request); err != nil {
		return nil, fmt.Errorf("%s: %w", command, errQMPClosed)
	}
	limit := time.NewTimer(qmpLimit)
	defer limit.Stop()
	for {
		select {
		case m := <-q.answers:
			if m.ID != q.lastID {
				continue // the late answer to a command given up on
			}
			if m.Error != nil {
				return nil, fmt.Errorf("%s: QEMU says %s: %s", command, m.Error.Class, m.Error.Desc)
			}
			return m.Return, nil
		case <-q.closed:
			return nil, fmt.Errorf("%s: %w", command, errQMPClosed)
		case <-limit.C:
			return nil, fmt.Errorf("%s: no answer from QEMU in %s", command, qmpLimit)
		}
	}
}

func (q *qmp) close() { q.conn.Close() }
