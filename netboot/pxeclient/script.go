package pxeclient

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxSteps  = 200 // commands in all scripts of a boot
	maxChains = 8
)

var errExit = errors.New("exit")

// interpreter runs the small part of iPXE's script language that boot scripts
// of this project use, and refuses the rest.
type interpreter struct {
	client *Client
	vars   map[string]string

	script  string
	steps   int
	chains  int
	outcome Outcome
	cmdline string
	kernel  []byte
	initrd  []byte
	drive   int
}

// chain fetches a script and runs it. It returns an error when the script
// cannot be fetched or understood, and otherwise the outcome is set.
func (in *interpreter) chain(ctx context.Context, url string) error {
	if in.chains++; in.chains > maxChains {
		return errors.New("scripts call each other in a circle")
	}
	b, err := in.fetch(ctx, StepScript, url)
	if err != nil {
		return err
	}
	in.script = string(b)
	lines := strings.Split(in.script, "\n")
	if lines[0] != "#!ipxe" {
		return fmt.Errorf("%s is no iPXE script: it begins with %.40q", url, lines[0])
	}
	for pc := 1; pc < len(lines); pc++ {
		if in.steps++; in.steps > maxSteps {
			return errors.New("script goes round for ever")
		}
		label, err := in.line(ctx, lines[pc])
		if errors.Is(err, errExit) || in.outcome != "" {
			break
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", pc+1, err)
		}
		if label != "" {
			if pc = labelLine(lines, label); pc < 0 {
				return fmt.Errorf("no label %q", label)
			}
		}
	}
	if in.outcome == "" {
		in.outcome = Failed
	}
	return nil
}

func (in *interpreter) fetch(ctx context.Context, step, url string) ([]byte, error) {
	began := in.client.now()
	b, err := in.client.Net.HTTP(ctx, url)
	in.client.tell(step, in.client.now().Sub(began), 0, err)
	return b, err
}

// line runs commands joined by && and ||. A command that fails with nobody
// after || ends the script, as in iPXE. It returns a label to go to.
func (in *interpreter) line(ctx context.Context, text string) (label string, err error) {
	ok, run := true, true
	words := strings.Fields(in.expand(text))
	for len(words) > 0 {
		end := 0
		for end < len(words) && words[end] != "||" && words[end] != "&&" {
			end++
		}
		if run && end > 0 {
			label, ok, err = in.command(ctx, words[:end])
			if err != nil || label != "" {
				return label, err
			}
		} else if run {
			ok = true // an empty command succeeds
		}
		if end == len(words) {
			words = nil
			break
		}
		run = ok == (words[end] == "&&")
		words = words[end+1:]
		if run && len(words) == 0 {
			ok = true
		}
	}
	if !ok && run {
		return "", errExit
	}
	return "", nil
}

func (in *interpreter) command(ctx context.Context, args []string) (label string, ok bool, err error) {
	last := args[len(args)-1]
	switch args[0] {
	case "echo", "imgfree", "dhcp":
		return "", true, nil
	case "goto":
		return last, true, nil
	case "iseq":
		return "", len(args) == 3 && args[1] == args[2], nil
	case "exit":
		// Leaving under UEFI goes on with the boot order, on a BIOS with the
		// next device: the disk, here.
		in.outcome = Disk
		return "", false, errExit
	case "chain":
		return "", true, in.chain(ctx, last)
	case "kernel":
		if len(args) < 2 {
			return "", false, errors.New("kernel without URL")
		}
		in.kernel, err = in.fetch(ctx, StepKernel, args[1])
		in.cmdline = strings.Join(args[2:], " ")
		return "", err == nil, nil
	case "initrd":
		in.initrd, err = in.fetch(ctx, StepInitrd, last)
		return "", err == nil, nil
	case "boot":
		if in.kernel == nil {
			return "", false, nil
		}
		in.outcome = Kernel
		return "", true, errExit
	case "sanboot":
		for i, a := range args {
			if a == "--drive" && i+1 < len(args) {
				n, err := strconv.ParseInt(args[i+1], 0, 32)
				if err != nil {
					return "", false, fmt.Errorf("sanboot: %w", err)
				}
				in.drive = int(n)
			}
		}
		in.outcome = Disk
		return "", true, errExit
	}
	if strings.HasPrefix(args[0], ":") || strings.HasPrefix(args[0], "#") {
		return "", true, nil
	}
	return "", false, fmt.Errorf("command %.40q is not known here", args[0])
}

// expand puts in the values of ${name}; unknown names are empty, as in iPXE.
func (in *interpreter) expand(s string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return out.String()
		}
		out.WriteString(in.vars[name])
		s = after
	}
}

func labelLine(lines []string, label string) int {
	for i, l := range lines {
		if l == ":"+label {
			return i
		}
	}
	return -1
}
