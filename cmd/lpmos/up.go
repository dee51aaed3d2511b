package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/spf13/cobra"
)

func upCommand() *cobra.Command {
	var load func() (config.Config, config.Origins, error)
	var token string
	cmd := &cobra.Command{
		Use:   "up [--join TOKEN ADDRESS]",
		Short: "Run a node",
		Long: "Runs a node until it is told to stop (Ctrl-C or SIGTERM). A new data directory becomes\n" +
			"a cluster of this node alone, or with --join one more node of a cluster: TOKEN is what\n" +
			"lpmos node token prints there, ADDRESS the cluster address of any of its nodes. Whatever\n" +
			"interrupts that, the same command takes it up again; later lpmos up alone is enough. With - for\n" +
			"TOKEN it is read from standard input: the words of a command are seen by everybody on this host.\n\n" +
			"Only the interfaces that are named are touched. At a terminal, and if none is named anywhere, it\n" +
			"asks for one and keeps the answer in the configuration file; lpmos doctor says what is wrong\n" +
			"with it. Every other flag is also a key of that file (lpmos config reference) and a variable LPMOS_….",
		Args: func(cmd *cobra.Command, args []string) error {
			switch joining := cmd.Flags().Changed("join"); {
			case joining && len(args) != 1:
				return &usageError{errors.New("give the cluster address of one node to join at: lpmos up --join TOKEN ADDRESS")}
			case !joining && len(args) > 0:
				return &usageError{fmt.Errorf("lpmos up takes an address with --join TOKEN only, and no %q", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, from, err := load()
			if err != nil {
				return err
			}
			if token == "-" {
				if token, err = readLine(cmd.Context(), cmd.InOrStdin()); err != nil {
					return fmt.Errorf("read the token from standard input: %w", err)
				}
			}
			if err := askForNetwork(cmd, &cfg, from, len(args) > 0); err != nil {
				return err
			}
			log := logger(cmd.ErrOrStderr(), cfg)
			if err := appliance.Confine(cfg, log); err != nil {
				return err
			}
			if len(args) == 0 {
				return appliance.Run(cmd.Context(), cfg, version, log, examiner(cfg), appliance.Teller{To: cmd.ErrOrStderr(), Person: isTerminal(cmd.ErrOrStderr())})
			}
			return appliance.Join(cmd.Context(), cfg, appliance.Invitation{Token: token, Address: args[0]}, version, log, examiner(cfg))
		},
	}
	cmd.Flags().StringVar(&token, "join", "", "join the cluster that printed this `TOKEN`; - reads it from standard input")
	load = configFlags(cmd)
	return cmd
}

// configFlags gives a command one flag for every key of the configuration and
// returns what loads it.
func configFlags(cmd *cobra.Command) func() (config.Config, config.Origins, error) {
	cmd.Flags().String("config", "", "configuration `FILE` (YAML); if not given, LPMOS_CONFIG or "+usualConfig+" if it is there")
	values := map[string]*string{}
	repeated := cmd.Flags().StringArray("interface", nil, "`NETWORK` to serve: NAME,mode=dhcp,range=FIRST-LAST,router=IP,dns=IP+IP or NAME,mode=proxy or NAME,mode=observe; may be repeated")
	for _, k := range config.Keys {
		if k.Name != "interfaces" {
			if k.Default() == "false" {
				values[k.Name] = new(string)
				cmd.Flags().Var((*yesNo)(values[k.Name]), k.Flag(), usage(k))
				cmd.Flags().Lookup(k.Flag()).NoOptDefVal = "true"
				continue
			}
			values[k.Name] = cmd.Flags().String(k.Flag(), "", usage(k))
		}
	}
	return func() (config.Config, config.Origins, error) {
		given := map[string]string{}
		for name, v := range values {
			given[name] = *v
		}
		for _, i := range *repeated {
			given["interfaces"] += i + ";"
		}
		return config.Load(configFile(cmd), os.Getenv, given)
	}
}

// usualConfig is the file a node reads if nobody says which.
const usualConfig = "/etc/lpmos/lpmos.yaml"

// configFile is the file that a command with configFlags reads, or "": the one that
// is named, be it by an empty name, and else the usual one if there is one.
func configFile(cmd *cobra.Command) string {
	if f := cmd.Flags().Lookup("config"); f.Changed {
		return f.Value.String()
	}
	if file, set := os.LookupEnv("LPMOS_CONFIG"); set {
		return file
	}
	if _, err := os.Stat(usualConfig); err == nil {
		return usualConfig
	}
	return ""
}

// yesNo is a flag that needs no value to say yes. What it was given is checked
// with the rest of the configuration.
type yesNo string

func (y *yesNo) Set(v string) error { *y = yesNo(v); return nil }
func (y *yesNo) String() string     { return string(*y) }
func (y *yesNo) Type() string       { return "bool" }

// usage is a key's help: what it is, and what it is if nobody says.
func usage(k config.Key) string {
	if k.Default() == "" {
		return k.Doc
	}
	return fmt.Sprintf("%s (default %s)", k.Doc, k.Default())
}

func logger(w io.Writer, cfg config.Config) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: fitToLog}
	if cfg.LogFormat == "json" {
		return slog.New(newCalm(slog.NewJSONHandler(w, opts)))
	}
	return slog.New(newCalm(slog.NewTextHandler(w, opts)))
}
