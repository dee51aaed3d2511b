package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/goccy/go-yaml"
)

// Node is one node of the rack as it is built.
type Node struct {
	Name   string `json:"name"` // n1, n2, ...
	Region string `json:"region"`
	Dir    string `json:"dir"`
	IP     string `json:"ip"`  // on the rack's wire, for machines and other nodes
	URL    string `json:"url"` // the dashboard on the host
}

// ClusterAddress is where other nodes reach this one.
func (n Node) ClusterAddress() string { return net.JoinHostPort(n.IP, strconv.Itoa(clusterPort)) }

// Log is the file with everything the node ever said.
func (n Node) Log() string { return filepath.Join(n.Dir, "node.log") }

func (n Node) config() string { return filepath.Join(n.Dir, "lpmos.yaml") }

// DataDir is the node's own. Who may read it may do anything with the node, by the
// socket in it.
func (n Node) DataDir() string { return filepath.Join(n.Dir, "data") }

// A node that has joined once finds the others by what it has written down; a
// token would be of no use to it. This file says that it has.
func (n Node) joinedFile() string { return filepath.Join(n.Dir, "joined") }

func (n Node) hasJoined() bool {
	_, err := os.Stat(n.joinedFile())
	return err == nil
}

// nodes lays out the rack's nodes, as machines does its machines.
func nodes(o Options) []Node {
	list := make([]Node, o.Nodes)
	for i := range list {
		name := fmt.Sprintf("n%d", i+1)
		list[i] = Node{
			Name:   name,
			Region: o.Regions[i%len(o.Regions)],
			Dir:    filepath.Join(o.Dir, "node-"+name),
			IP:     fmt.Sprintf("10.77.0.%d", i+1),
		}
	}
	return list
}

// nodeConfig is a node of the rack as configuration. The rack leads nowhere, so
// its machines are given no router and no name server.
func nodeConfig(o Options, n Node) ([]byte, error) {
	wire := map[string]any{"name": cableEnd, "mode": "dhcp", "range": NodeRange}
	if o.Simulated {
		wire["range"] = fleetRange
	}
	if o.ExternalDHCP {
		wire = map[string]any{"name": cableEnd, "mode": "proxy"}
	}
	config := map[string]any{
		"region":         n.Region,
		"name":           n.Name,
		"data_dir":       n.DataDir(),
		"user":           "root", // a rack lies where whoever made it wants it
		"listen":         "fd:3",
		"boot_port":      80,
		"interfaces":     []any{wire},
		"cluster_listen": n.ClusterAddress(),
		// An emulated timer on a busy host may be too late for the kernel's check.
		"kernel_args": "no_timer_check",
	}
	for key, value := range o.NodeConfig {
		config[key] = value
	}
	out, err := yaml.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("configuration of %s: %w", n.Name, err)
	}
	return out, nil
}
