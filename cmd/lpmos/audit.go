package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func auditCommand(node *nodeFlags) *cobra.Command {
	var limit int
	cmd := &cobra.Command{Use: "audit", Short: "List what people and nodes have done, the newest first", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Audit(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "WHEN", "INDEX", "WHAT")
				for _, r := range all {
					row(w, when(r.At), r.Index, r.What)
				}
			})
		})}
	cmd.Flags().IntVar(&limit, "limit", 200, "how many at most; 10,000 are kept")
	cmd.AddCommand(auditExport(node), auditVerify(node))
	return cmd
}

func auditExport(node *nodeFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{Use: "export FILE", Short: "Write the whole audit to a file, one JSON document a line", Args: exactly(1, "the file to write, or - for the terminal"),
		Long: "Writes the audit, the oldest record first. Each record holds the hash of the one before it: whoever\n" +
			"keeps an export, or only its last hash, can show later that nothing up to there was changed.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if args[0] == "-" {
				return c.ExportAudit(cmd.Context(), cmd.OutOrStdout())
			}
			flags := os.O_CREATE | os.O_WRONLY | os.O_EXCL
			if force {
				flags = os.O_CREATE | os.O_WRONLY | os.O_TRUNC
			}
			f, err := os.OpenFile(args[0], flags, 0o600)
			if errors.Is(err, fs.ErrExist) {
				return &hinted{&conflictError{fmt.Errorf("%s is there already; nothing was written", args[0])}, "give another name, or --force to write over it"}
			}
			if err != nil {
				return fmt.Errorf("export the audit: %w", err)
			}
			if err := errors.Join(c.ExportAudit(cmd.Context(), f), f.Sync(), f.Close()); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "exported", args[0])
		})}
	cmd.Flags().BoolVar(&force, "force", false, "write over the file if it is there")
	return cmd
}

// maxAuditLine is more than a record can have.
const maxAuditLine = 1 << 20

func auditVerify(node *nodeFlags) *cobra.Command {
	return &cobra.Command{Use: "verify FILE", Short: "Check that nothing in an exported audit was changed, left out or moved", Args: exactly(1, "a file of lpmos audit export"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return fmt.Errorf("read the audit: %w", err)
			}
			defer f.Close()
			records, err := readAudit(f)
			if err == nil {
				err = fleet.VerifyAudit(records)
			}
			if err != nil {
				return &conflictError{fmt.Errorf("%s: %w", args[0], err)}
			}
			last := ""
			if n := len(records); n > 0 {
				last = records[n-1].Hash
			}
			return node.print(cmd.OutOrStdout(), map[string]any{"records": len(records), "last": last}, func(w io.Writer) {
				row(w, "records", len(records))
				row(w, "whole", "each follows the one before it")
				row(w, "last hash", last)
			})
		}}
}

func readAudit(in io.Reader) (records []*fleet.AuditRecord, err error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxAuditLine)
	for n := 1; lines.Scan(); n++ {
		dec := json.NewDecoder(bytes.NewReader(lines.Bytes()))
		dec.DisallowUnknownFields() // what is not known here could not be checked
		r := new(fleet.AuditRecord)
		if err := dec.Decode(r); err != nil {
			return nil, fmt.Errorf("line %d is no record of an audit: %w", n, err)
		}
		records = append(records, r)
	}
	return records, lines.Err()
}
