package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/lpmos/lpmos/appliance/sealed"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// passphraseFlag is where a passphrase comes from if nobody is to be asked. It
// is never a word of the command line: those are seen by everybody on the host.
type passphraseFlag struct{ file string }

func (p *passphraseFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.file, "passphrase-file", "", "`FILE` whose first line is the passphrase (LPMOS_PASSPHRASE_FILE)")
}

// ask gives the passphrase of something that is there.
func (p *passphraseFlag) ask(cmd *cobra.Command) (sealed.Passphrase, error) {
	if file := p.source(); file != "" {
		return readPassphrase(file)
	}
	return askHidden(cmd, "Passphrase of the backup: ")
}

// choose gives the passphrase of something that is to be, which is typed twice:
// what nobody sees is mistyped easily, and only found out when it is needed.
func (p *passphraseFlag) choose(cmd *cobra.Command) (sealed.Passphrase, error) {
	if file := p.source(); file != "" {
		chosen, err := readPassphrase(file)
		if err == nil {
			err = chosen.Check()
		}
		return chosen, err
	}
	first, err := askHidden(cmd, "New passphrase for the backup: ")
	if err != nil {
		return "", err
	}
	if err := first.Check(); err != nil {
		return "", err
	}
	again, err := askHidden(cmd, "The same once more: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("these are two passphrases; nothing was written")
	}
	return first, nil
}

func (p *passphraseFlag) source() string {
	if p.file != "" {
		return p.file
	}
	return os.Getenv("LPMOS_PASSPHRASE_FILE")
}

// maxPassphrase is far more than anybody types.
const maxPassphrase = 4 << 10

func readPassphrase(file string) (sealed.Passphrase, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s is open to other users of this host (mode %04o): close it with chmod 600, and think about who may have read it", file, mode.Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassphrase))
	if err != nil {
		return "", fmt.Errorf("read the passphrase: %w", err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	if line = strings.TrimSpace(line); line == "" { // as one that is typed
		return "", fmt.Errorf("%s has no passphrase in its first line", file)
	}
	return sealed.Passphrase(line), nil
}

// askHidden lets a person type what the terminal does not show.
func askHidden(cmd *cobra.Command, question string) (sealed.Passphrase, error) {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !isTerminal(in) {
		return "", &hinted{&usageError{errors.New("there is no terminal to ask for the passphrase on")}, "give --passphrase-file, or LPMOS_PASSPHRASE_FILE in the environment"}
	}
	fmt.Fprint(cmd.ErrOrStderr(), question)
	line, err := readHidden(cmd.Context(), in)
	fmt.Fprintln(cmd.ErrOrStderr()) // the person's own end of the line was not shown
	if err != nil && cmd.Context().Err() == nil {
		err = fmt.Errorf("read the passphrase: %w", err)
	}
	return sealed.Passphrase(line), err
}

// readHidden reads a line with the echo off, and has it on again whatever happens.
func readHidden(ctx context.Context, terminal *os.File) (line string, err error) {
	fd := int(terminal.Fd())
	usual, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	hidden := *usual
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, usual)) }()
	return readLine(ctx, terminal)
}
