package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/lpmos/lpmos/appliance/lab"
	"github.com/lpmos/lpmos/images/bootimage"
	"github.com/spf13/cobra"
)

func labCommand(node *nodeFlags) *cobra.Command {
	cmd := &cobra.Command{Use: "lab", Short: "A virtual rack to try LPMOS on: nodes and machines on a network of their own"}
	dir := cmd.PersistentFlags().String("dir", "rack", "where the rack keeps its disks and logs")
	cmd.AddCommand(labUp(dir), labStatus(node, dir),
		labDo(dir, "on MACHINE", "Give a machine power", (*lab.Client).PowerOn),
		labDo(dir, "off MACHINE", "Take a machine's power away", (*lab.Client).PowerOff),
		labDo(dir, "reset MACHINE", "Press a machine's reset button", (*lab.Client).Reset),
		labKill(dir), labSim(node, dir), labFleet(),
		labDo(dir, "pause NODE", "Stop a node where it is; heal lets it go on", (*lab.Client).PauseNode),
		labDo(dir, "cut NODE", "Take a node off the wire; heal puts it back", (*lab.Client).CutNode),
		labDo(dir, "heal NODE", "Undo what was done to a node: start it, let it go on, put it back on the wire", (*lab.Client).HealNode),
		&cobra.Command{Use: "inner", Hidden: true, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return lab.Inner(cmd.Context()) }})
	return cmd
}

func labUp(dir *string) *cobra.Command {
	var o lab.Options
	var images []string
	var diskGB int64
	var autoApprove, untilUp bool
	cmd := &cobra.Command{Use: "up", Short: "Build the rack and run it until Ctrl-C",
		Long: "Builds a private network with one node or more, as one cluster, and virtual machines with\n" +
			"real firmware and empty disks. lpmos lab kill, pause, cut and heal try what a cluster endures.\n" +
			"Nothing of this host's network is touched, and Ctrl-C removes all of it but the logs.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := &story{out: cmd.OutOrStdout(), autoApprove: autoApprove, untilUp: untilUp}
			for _, i := range images {
				name, file, ok := strings.Cut(i, "=")
				if !ok {
					return &usageError{fmt.Errorf("--image %q: write NAME=FILE", i)}
				}
				if _, err := os.Stat(file); err != nil {
					return &hinted{fmt.Errorf("image %s: %w", name, err), "lpmos image build debian-12 --out FILE makes one"}
				}
				s.images = append(s.images, storyImage{name, file})
			}
			if autoApprove && len(s.images) == 0 {
				return &usageError{fmt.Errorf("--auto-approve needs an image to install: --image NAME=FILE")}
			}
			o.Dir, o.Out, o.DiskBytes, o.Reset = *dir, cmd.OutOrStdout(), diskGB<<30, true
			if o.Simulated {
				if cmd.Flags().Changed("machines") || o.ExternalDHCP {
					return &usageError{fmt.Errorf("--fleet makes a rack for lpmos lab sim: without machines of its own, and its nodes give the addresses")}
				}
				o.Machines = 0
			}
			kernel, clean, err := kernelFile()
			if err != nil {
				return err
			}
			defer clean()
			o.Kernel = kernel
			return s.run(cmd.Context(), o)
		}}
	f := cmd.Flags()
	f.IntVar(&o.Nodes, "nodes", 1, "how many nodes, 1 to 5")
	f.StringSliceVar(&o.Regions, "regions", []string{"dc1"}, "the nodes' `regions`, dealt out in turn")
	f.IntVar(&o.Machines, "machines", 1, "how many machines")
	f.StringSliceVar(&o.Firmware, "firmware", []string{"bios", "uefi"}, "their `firmware`, dealt out in turn")
	f.IntVar(&o.Disks, "disks", 1, "disks in each machine")
	f.Int64Var(&diskGB, "disk-size", 8, "size of each disk in GiB (sparse)")
	f.StringVar(&o.DiskBus, "disk-bus", "virtio", "virtio, nvme, ahci or scsi")
	f.StringVar(&o.NIC, "nic", "virtio", "virtio, e1000 or e1000e")
	f.IntVar(&o.MemoryMB, "memory", 1024, "memory of each machine in MB")
	f.StringVar(&o.Listen, "listen", "127.0.0.1:8080", "address of the first node's dashboard on this host; the others take the ports after it")
	f.BoolVar(&o.Simulated, "fleet", false, "no machines, and a network with room for the thousands of lpmos lab sim")
	f.BoolVar(&o.ExternalDHCP, "external-dhcp", false, "dnsmasq gives the addresses and the nodes stand beside it as proxyDHCP")
	f.BoolVar(&o.NativePXE, "native-pxe", false, "UEFI machines boot by their firmware's own PXE (TFTP) in place of the card's iPXE")
	f.StringVar(&o.RTC, "rtc", "", "the machines' clock at power-on, for instance 1970-01-01")
	f.StringArrayVar(&images, "image", nil, "import this image, as `NAME=FILE`; may be repeated")
	f.BoolVar(&autoApprove, "auto-approve", false, "install the first image on every machine without asking (the disks are the rack's own)")
	f.BoolVar(&untilUp, "until-up", false, "end when every machine has come up from its own disk")
	return cmd
}

// kernelFile puts the agent's kernel where QEMU can try KVM with it; without a
// boot image in this binary there is none, and the node will say so.
func kernelFile() (path string, clean func(), err error) {
	if bootimage.Check() != nil {
		return "", func() {}, nil
	}
	in, err := bootimage.Files().Open(bootimage.Kernel)
	if err != nil {
		return "", nil, err
	}
	defer in.Close()
	dir, err := os.MkdirTemp("", "lpmos-kernel-")
	if err != nil {
		return "", nil, err
	}
	clean = func() { os.RemoveAll(dir) }
	path = filepath.Join(dir, bootimage.Kernel)
	out, err := os.Create(path)
	if err == nil {
		_, err = io.Copy(out, in)
		out.Close()
	}
	if err != nil {
		clean()
		return "", nil, err
	}
	return path, clean, nil
}

func labStatus(node *nodeFlags, dir *string) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Show the rack that runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := lab.NewClient(*dir).State(cmd.Context())
			if err != nil {
				return err
			}
			return node.print(cmd.OutOrStdout(), s, func(w io.Writer) {
				for _, n := range s.Nodes {
					row(w, n.Name, n.Region, n.URL, nodeState(n), n.Log)
				}
				for _, m := range s.Machines {
					power := "off"
					if m.Power {
						power = "on"
					}
					row(w, m.Name, m.Firmware, m.MAC, "power "+power, m.SerialLog)
				}
			})
		}}
}

// nodeState says in words what a node does and what was done to it.
func nodeState(n lab.NodeState) string {
	text := n.State
	if n.PID != 0 {
		text += fmt.Sprintf(", pid %d", n.PID)
	}
	if n.Cut {
		text += ", off the wire"
	}
	if len(n.CutFrom) > 0 {
		text += ", cut off from " + strings.Join(n.CutFrom, " and ")
	}
	return text
}

func labDo(dir *string, use, short string, do func(*lab.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: named(use),
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(lab.NewClient(*dir), cmd.Context(), args[0])
		}}
}

// named asks for the one word that a command's use says.
func named(use string) cobra.PositionalArgs {
	if strings.HasSuffix(use, "NODE") {
		return exactly(1, "a node's name, for instance n1")
	}
	return exactly(1, "a machine's name, for instance m1")
}

func labKill(dir *string) *cobra.Command {
	var restart bool
	cmd := labDo(dir, "kill NODE", "End a node with kill -9; heal starts it", func(c *lab.Client, ctx context.Context, name string) error {
		return c.KillNode(ctx, name, restart)
	})
	cmd.Flags().BoolVar(&restart, "restart", false, "start it again at once")
	return cmd
}
