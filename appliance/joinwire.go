package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/lpmos/lpmos/appliance/trust"
)

// What a node that joins and the one that lets it in say to each other: one POST
// over TLS in which only the second has proven itself. Fields may be added.

const (
	joinPath    = "/join"
	maxJoinBody = 32 << 10
)

type joinRequest struct {
	Token   string    `json:"token"` // id
	Secret  string    `json:"secret"`
	Name    string    `json:"name"`
	Region  string    `json:"region"`
	Version string    `json:"version"`
	Address string    `json:"cluster_address"`
	Request []byte    `json:"csr"` // DER; the node's id is made from its key
	Time    time.Time `json:"time"`
}

type joinAnswer struct {
	CA          []byte   `json:"ca"`   // DER
	Certificate []byte   `json:"cert"` // DER
	Secret      string   `json:"secret"`
	Nodes       []string `json:"nodes"` // cluster addresses of those that are in already
}

// String keeps the secret out of logs and messages; so do the others.
func (r joinRequest) String() string   { return "request of " + r.Name + " to join" }
func (r joinRequest) GoString() string { return r.String() }
func (n newcomer) String() string      { return n.joinRequest.String() }
func (n newcomer) GoString() string    { return n.String() }
func (joinAnswer) String() string      { return "answer to a request to join" }
func (a joinAnswer) GoString() string  { return a.String() }

type joinRefusal struct {
	Error string `json:"error"`
}

// newcomer is a request that makes sense.
type newcomer struct {
	joinRequest
	request trust.Request
}

// parseJoin reads what a stranger sent.
func parseJoin(body []byte) (newcomer, error) {
	var n newcomer
	if err := json.Unmarshal(body, &n.joinRequest); err != nil {
		return n, errors.New("the request cannot be read; are both nodes of the same version?")
	}
	for _, f := range []struct{ what, text string }{
		{"token", n.Token}, {"secret", n.Secret}, {"name", n.Name}, {"region", n.Region}, {"version", n.Version}, {"cluster address", n.Address},
	} {
		switch {
		case f.text == "":
			return n, fmt.Errorf("the request names no %s", f.what)
		case len(f.text) > 255 || strings.ContainsFunc(f.text, func(r rune) bool { return !unicode.IsPrint(r) }):
			return n, fmt.Errorf("the %s of the node is too long, or holds what cannot be printed", f.what)
		}
	}
	var err error
	n.request, err = trust.ParseRequest(n.Request)
	return n, err
}
