package consensus

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

// Entries on their way to the leader go over connections that are HTTP for one
// request, POST /propose with an upgrade, and frames from then on: for small
// entries a request each would cost as much as all else about them.
//
// A frame is a length of four bytes, the largest first, and the entry. The answer
// is one byte, the index and the term of eight each, and a frame with words.

// proposing is what a connection for proposals is upgraded to.
const proposing = "lpmos-propose"

// What the leader says of an entry.
const (
	saidDone     = iota // a majority has it
	saidNotTaken        // and will not
	saidNoSpace         // not taken either
	saidUnknown         // nobody can tell
)

// lane is a connection to a leader that carries one entry at a time.
type lane struct {
	net.Conn
	r    *bufio.Reader
	used time.Time
}

// lanes keeps those that carry nothing at the moment.
type lanes struct {
	mu     sync.Mutex
	idle   map[string][]*lane // by address
	closed bool
}

// take gives an idle lane, nil if there is none. One that had nothing to say for
// long may have been forgotten by what lies between.
func (s *lanes) take(to string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	for list := s.idle[to]; len(list) > 0; list = s.idle[to] {
		l := list[len(list)-1]
		s.idle[to] = list[:len(list)-1]
		if time.Since(l.used) < callIdle/2 {
			return l
		}
		l.Close()
	}
	return nil
}

func (s *lanes) putBack(to string, l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.idle[to]) >= onTheWay {
		l.Close()
		return
	}
	if s.idle == nil {
		s.idle = map[string][]*lane{}
	}
	l.used = time.Now()
	s.idle[to] = append(s.idle[to], l)
}

// close ends all lanes, and those to come.
func (s *lanes) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, list := range s.idle {
		for _, l := range list {
			l.Close()
		}
	}
	s.idle = nil
}

// forward gives an entry to the leader. Errors are as those of enterLog.
func (n *Node) forward(ctx context.Context, to string, entry []byte) (at entered, err error) {
	l := n.lanes.take(to)
	if l == nil {
		if l, err = n.openLane(ctx, to); err != nil {
			return at, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	at, err = l.carry(entry)
	if !stop() {
		err = errors.Join(err, ctx.Err()) // it is closed by now
	}
	switch {
	case err == nil, errors.Is(err, ErrNotReady), errors.Is(err, ErrNoSpace), errors.Is(err, errUntold):
		n.lanes.putBack(to, l)
	default:
		l.Close()
	}
	if err != nil && !errors.Is(err, ErrNotReady) && !errors.Is(err, ErrNoSpace) {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return at, err
}

func (n *Node) openLane(ctx context.Context, to string) (*lane, error) {
	c, err := n.cfg.Network.Dial(ctx, to, KindCall)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	l := &lane{Conn: c, r: bufio.NewReader(c)}
	if _, err := io.WriteString(c, "POST /propose HTTP/1.1\r\nHost: "+to+"\r\nConnection: Upgrade\r\nUpgrade: "+proposing+"\r\n\r\n"); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	resp, err := http.ReadResponse(l.r, nil)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, errors.Join(&callError{resp.StatusCode, string(text)}, c.Close())
	}
	return l, nil
}

// errUntold is the leader's word that it does not know what became of an entry.
var errUntold = errors.New("the leader cannot tell")

// carry sends an entry and reads what became of it.
func (l *lane) carry(entry []byte) (at entered, err error) {
	b := net.Buffers{binary.BigEndian.AppendUint32(nil, uint32(len(entry))), entry}
	if _, err := b.WriteTo(l.Conn); err != nil {
		return at, err
	}
	var head [17]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return at, err
	}
	words, err := readFrame(l.r)
	if err != nil {
		return at, err
	}
	switch head[0] {
	case saidDone:
		return entered{Index: binary.BigEndian.Uint64(head[1:]), Term: binary.BigEndian.Uint64(head[9:])}, nil
	case saidNotTaken:
		return at, fmt.Errorf("%w: %s", ErrNotReady, words)
	case saidNoSpace:
		return at, ErrNoSpace
	}
	return at, fmt.Errorf("%w: %s", errUntold, words)
}

func readFrame(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxCall {
		return nil, fmt.Errorf("a frame of %d bytes; %d at most", n, maxCall)
	}
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	return b, err
}

// answerPropose takes the entries of another node, until it has none for a while.
func (n *Node) answerPropose(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != proposing {
		http.Error(w, "entries come over an upgraded connection", http.StatusUpgradeRequired)
		return
	}
	peer, _ := r.Context().Value(peerKey{}).(string)
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-n.stop:
			c.Close()
		case <-ended:
		}
	}()
	if c.SetDeadline(time.Time{}) != nil {
		return
	}
	if _, err := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+proposing+"\r\n\r\n"); err != nil {
		return
	}
	for {
		if c.SetReadDeadline(time.Now().Add(callIdle)) != nil {
			return
		}
		entry, err := readFrame(rw.Reader)
		if err != nil || !n.mayTalk(peer) {
			return
		}
		at, err := n.propose(entry)
		said, words := byte(saidDone), ""
		if err != nil {
			said, words = saidUnknown, err.Error()
			switch {
			case errors.Is(err, ErrNoSpace):
				said = saidNoSpace
			case errors.Is(err, ErrNotReady):
				said = saidNotTaken
			}
		}
		answer := binary.BigEndian.AppendUint64([]byte{said}, at.Index)
		answer = binary.BigEndian.AppendUint64(answer, at.Term)
		answer = append(binary.BigEndian.AppendUint32(answer, uint32(len(words))), words...)
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// propose puts the entry of another node into the log. What cannot be decoded here
// would stop every node that applies it.
func (n *Node) propose(entry []byte) (entered, error) {
	commands, err := fleet.DecodeEntry(entry)
	if err != nil {
		return entered{}, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	if !n.enter() {
		return entered{}, fmt.Errorf("%w: %w", ErrNotReady, n.whyNot())
	}
	defer n.inFlight.Done()
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	return n.inbox.put(ctx, entry, len(commands))
}
