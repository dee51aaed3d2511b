package consensus

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
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
	answers chan answer   // holds one
	gone    chan struct{} // closed when the other end is
	used    time.Time
}

// answer is what the leader said of an entry.
type answer struct {
	said  byte
	at    entered
	words string
}

// lanes keeps those that carry nothing at the moment: of one leader, there is no
// other.
type lanes struct {
	mu     sync.Mutex
	to     string
	idle   []*lane
	closed bool
}

// take gives an idle lane, nil if there is none that is alive. One that had nothing
// to say for long may have been forgotten by what lies between.
func (s *lanes) take(to string) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.to == to && len(s.idle) > 0 {
		l := s.idle[len(s.idle)-1]
		s.idle = s.idle[:len(s.idle)-1]
		select {
		case <-l.gone:
			continue
		default:
		}
		if time.Since(l.used) < callIdle/2 {
			return l
		}
		go l.Close()
	}
	return nil
}

func (s *lanes) putBack(to string, l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.to == to && len(s.idle) >= onTheWay {
		go l.Close() // TLS says good-bye, which may take a while
		return
	}
	if s.to != to {
		for _, old := range s.idle {
			go old.Close()
		}
		s.to, s.idle = to, nil
	}
	l.used = time.Now()
	s.idle = append(s.idle, l)
}

// close ends all lanes, and those to come.
func (s *lanes) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.idle {
		l.Close()
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
	a, err := l.carry(entry)
	alive := stop()
	if err != nil {
		l.Close()
		return at, fmt.Errorf("%w: %w", ErrUncertain, errors.Join(err, ctx.Err()))
	}
	if alive {
		n.lanes.putBack(to, l)
	}
	switch a.said {
	case saidDone:
		return a.at, nil
	case saidNotTaken:
		return at, fmt.Errorf("%w: %s", ErrNotReady, a.words)
	case saidNoSpace:
		return at, ErrNoSpace
	}
	return at, fmt.Errorf("%w: %s", ErrUncertain, a.words)
}

func (n *Node) openLane(ctx context.Context, to string) (l *lane, err error) {
	c, err := n.cfg.Network.Dial(ctx, to, KindCall)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if _, err := io.WriteString(c, "POST /propose HTTP/1.1\r\nHost: "+to+"\r\nConnection: Upgrade\r\nUpgrade: "+proposing+"\r\n\r\n"); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: c, N: 16 << 10}
	r := bufio.NewReader(head)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxWords))
		return nil, &callError{resp.StatusCode, string(text)}
	}
	head.N = math.MaxInt64
	l = &lane{Conn: c, answers: make(chan answer, 1), gone: make(chan struct{})}
	go l.listen(r)
	return l, nil
}

// listen takes answers until the connection ends, which an idle lane finds out so.
func (l *lane) listen(r io.Reader) {
	defer close(l.gone)
	defer l.Close()
	for {
		a, err := readAnswer(r)
		if err != nil {
			return
		}
		select {
		case l.answers <- a:
		default:
			return // nobody asked
		}
	}
}

// errGone is met on a lane whose other end is not there any more.
var errGone = errors.New("the connection to the leader has ended")

// carry sends an entry and waits for what became of it.
func (l *lane) carry(entry []byte) (answer, error) {
	if len(l.answers) > 0 {
		return answer{}, errors.New("the leader answers what nobody asked")
	}
	b := net.Buffers{binary.BigEndian.AppendUint32(nil, uint32(len(entry))), entry}
	if _, err := b.WriteTo(l.Conn); err != nil {
		return answer{}, err
	}
	select {
	case a := <-l.answers:
		return a, nil
	case <-l.gone:
	}
	select {
	case a := <-l.answers: // its last
		return a, nil
	default:
		return answer{}, errGone
	}
}

// maxWords bounds a sentence of the leader, in bytes.
const maxWords = 4 << 10

func readAnswer(r io.Reader) (a answer, err error) {
	var head [17]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return a, err
	}
	words, err := readFrame(r, maxWords)
	return answer{head[0], entered{Index: binary.BigEndian.Uint64(head[1:]), Term: binary.BigEndian.Uint64(head[9:])}, string(words)}, err
}

func (a answer) bytes() []byte {
	b := binary.BigEndian.AppendUint64([]byte{a.said}, a.at.Index)
	b = binary.BigEndian.AppendUint64(b, a.at.Term)
	words := a.words[:min(len(a.words), maxWords)]
	return append(binary.BigEndian.AppendUint32(b, uint32(len(words))), words...)
}

// readFrame reads as much as comes, not as much as was announced: whoever announces
// much has to send it.
func readFrame(r io.Reader, atMost uint32) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > atMost {
		return nil, fmt.Errorf("a frame of %d bytes; %d at most", n, atMost)
	}
	var b bytes.Buffer
	b.Grow(int(min(n, 64<<10)))
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
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
		entry, err := readFrame(rw.Reader, maxCall)
		if err != nil {
			return
		}
		member := n.mayTalk(peer)
		a := answer{said: saidNotTaken, words: "this node is no member of the cluster"}
		if member {
			a = n.propose(entry)
		}
		if c.SetWriteDeadline(time.Now().Add(proposeTimeout)) != nil {
			return
		}
		if _, err := c.Write(a.bytes()); err != nil || !member {
			return
		}
	}
}

// propose puts the entry of another node into the log. What cannot be decoded here
// would stop every node that applies it.
func (n *Node) propose(entry []byte) answer {
	commands, err := fleet.DecodeEntry(entry)
	if err != nil {
		return answer{said: saidNotTaken, words: err.Error()}
	}
	if !n.enter() {
		return answer{said: saidNotTaken, words: n.whyNot().Error()}
	}
	defer n.inFlight.Done()
	ctx, cancel := context.WithTimeout(context.Background(), proposeTimeout)
	defer cancel()
	at, err := n.inbox.put(ctx, entry, len(commands))
	switch {
	case err == nil:
		return answer{said: saidDone, at: at}
	case errors.Is(err, ErrNoSpace):
		return answer{said: saidNoSpace, words: err.Error()}
	case errors.Is(err, ErrNotReady):
		return answer{said: saidNotTaken, words: err.Error()}
	}
	return answer{said: saidUnknown, words: err.Error()}
}
