package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/lpmos/lpmos/appliance/doctor"
	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/spf13/cobra"
)

// selfTestArgs are the words by which the self-test's processes are this program.
var selfTestArgs = []string{"doctor", "self-test"}

// found is a command that did what it should, and found something: the exit code
// tells, and nothing more is to be said.
type found struct{ code int }

func (f *found) Error() string { return fmt.Sprintf("exit code %d", f.code) }

func doctorCommand(node *nodeFlags) *cobra.Command {
	var load func() (config.Config, config.Origins, error)
	var listen time.Duration
	cmd := &cobra.Command{Use: "doctor", Short: "Find out why machines do not boot off this host, or would not",
		Long: "Looks at all that a node needs, one thing after the other in the order in which they rest on each\n" +
			"other, and says what to do about what it finds. What cannot work because of something else is left\n" +
			"out: the first ✘ is the cause. It works with a node that runs here, and without one.\n\n" +
			"It changes nothing. It sends packets only on the interfaces that the configuration or --interface\n" +
			"names: there it asks for an address, to hear whether another DHCP server answers. As root it also\n" +
			"boots two machines that are not there off itself, in a network that nobody else is on.\n\n" +
			"The exit code is 0 if all is well, 1 with warnings, 2 if something fails or the command is wrong.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := load()
			h := &doctor.Host{Config: cfg, ConfigErr: err, File: configFile(cmd), Version: version,
				BootFiles: bootimage.Files(), Now: time.Now, Inner: selfTestArgs, Listen: listen, CheckDir: appliance.CheckDataDir}
			p := doctor.Printer{Out: cmd.OutOrStdout(), Colour: colourful(cmd.OutOrStdout())}
			told := p.Line
			if node.json {
				told = nil
			}
			r := doctor.Examine(cmd.Context(), doctor.Checks(h), told)
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			if err := node.print(cmd.OutOrStdout(), r, func(io.Writer) { p.End(r) }); err != nil {
				return err
			}
			if r.Exit() != 0 {
				return &found{r.Exit()}
			}
			return nil
		}}
	cmd.Flags().DurationVar(&listen, "listen-for", 5*time.Second, "how long to listen for other DHCP servers on each interface")
	load = configFlags(cmd)
	cmd.AddCommand(&cobra.Command{Use: "self-test", Hidden: true, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			return doctor.SelfTest(cmd.Context(), selfTestArgs, args, bootimage.Files(), cmd.InOrStdin(), cmd.OutOrStdout())
		}})
	return cmd
}

// colourful says whether colours help: on a terminal, unless somebody says no
// (no-color.org).
func colourful(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
