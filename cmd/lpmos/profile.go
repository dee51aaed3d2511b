package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images/debian"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/client"
	"github.com/spf13/cobra"
)

func profileCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "profile", Short: "See and make what machines can be booted into once"}
	list := &cobra.Command{Use: "list", Short: "List profiles", Args: cobra.NoArgs,
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, _ []string) error {
			all, err := c.Profiles(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), all, func(w io.Writer) {
				row(w, "NAME", "KIND", "ERASES", "MADE BY", "TEXT")
				for _, p := range all {
					by := p.By
					if p.BuiltIn {
						by = "every node has it"
					}
					row(w, p.Name, p.Kind, saysYes(p.Erases), orDash(by), p.Text)
				}
			})
		})}
	show := &cobra.Command{Use: "show PROFILE", Short: "Show one profile with its templates", Args: exactly(1, "a profile's name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			p, err := c.Profile(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), p, func(w io.Writer) { showProfile(w, p) })
		})}
	remove := &cobra.Command{Use: "remove PROFILE", Short: "Remove a profile that no machine is asked to boot", Args: exactly(1, "a profile's name"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if err := c.DeleteProfile(cmd.Context(), args[0]); err != nil {
				return err
			}
			return node.done(cmd.OutOrStdout(), "removed", args[0])
		})}
	cmd.AddCommand(list, show, profileAdd(node), remove)
	return cmd
}

func saysYes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func showProfile(w io.Writer, p api.Profile) {
	row(w, "profile", p.Name)
	row(w, "kind", p.Kind)
	row(w, "text", p.Text)
	row(w, "erases", saysYes(p.Erases))
	row(w, "digest", p.Digest)
	file := func(what string, f *fleet.ProfileFile) {
		if f != nil {
			row(w, what, fmt.Sprintf("%s, %s, %s", f.Name, size(f.SizeBytes), f.Digest))
		}
	}
	file("kernel", p.Kernel)
	for i := range p.Initrds {
		file("initrd", &p.Initrds[i])
	}
	if p.Args != "" {
		row(w, "args", p.Args)
	}
	file("bios", p.BIOS)
	file("uefi", p.UEFI)
	for i := range p.Files {
		file("file", &p.Files[i])
	}
	if p.By != "" {
		row(w, "made", fmt.Sprintf("by %s at %s", p.By, when(p.CreatedAt)))
	}
	if p.Script != "" {
		fmt.Fprintf(w, "\n%s", p.Script)
	}
	for _, a := range p.Answers {
		fmt.Fprintf(w, "\nanswer file %s:\n%s", a.Name, a.Text)
	}
}

// profileFiles are the flags of profile add that name files.
type profileFiles struct {
	kernel, script, bios, uefi string
	initrds, files, answers    []string
	erases                     string

	fromDebian   bool
	mirror       string
	rootPassword string
	keyFiles     []string
}

func profileAdd(node *nodeFlags) *cobra.Command {
	var f profileFiles
	w := api.ProfileWish{}
	vars := fleet.TemplateVariables()
	var known strings.Builder
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		fmt.Fprintf(&known, "  {{%s}}%s%s\n", name, strings.Repeat(" ", 12-len(name)), vars[name])
	}
	cmd := &cobra.Command{Use: "add NAME", Short: "Make a profile: a kernel, a script of iPXE's, a program, or Debian's installer",
		Long: "Makes a profile of --kernel, of --script, of --bios and --uefi, or --from-debian of Debian's installer.\n" +
			"It counts as one that erases a disk unless you say --erases no.\n\n" +
			"In --args, --script and --answer files, what stands in braces is filled in for each machine:\n" + known.String() +
			"  {{file:NAME}}   the URL of one of the profile's files\n",
		Args: exactly(1, "a name for the profile"),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			w.Name = args[0]
			p, err := f.make(cmd, c, w)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), p, func(out io.Writer) { row(out, "made", p.Name, "erases: "+saysYes(p.Erases), p.Digest) })
		})}
	flags := cmd.Flags()
	flags.StringVar(&w.Text, "text", "", "what it is, in a sentence")
	flags.StringVar(&f.kernel, "kernel", "", "`file` of a kernel")
	flags.StringArrayVar(&f.initrds, "initrd", nil, "`file` of an initramfs; may be given several times")
	flags.StringVar(&w.Args, "args", "", "template of the kernel's command line")
	flags.StringVar(&f.script, "script", "", "`file` with the template of a script of iPXE's")
	flags.StringArrayVar(&f.files, "file", nil, "`file` that a script names as {{file:NAME}}; may be given several times")
	flags.StringVar(&f.bios, "bios", "", "`file` of a program for machines with BIOS")
	flags.StringVar(&f.uefi, "uefi", "", "`file` of a program for machines with UEFI")
	flags.StringArrayVar(&f.answers, "answer", nil, "`file` with the template of an answer file (preseed, kickstart, user-data), served as {{answers}}NAME; may be given several times")
	flags.StringVar(&f.erases, "erases", "yes", "whether what it starts may write to a disk: yes or no")
	flags.BoolVar(&f.fromDebian, "from-debian", false, "Debian 12's installer, fetched through this host's apt, with a preseed that asks nothing")
	flags.StringVar(&f.mirror, "mirror", "http://deb.debian.org/debian", "with --from-debian: where the installer fetches Debian from")
	flags.StringVar(&f.rootPassword, "root-password", "", "with --from-debian: the root password as a crypt(3) hash (nobody can log in by password if not given)")
	flags.StringArrayVar(&f.keyFiles, "ssh-keys", nil, "with --from-debian: `file` of root's public keys, as authorized_keys")
	return cmd
}

// make sends the files and then the profile that names them.
func (f profileFiles) make(cmd *cobra.Command, c *client.Client, w api.ProfileWish) (api.Profile, error) {
	switch f.erases {
	case "yes", "no":
		erases := f.erases == "yes"
		w.Erases = &erases
	default:
		return api.Profile{}, &usageError{fmt.Errorf("--erases %s: say yes or no", f.erases)}
	}
	kinds := 0
	for kind, given := range map[fleet.ProfileKind]bool{fleet.ProfileKernel: f.kernel != "" || f.fromDebian, fleet.ProfileScript: f.script != "", fleet.ProfileProgram: f.bios+f.uefi != ""} {
		if given {
			kinds++
			w.Kind = kind
		}
	}
	if kinds != 1 || f.kernel != "" && f.fromDebian {
		return api.Profile{}, &usageError{errors.New("say what it is made of: --kernel, --script, --bios and --uefi, or --from-debian")}
	}
	if f.fromDebian {
		if err := f.debian(cmd, &w); err != nil {
			return api.Profile{}, err
		}
	}
	for _, path := range f.answers {
		text, err := os.ReadFile(path)
		if err != nil {
			return api.Profile{}, fmt.Errorf("read answer file: %w", err)
		}
		a := fleet.AnswerFile{Name: filepath.Base(path), Text: string(text)}
		if i := slices.IndexFunc(w.Answers, func(old fleet.AnswerFile) bool { return old.Name == a.Name }); i >= 0 {
			w.Answers[i] = a // of our own in place of the one that comes with it
			continue
		}
		w.Answers = append(w.Answers, a)
	}
	if f.script != "" {
		text, err := os.ReadFile(f.script)
		if err != nil {
			return api.Profile{}, fmt.Errorf("read script: %w", err)
		}
		w.Script = string(text)
	}
	if err := f.send(cmd.Context(), c, &w); err != nil {
		return api.Profile{}, err
	}
	return c.PutProfile(cmd.Context(), w)
}

// debian fills in what Debian's installer is made of.
func (f *profileFiles) debian(cmd *cobra.Command, w *api.ProfileWish) error {
	var keys []string
	for _, path := range f.keyFiles {
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read SSH keys: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				keys = append(keys, line)
			}
		}
	}
	preseed, err := debian.Preseed(f.mirror, f.rootPassword, keys)
	if err != nil {
		return &usageError{err}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("a place for packages: %w", err)
	}
	packages := debian.Cache{Dir: filepath.Join(cache, "lpmos", "packages"), Log: func(format string, a ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", a...)
	}}
	installer, err := packages.Installer(cmd.Context())
	if err != nil {
		return err
	}
	f.kernel, f.initrds = installer.Kernel, []string{installer.Initrd}
	if w.Args == "" {
		w.Args = debian.InstallerArgs
	}
	if w.Text == "" {
		w.Text = "Debian's installer (" + installer.Package.Version + "), from " + f.mirror
	}
	w.Answers = []fleet.AnswerFile{{Name: "preseed.cfg", Text: preseed}}
	return nil
}

// send sends every file to the node.
func (f profileFiles) send(ctx context.Context, c *client.Client, w *api.ProfileWish) error {
	one := func(path string) (*fleet.ProfileFile, error) {
		if path == "" {
			return nil, nil
		}
		on, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read file of a profile: %w", err)
		}
		defer on.Close()
		got, err := c.UploadProfileFile(ctx, filepath.Base(path), on)
		return &got, err
	}
	var err error
	if w.Kernel, err = one(f.kernel); err != nil {
		return err
	}
	if w.BIOS, err = one(f.bios); err != nil {
		return err
	}
	if w.UEFI, err = one(f.uefi); err != nil {
		return err
	}
	for _, list := range []struct {
		paths []string
		out   *[]fleet.ProfileFile
	}{{f.initrds, &w.Initrds}, {f.files, &w.Files}} {
		for _, path := range list.paths {
			got, err := one(path)
			if err != nil {
				return err
			}
			*list.out = append(*list.out, *got)
		}
	}
	return nil
}

// machineBoot has a machine boot a profile once.
func machineBoot(node *nodeFlags) *cobra.Command {
	var wish api.BootWish
	var serial string
	var yes, cancel, showOnly bool
	cmd := &cobra.Command{Use: "boot MACHINE PROFILE", Short: "Have a machine boot a profile once, at its next netboot",
		Long: "Has a machine boot a profile once, at its next netboot within an hour. Where the profile may erase,\n" +
			"shows the plan and asks for the serial of the disk. Without a terminal give --yes with --expect-serial\n" +
			"or with --plan-hash; anything else is refused.",
		Args: cobra.RangeArgs(1, 2),
		RunE: node.with(func(cmd *cobra.Command, c *client.Client, args []string) error {
			if cancel != (len(args) == 1) {
				return &usageError{errors.New("give a machine and a profile (lpmos profile list), or a machine and --cancel")}
			}
			id, err := machineID(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			if cancel {
				m, err := c.CancelBoot(cmd.Context(), id)
				if err != nil {
					return err
				}
				return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { row(w, "cancelled", m.ID, m.Name) })
			}
			wish.Profile = args[1]
			p, err := c.PreviewBoot(cmd.Context(), id, wish.Profile, wish.Disk)
			if err != nil {
				return err
			}
			if p.Profile.Erases && p.Plan == nil {
				return &conflictError{fmt.Errorf("there is no plan to approve: %s", p.Problem)}
			}
			if showOnly {
				return node.print(cmd.OutOrStdout(), p, func(w io.Writer) {
					if p.Plan == nil {
						row(w, p.Profile.Name, "erases nothing")
						return
					}
					showPlan(w, p.Plan, p.PlanHash)
				})
			}
			if p.Plan != nil {
				if err := approvesErase(cmd, p, serial, wish.PlanHash, yes); err != nil {
					return err
				}
				if wish.PlanHash == "" {
					wish.PlanHash = p.PlanHash
				}
				wish.ConfirmSerial = p.Confirm
			}
			wish.Digest = p.Profile.Digest
			m, err := c.AskBoot(cmd.Context(), id, wish)
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), m, func(w io.Writer) { row(w, "asked", m.ID, m.Name, m.PhaseText) })
		})}
	f := cmd.Flags()
	f.BoolVar(&cancel, "cancel", false, "take back what the machine is asked to boot")
	f.StringVar(&wish.Disk, "disk", "", "serial or WWN of the disk that may be erased (the smallest that fits if not given)")
	f.StringVar(&wish.PlanHash, "plan-hash", "", "approve this plan and no other")
	f.StringVar(&serial, "expect-serial", "", "serial or WWN of the disk that may be erased")
	f.StringVar(&wish.Notes, "notes", "", "kept with the approval")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.BoolVar(&showOnly, "plan", false, "show the plan and change nothing")
	return cmd
}

// approvesErase is what stands between a command line and a plan, as for a task.
func approvesErase(cmd *cobra.Command, p api.BootPreview, serial, plan string, yes bool) error {
	switch {
	case serial != "" && serial != p.Plan.Erase.Serial && serial != p.Plan.Erase.WWN:
		return &hinted{&conflictError{fmt.Errorf("the plan erases %s, not %s; nothing was approved", p.Plan.Erase, serial)}, "--plan shows what it would erase"}
	case yes && serial == "" && plan == "":
		return &hinted{&usageError{errors.New("--yes needs to know what may be erased; nothing was approved")},
			"give --expect-serial with the disk's serial, or --plan-hash with the plan you saw"}
	case !yes && plan != "":
		return &usageError{errors.New("--plan-hash needs --yes: nobody is asked")}
	case !yes:
		return confirmErase(cmd, api.Task{Plan: p.Plan, PlanHash: p.PlanHash, Confirm: p.Confirm})
	}
	return nil
}
