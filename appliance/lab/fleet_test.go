package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fleetForTest is "lab fleet": it says what it was told and where it is, and ends as it
// was told.
func fleetForTest() error {
	plan, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	card, err := net.InterfaceByName(cableEnd)
	if err != nil {
		return err
	}
	addrs, err := card.Addrs()
	if err != nil {
		return err
	}
	fmt.Println(string(plan), addrs[0], card.HardwareAddr)
	switch string(plan) {
	case "fail":
		return errors.New("two machines\nare missing")
	case "stay":
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-ctx.Done()
	}
	return nil
}

// A fleet has a card of its own on the wire of the nodes, says what it has to say to who
// asked for it, and goes with them.
func TestAFleetRunsOnTheRacksWire(t *testing.T) {
	r := testRack(t, Options{Simulated: true, Nodes: 2})
	c := r.Client()
	if s, err := c.State(patience(t)); err != nil || !s.Simulated || len(s.Machines) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	var out bytes.Buffer
	if err := c.Simulate(patience(t), []byte("hello"), &out); err != nil || out.String() != "hello "+fleetPrefix+" "+fleetCard+"\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	out.Reset()
	if err := c.Simulate(patience(t), []byte("fail"), &out); err == nil || err.Error() != "two machines; are missing" || !strings.HasPrefix(out.String(), "fail ") {
		t.Errorf("a fleet that fails: %q, %v", out.String(), err)
	}

	ctx, cancel := context.WithCancel(patience(t))
	says, ended := newEvents(), make(chan error)
	go func() { ended <- c.Simulate(ctx, []byte("stay"), says) }()
	says.wait(patience(t), t, "stay ")
	if err := c.Simulate(patience(t), []byte("hello"), io.Discard); err == nil || !strings.Contains(err.Error(), "another is on the wire") {
		t.Errorf("a second fleet: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a fleet that nobody wants any more: %v", err)
	}
	// Its place is free again when it is gone.
	for end := time.Now().Add(30 * time.Second); ; {
		err := c.Simulate(patience(t), []byte("hello"), io.Discard)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestAFleetNeedsARackOfItsOwn(t *testing.T) {
	r := testRack(t, Options{StartOff: true})
	if err := r.Client().Simulate(patience(t), []byte("hello"), io.Discard); err == nil || !strings.Contains(err.Error(), "lab sim makes a rack of its own") {
		t.Errorf("on a rack of QEMU machines: %v", err)
	}
	o := Options{Dir: t.TempDir(), Simulated: true, Machines: 3}
	if _, err := o.withDefaults(); err == nil || !strings.Contains(err.Error(), "machines of a rack for a simulated fleet 3") {
		t.Errorf("machines beside a fleet: %v", err)
	}
	o.Machines = 0
	if o, err := o.withDefaults(); err != nil || o.Machines != 0 {
		t.Errorf("%+v, %v", o, err)
	}
	for _, n := range needs(o) {
		if strings.Contains(n.deb, "qemu") {
			t.Errorf("a fleet needs %s", n.what)
		}
	}
	if !slices.Contains(needs(o), need{"ip", "iproute2"}) {
		t.Error("a fleet needs no network")
	}
}
