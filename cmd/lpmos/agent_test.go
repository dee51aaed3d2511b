package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"

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
	system := f.String("os", "", "what lies on the disk")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	on := wire.Contents{}
	if *system != "" {
		on = wire.Contents{Table: "gpt", OS: *system,
			Partitions: []wire.Partition{{Number: 1, StartBytes: 1 << 20, SizeBytes: 4 << 30, Type: "Linux", Filesystem: "ext4"}}}
	}
	body, err := json.Marshal(wire.ReportRequest{BootID: "boot-0001", MAC: *mac, IP: "10.77.0.101", Version: "test", Inventory: wire.Inventory{
		System:   wire.System{Vendor: "ACME", Product: "Box", Serial: *serial, UUID: *uuid},
		Firmware: wire.Firmware{Mode: "uefi"},
		CPU:      wire.CPU{Model: "Fast", Arch: "amd64", Sockets: 1, Cores: 2, Threads: 4},
		Memory:   wire.Memory{TotalBytes: 2 << 30},
		NICs:     []wire.NIC{{Name: "eth0", MAC: *mac, Driver: "e1000e", Link: true, Boot: true}},
		Disks: []wire.Disk{{Name: "sda", Model: "SPIN", Serial: *disk, SizeBytes: 8 << 30,
			LogicalSector: 512, PhysicalSector: 512, Contents: on}},
	}})
	if err != nil {
		return err
	}
	res, err := http.Post(*node+"/api/v1/agent/report", "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s: %s", res.Status, text)
	}
	var is wire.ReportResponse
	if err := json.NewDecoder(res.Body).Decode(&is); err != nil {
		return err
	}
	fmt.Println(is.MachineID)
	return nil
}
