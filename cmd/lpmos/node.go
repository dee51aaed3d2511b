package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// nodeFlags are what every command that works with a running node takes.
type nodeFlags struct {
	url  string
	json bool
}

func (n *nodeFlags) client() (*client.Client, error) {
	c, err := client.New(n.url, nil)
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
		var unreachable *url.Error
		if errors.As(err, &unreachable) && cmd.Context().Err() == nil {
			return &hinted{fmt.Errorf("node %s does not answer: %w", n.url, cause(unreachable)),
				"is a node running there? --node or LPMOS_NODE says which to ask, lpmos up starts one"}
		}
		return err
	}
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
