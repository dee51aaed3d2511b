package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

// savedLogin is what lpmos login leaves for the commands after it. The file is its
// owner's alone: the cookie in it is as good as the password until it ends.
type savedLogin struct {
	Node      string `json:"node"`                // address
	Authority string `json:"authority,omitempty"` // hash of the key of the authority the node has to show; empty: one this host trusts
	Cookie    string `json:"cookie"`              // name=value
	Name      string `json:"name"`
}

func loginFile() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find where to keep the session: %w", err)
	}
	return filepath.Join(dir, "lpmos", "login.json"), nil
}

// readLogin gives the kept session, or a zero value if there is none.
func readLogin() (l savedLogin, err error) {
	path, err := loginFile()
	if err != nil {
		return l, nil //nolint:nilerr // without a home nothing was kept
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return l, fmt.Errorf("read the kept session %s: %w", path, err)
	}
	return l, nil
}

func (l savedLogin) write() error {
	path, err := loginFile()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("keep the session: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("keep the session: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".login-") // with mode 0600
	if err != nil {
		return fmt.Errorf("keep the session: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("keep the session: %w", err)
	}
	return nil
}

// client speaks to the node of the session, and to the others of its cluster.
func (l savedLogin) client(address string) (*client.Client, error) {
	c, err := client.New(address, l.http())
	if err != nil {
		return nil, err
	}
	name, value, _ := strings.Cut(l.Cookie, "=")
	return c.With(client.Key{Cookie: &http.Cookie{Name: name, Value: value}}), nil
}

// http is how the node is reached: over TLS its chain has to end at the authority
// that was found to be the right one when the session was opened.
func (l savedLogin) http() *http.Client {
	if l.Authority == "" {
		return nil
	}
	return pinned(l.Authority, nil)
}

// pinned trusts one authority alone, known by the hash of its key. seen, if set, is
// given the chain that a node shows before it is judged.
func pinned(authority string, seen func([]*x509.Certificate) error) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{
		MinVersion: tls.VersionTLS13,
		// Judged below: crypto/tls knows roots by whole certificates, and people
		// compare the hash of a key.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if seen != nil {
				if err := seen(s.PeerCertificates); err != nil {
					return err
				}
			}
			return verifyChain(s.PeerCertificates, s.ServerName, authority)
		},
	}
	return &http.Client{Transport: transport}
}

// verifyChain checks that a chain ends at the authority and is for this name.
func verifyChain(chain []*x509.Certificate, name, authority string) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range chain[1:] {
		sum := trust.FingerprintOf(c)
		if hex.EncodeToString(sum[:]) == authority {
			roots.AddCert(c)
			found = true
		} else {
			between.AddCert(c)
		}
	}
	if !found {
		return errors.New("the node shows another authority than it did when you signed in; if that is meant to be, sign in again")
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name})
	return err
}

func loginCommand(node *nodeFlags) *cobra.Command {
	var name, passwordFile, authority string
	cmd := &cobra.Command{Use: "login ADDRESS", Short: "Sign in to a node from another host", Args: exactly(1, "the node's address, or a login link"),
		Long: "Opens a session and keeps it for the commands that follow, on this host and for this user alone.\n" +
			"ADDRESS is that of the dashboard, or a link that lpmos login-link has printed.\n\n" +
			"On a node's own host none of this is needed: who may read its data directory is let in.",
		RunE: func(cmd *cobra.Command, args []string) error {
			address, code, err := splitLink(args[0])
			if err != nil {
				return &usageError{err}
			}
			l := savedLogin{Node: address, Authority: strings.ToLower(strings.ReplaceAll(authority, " ", ""))}
			if strings.HasPrefix(address, "https:") && l.Authority == "" {
				if l.Authority, err = askAuthority(cmd, address); err != nil {
					return err
				}
			}
			c, err := client.New(address, l.http())
			if err != nil {
				return &usageError{err}
			}
			in := api.SignIn{Code: code}
			if code == "" {
				if in.Name, err = askName(cmd, name); err != nil {
					return err
				}
				if in.Password, err = password(cmd, passwordFile, "Password: "); err != nil {
					return err
				}
			}
			who, key, err := c.SignIn(cmd.Context(), in)
			if err != nil {
				return unreachable(c, err)
			}
			l.Cookie, l.Name = key.Cookie.Name+"="+key.Cookie.Value, who.Name
			if err := l.write(); err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), who, func(w io.Writer) { fmt.Fprintf(w, "signed in at %s as %s (%s)\n", address, who.Name, who.Role) })
		}}
	cmd.Flags().StringVar(&name, "name", "", "who signs in; asked for if not given")
	cmd.Flags().StringVar(&passwordFile, "password-file", "", "read the password from the first line of this `FILE`")
	cmd.Flags().StringVar(&authority, "authority", "", "the authority's `FINGERPRINT` as lpmos up has printed it, in place of the question")
	return cmd
}

// splitLink takes a login link apart into the address and its code.
func splitLink(word string) (address, code string, err error) {
	u, err := url.Parse(word)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", "", fmt.Errorf("node address %q: write it as https://10.0.0.1:8080", word)
	}
	code, _ = strings.CutPrefix(u.Fragment, "login=")
	return u.Scheme + "://" + u.Host, code, nil
}

// askAuthority finds out whether the node may be believed: this host trusts what it
// shows, or the person knows its authority.
func askAuthority(cmd *cobra.Command, address string) (authority string, err error) {
	errLooked := errors.New("looked")
	var chain []*x509.Certificate
	look := pinned("", func(c []*x509.Certificate) error { chain = c; return errLooked })
	ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, address, nil)
	if err != nil {
		return "", &usageError{err}
	}
	if _, err := look.Do(req); !errors.Is(err, errLooked) {
		return "", fmt.Errorf("reach node %s: %w", address, err)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Intermediates: between, DNSName: req.URL.Hostname()}); err == nil {
		return "", nil // as any other web site
	}
	last := chain[len(chain)-1]
	if len(chain) < 2 {
		return "", errors.New("the node shows a certificate that this host does not trust, and no authority it comes from; put its authority into this host's trust store")
	}
	sum := trust.FingerprintOf(last)
	if !isTerminal(cmd.InOrStdin()) {
		return "", &hinted{&usageError{errors.New("this host does not know the authority of the node, and there is no terminal to ask on")},
			"give --authority, as lpmos up has printed it on the node"}
	}
	out := cmd.ErrOrStderr()
	fmt.Fprintf(out, "The node shows an authority that this host does not know:\n\n  %s\n\nIs it the one that lpmos up has printed? Type yes or no: ", sum)
	answer, err := readLine(cmd.Context(), cmd.InOrStdin())
	if err != nil || answer != "yes" {
		return "", errors.New("nobody was signed in")
	}
	return hex.EncodeToString(sum[:]), nil
}

func askName(cmd *cobra.Command, name string) (string, error) {
	if name != "" {
		return name, nil
	}
	if !isTerminal(cmd.InOrStdin()) {
		return "", &hinted{&usageError{errors.New("there is no terminal to ask on for a name")}, "give --name and --password-file"}
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Name: ")
	return readLine(cmd.Context(), cmd.InOrStdin())
}

func logoutCommand(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "logout", Short: "End the session that lpmos login has opened", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := readLogin()
			if err != nil {
				return err
			}
			if l.Cookie == "" {
				return &hinted{&conflictError{errors.New("nobody is signed in here")}, "lpmos login ADDRESS signs in"}
			}
			c, err := l.client(l.Node)
			if err != nil {
				return err
			}
			// The file goes whatever the node says: what is asked for is that this host
			// has no session any more.
			ended := c.SignOut(cmd.Context())
			path, err := loginFile()
			if err == nil {
				err = os.Remove(path)
			}
			if err != nil {
				return fmt.Errorf("forget the session: %w", err)
			}
			if ended != nil {
				return fmt.Errorf("the session is forgotten here, but node %s did not end it; it ends by itself within 30 minutes: %w", l.Node, ended)
			}
			return node.done(cmd.OutOrStdout(), "signed out", l.Name)
		}}
}

func loginLinkCommand(node *nodeFlags) *cobra.Command {
	var user, dashboard string
	cmd := &cobra.Command{Use: "login-link", Short: "Print a link that signs a browser in once, on the node's own host", Args: cobra.NoArgs,
		Long: "Prints a link that opens the dashboard and signs in, once, within 10 minutes. It is made on the node's\n" +
			"own host, by who may read its data directory: the way in when no password is known.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			code, err := c.NewLoginCode(cmd.Context(), user)
			if err != nil {
				return err
			}
			if dashboard == "" {
				dashboard = ownDashboard(cmd.Context(), c)
			}
			link := client.LoginLink(dashboard, code.Code)
			return node.print(cmd.OutOrStdout(), map[string]any{"link": link, "expires_at": code.ExpiresAt}, func(w io.Writer) { fmt.Fprintln(w, link) })
		})}
	cmd.Flags().StringVar(&user, "user", "", "sign in this user, in place of an administrator without an account")
	cmd.Flags().StringVar(&dashboard, "address", "", "the dashboard's `ADDRESS` as the browser reaches it, if the node names another")
	return cmd
}

// ownDashboard is where the node that was asked says its dashboard is.
func ownDashboard(ctx context.Context, c *client.Client) string {
	if v, err := c.Cluster(ctx); err == nil {
		for _, m := range v.Members {
			if m.ID == v.Node && m.Dashboard != "" {
				return m.Dashboard
			}
		}
	}
	return "http://127.0.0.1:8080"
}

func setupCodeCommand(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "setup-code", Short: "Print a code that makes the first administrator, on the node's own host", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			code, err := c.NewSetupCode(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), code, func(w io.Writer) { fmt.Fprintln(w, code.Code) })
		})}
}
