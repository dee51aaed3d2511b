package ui

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/lpmos/lpmos/ui/api/client"
)

// TestSlowViewerIsCut: one who does not read holds up nobody, and is sent away.
func TestSlowViewerIsCut(t *testing.T) {
	node, u, c, url := newNode(t, func(c *Config) { c.Limits.Write = 100 * time.Millisecond })
	quick := look(t, c, 0)
	quick.snapshot()
	slow, _, err := websocket.Dial(t.Context(), url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {url}}})
	if err != nil {
		t.Fatal(err)
	}
	defer slow.CloseNow()
	viewers := func() (n int) {
		u.hub.each(func(*viewer) { n++ })
		return n
	}
	// Big frames until what the kernel keeps for the slow one is full.
	data := strings.Repeat("x", 60<<10)
	deadline := time.Now().Add(30 * time.Second)
	for i := 0; viewers() == 2; i++ {
		if time.Now().After(deadline) {
			t.Fatal("the slow viewer is there still")
		}
		id := fmt.Sprintf("t-s%04d", i)
		propose(t, node, fleet.CreateTask{ID: id, RegionID: "dc1", TargetMAC: fmt.Sprintf("52:54:00:bb:%02x:%02x", i>>8, i&255), PhoneToken: id,
			Spec: fleet.Spec{OSType: "tiny", NetworkConfig: fleet.NetworkConfig{Config: data}}})
		for quick.until("task_created").TaskID != id {
		}
	}
}

func TestTooManyViewersAreTurnedAway(t *testing.T) {
	_, _, c, _ := newNode(t, func(c *Config) { c.Limits.Viewers = 1 })
	look(t, c, 0).snapshot()
	if _, err := c.Watch(t.Context(), 0); client.StatusOf(err) != http.StatusServiceUnavailable {
		t.Errorf("the second viewer got: %v", err)
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	_, _, c, url := newNode(t)
	for name, frame := range map[string]string{
		"no JSON": "hello", "an array": "[]", "deep": strings.Repeat("[", 1000), "twice": `{"type":"ping","type":"subscribe"}`, "wrong type": `{"type":"subscribe","rows":"m-1"}`,
		"too many rows": `{"type":"subscribe","rows":["x"` + strings.Repeat(`,"x"`, 2100) + `]}`, "too long": `{"type":"` + strings.Repeat("x", 40<<10) + `"}`,
	} {
		conn, _, err := websocket.Dial(t.Context(), url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {url}}})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadLimit(-1)
		if err := conn.Write(t.Context(), websocket.MessageText, []byte(frame)); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			_, _, err = conn.Read(ctx)
			cancel()
		}
		if code := websocket.CloseStatus(err); code != websocket.StatusPolicyViolation && code != websocket.StatusMessageTooBig {
			t.Errorf("%s ended as %v", name, err)
		}
	}
	e := look(t, c, 0)
	e.snapshot()
	if err := e.w.Send(t.Context(), []byte(`{"type":"dance"}`)); err != nil {
		t.Fatal(err)
	}
	if f := e.until(api.FrameError); f.Text == "" {
		t.Error("an unknown type is not explained")
	}
}

func TestStoppingNodeSaysGoodbye(t *testing.T) {
	node, u, _, url := newNode(t)
	conn, _, err := websocket.Dial(t.Context(), url+"/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {url}}})
	if err != nil {
		t.Fatal(err)
	}
	conn.SetReadLimit(-1)
	for range 2 { // hello and snapshot
		if _, _, err := conn.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	u.Close()
	for err == nil {
		_, _, err = conn.Read(t.Context())
	}
	if code := websocket.CloseStatus(err); code != websocket.StatusGoingAway {
		t.Errorf("the connection ended as %v", err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for node.Cluster.Watchers() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the watcher is open still")
		}
		time.Sleep(time.Millisecond)
	}
}

// FuzzSocketFrames gives a viewer anything to hear.
func FuzzSocketFrames(f *testing.F) {
	for _, s := range []string{`{"type":"subscribe","since":12,"rows":["m-1"],"tasks":[],"machines":null}`, `{"type":"ping"}`, `{"type":"subscribe","since":-1}`, `null`, `[]`, `{"type":7}`, `{`} {
		f.Add([]byte(s))
	}
	_, u := newUI(f)
	f.Fuzz(func(t *testing.T, frame []byte) {
		v := u.hub.newViewer(apitest.Anna, func(context.Context, []byte) error { return nil })
		for range 3 {
			if v.hear(frame) != nil {
				return
			}
		}
		if len(v.wants.rows) > maxIDs || len(v.replies) > maxReplies {
			t.Fatal("a viewer made the node keep too much")
		}
	})
}
