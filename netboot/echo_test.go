package netboot

import (
	"context"
	"net/netip"
	"testing"
)

// answerTo is what a host makes of a request.
func answerTo(request []byte) []byte {
	b := append([]byte(nil), request...)
	b[0], b[2], b[3] = icmpEchoReply, 0, 0
	sum := ^sum16(0, b)
	b[2], b[3] = byte(sum>>8), byte(sum)
	return b
}

func TestAnEchoIsAnAnswerToOurs(t *testing.T) {
	token := [10]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	good := answerTo(echoRequest(token))
	if !isEchoReply(good, token) {
		t.Errorf("% x answers % x", good, echoRequest(token))
	}
	for name, b := range map[string][]byte{
		"our own request":     echoRequest(token),
		"to somebody else":    answerTo(echoRequest([10]byte{1, 2})),
		"cut":                 good[:15],
		"longer":              append(append([]byte(nil), good...), 0, 0),
		"nothing":             nil,
		"a port that is none": {3, 3, 0, 0, 1, 2, 0, 0, 3, 4, 5, 6, 7, 8, 9, 10},
	} {
		if isEchoReply(b, token) {
			t.Errorf("%s was taken", name)
		}
	}
	for i := range good { // a bit that fell over
		bad := append([]byte(nil), good...)
		if bad[i] ^= 4; isEchoReply(bad, token) {
			t.Errorf("byte %d is not looked at", i)
		}
	}
}

// FuzzEcho: what is taken is what was made for the token.
func FuzzEcho(f *testing.F) {
	token := [10]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	f.Add(answerTo(echoRequest(token)))
	f.Add(echoRequest(token))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if isEchoReply(b, token) && (string(b[4:6]) != string(token[:2]) || string(b[8:]) != string(token[2:])) {
			t.Fatalf("% x was taken", b)
		}
	})
}

// A router that answers to ping for every address keeps few from being lent.
func TestARouterThatAnswersForAllStopsNothing(t *testing.T) {
	s := newSetupOf(t, ModeDHCP, []string{"10.77.0.1/24"}, behind)
	s.echoing = func(context.Context, netip.Addr) string { return echoed }
	ask := packet{kind: discover, giaddr: "10.79.0.1"}
	for range echoMost / arpTries {
		if d, _ := s.ask(t, ask); d != nil {
			t.Fatalf("offered %v, which answers", d)
		}
	}
	if d, _ := s.ask(t, ask); d == nil || d.YourIPAddr.String() != "10.79.0.164" {
		t.Errorf("offered %v", d)
	}
	if n := len(s.LeaseTable()); n != echoMost {
		t.Errorf("%d addresses rest", n)
	}
}
