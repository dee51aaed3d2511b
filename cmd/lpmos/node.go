package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// nodeFlags are what every command that works with a running node takes.
type nodeFlags struct {
	url  string
	json bool
}

// defaultNode is asked when nothing says which.
const defaultNode = "http://127.0.0.1:8080"

// client is how the node is reached: the one that was named; else, on a node's own
// host, by its socket; else where lpmos login has signed in.
func (n *nodeFlags) client() (*client.Client, error) {
	if n.url == "" {
		if dir := envOr("LPMOS_DATA_DIR", "/var/lib/lpmos"); unix.Access(client.SocketIn(dir), unix.W_OK) == nil {
			return client.AtTheNode(dir), nil
		}
	}
	login, err := readLogin()
	if err != nil {
		return nil, err
	}
	address := n.url
	if address == "" {
		address = login.Node
	}
	if address == "" {
		address = defaultNode
	}
	token := os.Getenv("LPMOS_TOKEN")
	var c *client.Client
	if login.Cookie != "" && token == "" && strings.TrimSuffix(address, "/") == login.Node {
		c, err = login.client(address)
	} else if c, err = client.New(address, login.http()); err == nil && token != "" {
		c = c.With(client.Key{Token: token})
	}
	if err != nil {
		return nil, &usageError{err}
	}
	return c, nil
}

// with runs f with a client and says what to do when there is no node.
func (n *nodeFlags) with(f func(cmd *cobra.Command, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := n.client()
		if err != nil {
			return err
		}
		err = f(cmd, c, args)
		if cmd.Context().Err() != nil {
			return err
		}
		return unreachable(c, err)
	}
}

// unreachable says what to do about a node that does not answer, or lets nobody in.
func unreachable(c *client.Client, err error) error {
	var away *url.Error
	switch {
	case errors.As(err, &away):
		at := c.Address()
		if c.Local() {
			at = c.Name()
		}
		return &hinted{fmt.Errorf("node %s does not answer: %w", at, cause(away)),
			"is a node running there? --node or LPMOS_NODE says which to ask, lpmos up starts one"}
	case client.StatusOf(err) == http.StatusUnauthorized:
		return &hinted{err, "lpmos login " + c.Address() + " signs in, LPMOS_TOKEN is for programs; on the node's own host LPMOS_DATA_DIR names its data directory"}
	}
	return err
}

// cause is why an address was not reached, without how the call was made.
func cause(err error) error {
	var number syscall.Errno
	var name *net.DNSError
	switch {
	case errors.As(err, &number):
		return number
	case errors.As(err, &name):
		return errors.New("there is no host " + name.Name)
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(err) {
		err = next
	}
	return err
}

// done tells that something was done for which the node has no more to say.
func (n *nodeFlags) done(w io.Writer, what, name string) error {
	return n.print(w, map[string]string{what: name}, func(w io.Writer) { fmt.Fprintln(w, what, name) })
}

// print writes v as JSON, or calls human.
func (n *nodeFlags) print(w io.Writer, v any, human func(w io.Writer)) error {
	if n.json {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	human(tw)
	return tw.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		text := fmt.Sprint(c)
		if text == "" {
			text = "-"
		}
		fmt.Fprint(w, text)
	}
	fmt.Fprintln(w)
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func size(n uint64) string { return fleet.Bytes(n) }

func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return &usageError{fmt.Errorf("give %s", what)}
		}
		return nil
	}
}

func orDash(parts ...string) string { return strings.TrimSpace(strings.Join(parts, " ")) }
