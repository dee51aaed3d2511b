package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// password reads one from the first line of a file, or from the terminal without
// showing it. It is never an argument: those can be read by others on the host, and
// shells keep them.
func password(cmd *cobra.Command, file, prompt string) (string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the password: %w", err)
		}
		defer f.Close()
		line, err := bufio.NewReader(f).ReadString('\n')
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			return "", fmt.Errorf("read the password: %s has none on its first line (%v)", file, err)
		}
		return line, nil
	}
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !isTerminal(in) {
		return "", &hinted{&usageError{errors.New("there is no terminal to ask on for a password")}, "give --password-file"}
	}
	fd := int(in.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", fmt.Errorf("hide what is typed: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return "", fmt.Errorf("hide what is typed: %w", err)
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	line, err := readLine(cmd.Context(), in)
	fmt.Fprintln(cmd.ErrOrStderr())
	if err := errors.Join(err, cmd.Context().Err(), unix.IoctlSetTermios(fd, unix.TCSETS, before)); err != nil {
		return "", err
	}
	return line, nil
}

// newPassword asks twice: what is typed cannot be seen.
func newPassword(cmd *cobra.Command, file, what string) (string, error) {
	first, err := password(cmd, file, what+": ")
	if err != nil || file != "" {
		return first, err
	}
	again, err := password(cmd, "", "The same again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", errors.New("that was not the same; nothing was changed")
	}
	return first, nil
}
