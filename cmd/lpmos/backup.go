package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"github.com/lpmos/lpmos/appliance"
	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func backupCommand(node *nodeFlags) *cobra.Command {
	var force bool
	pass := &passphraseFlag{}
	cmd := &cobra.Command{Use: "backup FILE", Short: "Keep the state of the cluster in a file", Args: exactly(1, "the file to write"),
		Long: "Writes machines, tasks, what is known of images, nodes and the audit to one file, as they are now.\n\n" +
			"The file is encrypted with a passphrase, which is asked for, or read from the file that --passphrase-file\n" +
			"or LPMOS_PASSPHRASE_FILE names. Nobody can open it without: keep the passphrase where the file is not.\n\n" +
			"The file holds no OS images, and not the cluster's secret: keep a copy of DIR/trust/secret of any\n" +
			"node elsewhere, so that a restored cluster can have the same identity.",
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			b := sealedBackup{file: args[0], force: force, work: sealed.Work,
				passphrase: func() (sealed.Passphrase, error) { return pass.choose(cmd) }}
			info, err := b.fetch(cmd.Context(), c)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), info, func(w io.Writer) {
				row(w, "backup", args[0], size(uint64(info.Bytes)))
				showBackup(w, info)
				row(w, "sha256", info.SHA256)
			})
		})}
	cmd.Flags().BoolVar(&force, "force", false, "write over the file if it is there")
	pass.add(cmd)
	return cmd
}

func showBackup(w io.Writer, info consensus.BackupInfo) {
	row(w, "made", fmt.Sprintf("%s by node %s", when(info.Created), info.Node))
	row(w, "index", info.Index)
	row(w, "machines", info.Machines)
	row(w, "tasks", info.Tasks)
	row(w, "state", info.StateSHA256)
}

// sealedBackup is a backup that is to be kept in a file. It is encrypted here
// and not by the node: then the passphrase stays where it was typed, and what
// reaches the disk was never anything else.
type sealedBackup struct {
	file       string
	force      bool
	work       int // of each try of a passphrase, as sealed.Work
	passphrase func() (sealed.Passphrase, error)
}

// fetch writes the backup under another name, reads it as a restore would, and
// only then gives it the name that was asked for.
func (b sealedBackup) fetch(ctx context.Context, c *client.Client) (info consensus.BackupInfo, err error) {
	switch found, err := os.Stat(b.file); {
	case err == nil && found.IsDir():
		return info, &usageError{fmt.Errorf("%s is a directory; name the file to write", b.file)}
	case err == nil && !b.force:
		return info, &hinted{&conflictError{fmt.Errorf("%s is there already; nothing was written", b.file)}, "give another name, or --force to write over it"}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return info, fmt.Errorf("write backup: %w", err)
	}
	pass, err := b.passphrase()
	if err != nil {
		return info, err
	}
	part, err := os.OpenFile(b.file+".part", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	defer func() {
		part.Close() // on the good way it is closed already
		if err != nil {
			err = errors.Join(err, os.Remove(part.Name()))
		}
	}()
	out, err := sealed.Seal(part, pass, b.work)
	if err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if err := c.Backup(ctx, out); err != nil {
		return info, err
	}
	if err := out.Close(); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if info, _, err = appliance.ReadBackup(part, func() (sealed.Passphrase, error) { return pass, nil }, false); err != nil {
		return info, fmt.Errorf("what the node sent is not whole: %w", err)
	}
	if err := errors.Join(part.Sync(), part.Close()); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if err := os.Rename(part.Name(), b.file); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	if err := syncDir(filepath.Dir(b.file)); err != nil {
		return info, fmt.Errorf("write backup: %w", err)
	}
	return info, nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func restoreCommand(node *nodeFlags) *cobra.Command {
	r := appliance.Restore{By: "operator (lpmos restore)"}
	pass := &passphraseFlag{}
	cmd := &cobra.Command{Use: "restore FILE", Short: "Begin a node with the state of a backup", Args: exactly(1, "the backup"),
		Long: "Makes the data directory of a node that is alone in its cluster and has the state of a backup.\n\n" +
			"What was approved when the backup was made has to be approved again. OS images are no part of a\n" +
			"backup: import them again, or put the old directory DIR/images in place before. With --secret the\n" +
			"cluster keeps its identity; without it the node makes a new one at its first start.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if r.DataDir == "" {
				return &usageError{errors.New("give --data-dir, the directory the node is to have")}
			}
			ownerAlone()
			r.File, r.Log = args[0], quietly(cmd)
			r.Passphrase = func() (sealed.Passphrase, error) { return pass.ask(cmd) }
			done, err := r.Run(cmd.Context())
			if errors.Is(err, appliance.ErrUnsealed) {
				return &hinted{err, "if you know where it was all the time, say so with --unencrypted"}
			}
			if err != nil {
				return stillThere(err)
			}
			return node.print(cmd.OutOrStdout(), done, func(w io.Writer) {
				row(w, "restored", r.DataDir)
				showBackup(w, done.BackupInfo)
				row(w, "node", done.NodeID+", alone in its cluster")
				if done.NewIdentity {
					row(w, "identity", "new: other nodes have to join anew, with empty data directories")
				} else {
					row(w, "identity", "kept: cluster "+done.Cluster)
				}
				row(w, "next", "lpmos up --data-dir "+r.DataDir+"; what was approved has to be approved again")
			})
		}}
	cmd.Flags().StringVar(&r.DataDir, "data-dir", "", "`DIR` the node is to have")
	cmd.Flags().StringVar(&r.Secret, "secret", "", "`FILE` with the cluster's secret (trust/secret of any of its nodes), to keep its identity")
	cmd.Flags().BoolVar(&r.Force, "force", false, "also while a node of the cluster answers")
	cmd.Flags().BoolVar(&r.Unsealed, "unencrypted", false, "also a backup that is not encrypted, of an older lpmos")
	pass.add(cmd)
	return cmd
}

// stillThere adds the way to insist.
func stillThere(err error) error {
	var alive *appliance.StillThere
	if errors.As(err, &alive) {
		return &hinted{&conflictError{err}, "if these are not nodes of that cluster any more, say so with --force"}
	}
	return err
}

// quietly is a log for commands that tell on their own what they do.
func quietly(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
}

// ownerAlone closes what this process makes to others: it writes where a node
// keeps its state, and so do libraries that leave that to the umask.
func ownerAlone() { syscall.Umask(0o077) }
