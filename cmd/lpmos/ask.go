package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/doctor"
	"github.com/lpmos/lpmos/netboot"
	"github.com/spf13/cobra"
)

// asker asks a person at a terminal which network a node is to serve, and how: two
// questions, of which return is an answer to each. No packet is sent before the
// first is answered, and then only where it says.
type asker struct {
	out        io.Writer
	grey       bool // what cannot be served is greyed, beside the reason
	joins      bool // the node becomes one of several, who may be there already
	read       func(context.Context) (string, error)
	candidates func() ([]doctor.Candidate, error)
	servers    func(ctx context.Context, name string) ([]netboot.DHCPServer, error)
	hosts      func(ctx context.Context, name string, in netboot.Range) ([]netip.Addr, error)
}

// tries is how often a question is asked again that was answered with something else.
const tries = 3

var errNoAnswer = errors.New("that was no answer; nothing was started")

// askForNetwork asks if there is somebody to ask and nothing was said of networks,
// and keeps the answers in the configuration, so that it asks once.
func askForNetwork(cmd *cobra.Command, cfg *config.Config, from config.Origins, joins bool) error {
	if len(cfg.Interfaces) > 0 || from["interfaces"] != "default" || !isTerminal(cmd.InOrStdin()) {
		return nil
	}
	a := asker{out: cmd.ErrOrStderr(), grey: colourful(cmd.ErrOrStderr()), joins: joins, candidates: doctor.Candidates,
		read: func(ctx context.Context) (string, error) { return readLine(ctx, cmd.InOrStdin()) },
		servers: func(ctx context.Context, name string) ([]netboot.DHCPServer, error) {
			return netboot.FindServers(ctx, name, 5*time.Second)
		},
		hosts: func(ctx context.Context, name string, in netboot.Range) ([]netip.Addr, error) {
			return netboot.FindHosts(ctx, name, in, time.Second)
		}}
	answer, answered, err := a.ask(cmd.Context())
	if err != nil || !answered {
		return err
	}
	cfg.Interfaces = answer
	if err := keepAnswer(cmd, answer); err != nil {
		fmt.Fprintf(a.out, "hint: the answers are not kept: %v\n", err)
		for _, i := range answer {
			fmt.Fprintf(a.out, "hint: the next time, lpmos up --interface %s does not ask\n", i)
		}
	}
	return nil
}

// keepAnswer writes the answers where they are read the next time.
func keepAnswer(cmd *cobra.Command, answer []config.Interface) error {
	file := configFile(cmd)
	if _, none := os.LookupEnv("LPMOS_CONFIG"); file == "" && (none || cmd.Flags().Changed("config")) {
		return errors.New("this node is to have no configuration file")
	}
	if file == "" {
		file = usualConfig
	}
	if err := config.Remember(file, answer); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "That stands in %s now, and is not asked again.\n\n", file)
	return nil
}

// ask asks both. answered is false if there is nothing to choose from.
func (a asker) ask(ctx context.Context) (answer []config.Interface, answered bool, err error) {
	all, err := a.candidates()
	if err != nil {
		return nil, false, err
	}
	fit := a.show(all)
	if fit == 0 {
		fmt.Fprint(a.out, "None of them can be served as it is, so this node serves no machine yet.\n\n")
		return nil, false, nil
	}
	c, none, err := a.whichOne(ctx, all[:fit])
	if err != nil || none {
		return nil, none, err
	}
	i, err := a.whichMode(ctx, c)
	if err != nil {
		return nil, false, err
	}
	return []config.Interface{i}, true, nil
}

// show prints the interfaces, those first that can be served, and counts these.
func (a asker) show(all []doctor.Candidate) (fit int) {
	fmt.Fprint(a.out, "No network is named that this node is to serve. There are:\n\n")
	for i, c := range all {
		number, what := strconv.Itoa(i+1), c.Why
		if c.Why == "" {
			fit++
			if c.Default {
				what = "the way out of this host leads over it"
			}
		} else {
			number = "-"
		}
		address := "-"
		if c.Address.IsValid() {
			address = c.Address.String()
		}
		line := strings.TrimRight(fmt.Sprintf("  %2s  %-12s %-18s %s", number, c.Name, address, what), " ")
		if c.Why != "" && a.grey {
			line = "\x1b[2m" + line + "\x1b[0m"
		}
		fmt.Fprintln(a.out, line)
	}
	fmt.Fprintln(a.out)
	return fit
}

// whichOne is the first question.
func (a asker) whichOne(ctx context.Context, fit []doctor.Candidate) (c doctor.Candidate, none bool, err error) {
	proposed := fit[0].Name
	if len(fit) > 1 {
		proposed = ""
	}
	err = a.question(ctx, "Which one do the machines netboot on? Its number or name, or none", proposed, func(answer string) bool {
		if answer == "none" {
			none = true
			return true
		}
		i := slices.IndexFunc(fit, func(c doctor.Candidate) bool { return c.Name == answer })
		if n, err := strconv.Atoi(answer); i < 0 && err == nil {
			i = n - 1
		}
		if i < 0 || i >= len(fit) {
			return false
		}
		c = fit[i]
		return true
	})
	return c, none, err
}

// whichMode is the second: it first asks the network, and proposes what that says.
func (a asker) whichMode(ctx context.Context, c doctor.Candidate) (config.Interface, error) {
	in := config.Interface{Name: c.Name}
	fmt.Fprintf(a.out, "\nAsking on %s whether another DHCP server answers …\n", c.Name)
	found, err := a.servers(ctx, c.Name)
	if ctx.Err() != nil {
		return in, ctx.Err()
	}
	span, lends := doctor.ProposeRange(c.Address)
	if lends && err == nil {
		span, lends = a.without(ctx, c.Name, span)
		if ctx.Err() != nil {
			return in, ctx.Err()
		}
	}
	proposed := "proxy"
	i := slices.IndexFunc(found, func(s netboot.DHCPServer) bool { return s.Lends })
	switch {
	case err != nil:
		fmt.Fprintf(a.out, "That could not be found out: %v.\n", err)
	case i >= 0:
		fmt.Fprintf(a.out, "%s (card %s) gives the addresses there.\n", found[i].Addr, found[i].Card)
		if a.joins { // what it is cannot be known before the cluster is
			fmt.Fprintln(a.out, "If that is a node of the cluster this one joins, answer dhcp with the range that its configuration has.")
			proposed = ""
		}
	default:
		fmt.Fprintln(a.out, "None does.")
		if lends {
			proposed = "dhcp"
		}
	}
	fmt.Fprintf(a.out, "\n  proxy  stand beside the DHCP server there, and add what to boot\n")
	if lends {
		fmt.Fprintf(a.out, "  dhcp   be the DHCP server there, and give %s (write dhcp FIRST-LAST for others)\n\n", span)
	} else {
		fmt.Fprintf(a.out, "  dhcp   be the DHCP server there: write dhcp FIRST-LAST, the addresses to give\n\n")
	}
	err = a.question(ctx, "What is this node to be there?", proposed, func(answer string) bool {
		mode, text, _ := strings.Cut(answer, " ")
		switch {
		case mode == "proxy" && text == "":
			in.Mode = mode
			return true
		case mode != "dhcp":
			return false
		}
		r := span
		if text == "" && !lends {
			return false
		}
		if text = strings.TrimSpace(text); text != "" {
			var err error
			if r, err = netboot.ParseRange(text); err != nil {
				fmt.Fprintf(a.out, "%v\n", err)
				return false
			}
		}
		in.Mode, in.Range, in.Router = mode, r.String(), routerOf(c)
		try := netboot.Interface{Name: c.Name, Mode: netboot.ModeDHCP, Range: r}
		if !c.Address.Masked().Contains(try.Range.First) || !c.Address.Masked().Contains(try.Range.Last) {
			fmt.Fprintf(a.out, "%s does not lie in %s\n", r, c.Address.Masked())
			return false
		}
		return true
	})
	if err == nil && in.Mode == "proxy" {
		in.Range, in.Router = "", ""
	}
	return in, err
}

// without takes the addresses out of a range that somebody has already.
func (a asker) without(ctx context.Context, name string, span netboot.Range) (free netboot.Range, some bool) {
	taken, err := a.hosts(ctx, name, span)
	if err != nil || len(taken) == 0 {
		return span, true // it is a proposal: a node looks again before it lends
	}
	fmt.Fprintf(a.out, "%d of %s are somebody's already, %s for instance.\n", len(taken), span, taken[0])
	free = doctor.ProposeFree(span, taken)
	return free, free.First.IsValid()
}

// routerOf is what machines are told to leave their network by: the way this host
// does, if it does so there.
func routerOf(c doctor.Candidate) string {
	if c.Router.IsValid() && c.Router != netip.IPv4Unspecified() && c.Address.Masked().Contains(c.Router) {
		return c.Router.String()
	}
	return ""
}

// question asks until take takes the answer; return alone is the proposed one.
func (a asker) question(ctx context.Context, text, proposed string, take func(string) bool) error {
	if proposed != "" {
		text += " [" + proposed + "]"
	}
	for range tries {
		fmt.Fprint(a.out, text+": ")
		answer, err := a.read(ctx)
		if ctx.Err() != nil {
			fmt.Fprintln(a.out)
			return ctx.Err()
		}
		if err != nil {
			fmt.Fprintln(a.out)
			return errNoAnswer
		}
		if answer == "" {
			answer = proposed
		}
		if answer != "" && take(strings.Join(strings.Fields(answer), " ")) {
			return nil
		}
	}
	return &hinted{errNoAnswer, "lpmos up --interface NAME,mode=proxy says it on the command line"}
}
