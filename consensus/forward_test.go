package consensus_test

import (
	"bufio"
	"encoding/binary"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/consensustest"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// What another node sends as an entry is answered in words or not at all: it never
// reaches the log, and the leader goes on to answer.
func TestALeaderIsGivenNonsenseToPropose(t *testing.T) {
	c := consensustest.NewCluster(t, 3, nil)
	leader := c.Leader()
	other := c.Others(leader)[0]
	address := ""
	for _, m := range c.Nodes[leader].Status().Members {
		if m.ID == consensustest.Name(leader) {
			address = m.Address
		}
	}
	frame := func(b string) string {
		return string(binary.BigEndian.AppendUint32(nil, uint32(len(b)))) + b
	}
	for _, tc := range []struct {
		name, upgrade, send string
		answered            bool
		words               string
	}{
		{"no upgrade", "", "", false, ""},
		{"an empty entry", "lpmos-propose", frame(""), true, "decode log entry"},
		{"no JSON", "lpmos-propose", frame("rubbish"), true, "decode log entry"},
		{"a kind nobody knows", "lpmos-propose", frame(`{"v":2,"id":"x","at":"2026-01-01T00:00:00Z","type":"burn","data":{}}`), true, "does not know"},
		{"a frame without end", "lpmos-propose", "\xff\xff\xff\xffx", false, ""},
		{"half a frame", "lpmos-propose", "\x00\x00\x00\x09abc", false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			port, err := c.Net.Join(consensustest.Name(other), "")
			if err != nil {
				t.Fatal(err)
			}
			defer port.Close()
			conn, err := port.Dial(t.Context(), address, consensus.KindCall)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
				t.Fatal(err)
			}
			head := "POST /propose HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
			if tc.upgrade != "" {
				head += "Upgrade: " + tc.upgrade + "\r\n"
			}
			if _, err := io.WriteString(conn, head+"\r\n"); err != nil {
				t.Fatal(err)
			}
			r := bufio.NewReader(conn)
			resp, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			if tc.upgrade == "" {
				if resp.StatusCode != http.StatusUpgradeRequired {
					t.Errorf("answered %s", resp.Status)
				}
				return
			}
			if _, err := io.WriteString(conn, tc.send); err != nil {
				t.Fatal(err)
			}
			if tc.send[0] == 0xff { // too long to be waited for
				if _, err := r.ReadByte(); err != io.EOF {
					t.Errorf("the connection gives %v, not its end", err)
				}
			}
			if !tc.answered {
				return
			}
			var head2 [21]byte
			if _, err := io.ReadFull(r, head2[:]); err != nil {
				t.Fatal(err)
			}
			words := make([]byte, binary.BigEndian.Uint32(head2[17:]))
			if _, err := io.ReadFull(r, words); err != nil || head2[0] != 1 || !strings.Contains(string(words), tc.words) {
				t.Errorf("answered %d %q (%v)", head2[0], words, err)
			}
		})
	}
	if _, err := c.Nodes[other].Propose(t.Context(), fleet.PutNode{Node: fleet.Node{ID: "n9", Name: "nine", RegionID: "dc1"}}); err != nil {
		t.Errorf("the leader does not take a good one any more: %v", err)
	}
}
