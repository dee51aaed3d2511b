package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/config"
	"github.com/spf13/cobra"
)

func serveCommand() *cobra.Command {
	var load func() (config.Config, config.Origins, error)
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node",
		Long: "Runs a node until it is told to stop (Ctrl-C or SIGTERM).\n\n" +
			"Only the interfaces that are named are touched. Every flag is also a key of the\n" +
			"configuration file (lpmos config reference) and a variable LPMOS_….",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, _, err := load()
			if err != nil {
				return err
			}
			return appliance.Run(cmd.Context(), cfg, version, logger(cmd.ErrOrStderr(), cfg))
		},
	}
	load = configFlags(cmd)
	return cmd
}

// configFlags gives a command one flag for every key of the configuration and
// returns what loads it.
func configFlags(cmd *cobra.Command) func() (config.Config, config.Origins, error) {
	file := cmd.Flags().String("config", "", "configuration file (YAML)")
	values := map[string]*string{}
	repeated := cmd.Flags().StringArray("interface", nil, "`NETWORK` to serve: NAME,mode=dhcp,range=FIRST-LAST,router=IP,dns=IP+IP or NAME,mode=proxy; may be repeated")
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
		return config.Load(*file, os.Getenv, given)
	}
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
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}
