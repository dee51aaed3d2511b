package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/lpmos/lpmos/agent"
	"github.com/lpmos/lpmos/agent/boot"
	"github.com/lpmos/lpmos/agent/http1"
	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
)

// agentCommand is "agent report FLAGS": it tells the node what the agent of a
// small machine would tell it, and prints the machine's id.
func agentCommand() {
	if err := sendReport(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
}

func sendReport(args []string) error {
	if len(args) == 0 || args[0] != "report" {
		return fmt.Errorf("usage: agent report FLAGS")
	}
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	node := f.String("node", "http://127.0.0.1:80", "provisioning side of the node")
	mac := f.String("mac", "52:54:00:aa:bb:01", "MAC address")
	serial := f.String("serial", "SN1", "serial of the machine")
	uuid := f.String("uuid", "8f4d6d1e-1111-4222-8333-000000000001", "UUID of the machine")
	disk := f.String("disk", "DISK1", "serial of its disk")
	wwn := f.String("wwn", "", "WWN of its disk")
	system := f.String("os", "", "what lies on the disk")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	on := wire.Contents{}
	if *system != "" {
		on = wire.Contents{Table: "gpt", OS: *system,
			Partitions: []wire.Partition{{Number: 1, StartBytes: 1 << 20, SizeBytes: 4 << 30, Type: "Linux", Filesystem: "ext4"}}}
	}
	report := wire.ReportRequest{BootID: "boot-0001", MAC: *mac, IP: "10.77.0.101", Version: "test", Inventory: wire.Inventory{
		System:   wire.System{Vendor: "ACME", Product: "Box", Serial: *serial, UUID: *uuid},
		Firmware: wire.Firmware{Mode: "uefi"},
		CPU:      wire.CPU{Model: "Fast", Arch: "amd64", Sockets: 1, Cores: 2, Threads: 4},
		Memory:   wire.Memory{TotalBytes: 2 << 30},
		NICs:     []wire.NIC{{Name: "eth0", MAC: *mac, Driver: "e1000e", Link: true, Boot: true}},
		Disks: []wire.Disk{{Name: "sda", Model: "SPIN", Serial: *disk, WWN: *wwn, SizeBytes: 8 << 30,
			LogicalSector: 512, PhysicalSector: 512, Contents: on}},
	}}
	cmd, err := bootOf(*node, *mac)
	if err != nil {
		return err
	}
	report.Claim = cmd.Claim
	var is wire.ReportResponse
	if err := tell(cmd, report, &is); err != nil {
		return err
	}
	fmt.Println(is.MachineID)
	return nil
}

var (
	chained = regexp.MustCompile(`(?m)^chain --replace (\S+)\?mac=`)
	kernel  = regexp.MustCompile(`(?m)^kernel \S+ (.*) \|\| goto local$`)
)

// bootOf asks for the script of a machine as its firmware does, and gives what the
// agent is told.
func bootOf(node, mac string) (boot.Cmdline, error) {
	stub, err := getText(node + "/boot/script")
	if err != nil {
		return boot.Cmdline{}, err
	}
	to := chained.FindStringSubmatch(stub)
	if to == nil {
		return boot.Cmdline{}, fmt.Errorf("the stub does not chain: %s", stub)
	}
	script, err := getText(to[1] + "?mac=" + mac + "&platform=efi")
	if err != nil {
		return boot.Cmdline{}, err
	}
	words := kernel.FindStringSubmatch(script)
	if words == nil {
		return boot.Cmdline{}, fmt.Errorf("the machine is not told to start the agent: %s", script)
	}
	cmd := boot.ParseCmdline(words[1])
	return cmd, cmd.Check()
}

func getText(url string) (string, error) {
	res, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, res.Status)
	}
	return string(b), err
}

// tell sends a report as the agent does.
func tell(cmd boot.Cmdline, report wire.ReportRequest, is *wire.ReportResponse) error {
	body, err := json.Marshal(report)
	if err != nil {
		return err
	}
	client := http1.Client{TLS: pin.NewVerifier(cmd.Pin, time.Now).Config()}
	defer client.Close()
	key := agent.NewKey()
	req := http1.Request{Method: "POST", URL: cmd.Nodes[0] + "/api/v1/agent/report", Body: body}
	req.Sign = func(on tls.ConnectionState, uri string) ([]http1.Field, error) {
		exported, err := on.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterBytes)
		public, signature := wire.SignRequest(key, exported, req.Method, uri, body)
		return []http1.Field{{Name: wire.HeaderKey, Value: public}, {Name: wire.HeaderSignature, Value: signature}}, err
	}
	res, err := client.Do(context.Background(), req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.Status != http.StatusOK {
		return fmt.Errorf("%d: %s", res.Status, text)
	}
	return json.Unmarshal(text, is)
}
