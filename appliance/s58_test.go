package appliance

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/pin"
	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/netboot"
)

// S58: every list of what is allowed is asked with one value of it and with values
// outside of it. A check that is taken away lets the second in; one that lets nothing
// in refuses the first.
func TestS58_WhatIsNotOnTheListIsRefused(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	apply := func(b fleet.Body) bool {
		s := fleet.NewState()
		_, _, err := s.Apply(1, fleet.Command{At: at, Body: fleet.PutCluster{Cluster: fleet.Cluster{ID: "c1"}}})
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = s.Apply(2, fleet.Command{At: at, Body: b})
		return err == nil
	}
	image := fleet.Image{Name: "tiny", OSType: "tiny", Digest: strings.Repeat("ab", 32), SizeBytes: 64 << 20, Sector: 512}
	withImage := func(change func(*fleet.Image)) bool {
		img := image
		change(&img)
		return apply(fleet.PutImage{Image: img})
	}
	manifest := func(change func(*wire.Manifest)) bool {
		m := wire.Manifest{Version: 1, SizeBytes: wire.ChunkBytes, ChunkBytes: wire.ChunkBytes, SectorBytes: 512, Chunks: []string{strings.Repeat("ab", 32)}}
		change(&m)
		return m.Validate() == nil
	}
	policy := func(second string) bool {
		return apply(fleet.PutPolicy{ApprovalCap: 1, ApprovalWindow: time.Minute, SecondApprover: second})
	}
	progress := func(p wire.Progress) bool { return fleet.CheckProgress(&fleet.Task{}, p) == nil }
	command := func(kind string) bool {
		raw, err := json.Marshal(map[string]any{"v": 3, "id": "x", "at": at, "type": kind, "data": map[string]any{}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = fleet.DecodeCommand(raw)
		return err == nil
	}
	for _, list := range []struct {
		name    string
		inside  string
		outside []string
		allows  func(string) bool
	}{
		{"words of the agent's kernel command line", "nomodeset", []string{"init=/bin/sh", "rdinit=/x", "initrd=evil", "lpmos.node=http://evil", "lpmos.pin=00", "--"},
			func(v string) bool { return netboot.ValidateKernelArgs(v) == nil }},
		{"characters of the agent's kernel command line", "a-b_c.d,e:f;g/h=i@j%k~l+m", []string{"a\nb", "a\"b", "${x}", "a&&b", "a|b", "a`b", "a'b", "ü"},
			func(v string) bool { return netboot.ValidateKernelArgs(v) == nil }},
		{"characters of a MAC", "52:54:00:00:00:01", []string{"52:54:00:00:00:0g", "52:54:00:00:00", "${netX/mac}", ""},
			func(v string) bool { _, ok := netboot.ParseMAC(v); return ok }},
		{"a host name", "web-1", []string{"web_1", "-web", "web\n", "web;reboot", "${HOST}", ""}, fleet.ValidHostname},
		{"sectors of an image", "512", []string{"520", "0", "1024"}, func(v string) bool {
			return manifest(func(m *wire.Manifest) {
				if err := json.Unmarshal([]byte(v), &m.SectorBytes); err != nil {
					t.Fatal(err)
				}
			})
		}},
		{"the digest of an image", strings.Repeat("0f", 32), []string{strings.Repeat("0F", 32), strings.Repeat("0g", 32), "../../etc/passwd", ""},
			func(v string) bool { return withImage(func(i *fleet.Image) { i.Digest = v }) }},
		{"the name of an image", "debian-12", []string{"../x", "a b", "a/b", "A\n", ""},
			func(v string) bool { return withImage(func(i *fleet.Image) { i.Name, i.OSType = v, v }) }},
		{"chunks of a manifest", strings.Repeat("0f", 32), []string{strings.Repeat("0F", 32), "../x", strings.Repeat("0", 63)},
			func(v string) bool { return manifest(func(m *wire.Manifest) { m.Chunks[0] = v }) }},
		{"versions of a manifest", "1", []string{"0", "2"}, func(v string) bool {
			return manifest(func(m *wire.Manifest) { m.Version = int(v[0] - '0') })
		}},
		{"stages of an install", "downloading", []string{"erasing", "", "Downloading"},
			func(v string) bool { return progress(wire.Progress{Stage: wire.Stage(v), Percentage: 30}) }},
		{"when a second person is asked", "always", []string{"sometimes", "", "Always"}, policy},
		{"kinds of commands", "serve_boot", []string{"erase_everything", "", "Serve_Boot"}, command},
		{"characters of a node's id", "n-1", []string{"N1", "n.1", "n_1", "-n", ""}, trust.ValidID},
		{"a pin", strings.Repeat("0f", 32), []string{strings.Repeat("0F", 32), strings.Repeat("0g", 32), strings.Repeat("0", 64), ""},
			func(v string) bool { _, err := pin.Parse(v); return err == nil }},
	} {
		t.Run(list.name, func(t *testing.T) {
			if !list.allows(list.inside) {
				t.Errorf("%q is on the list and was refused", list.inside)
			}
			for _, v := range list.outside {
				if list.allows(v) {
					t.Errorf("%q is not on the list and was let in", v)
				}
			}
		})
	}
}
