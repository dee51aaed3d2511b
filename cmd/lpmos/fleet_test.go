package main

import (
	"context"
	"net"
	"net/http"
	"testing/fstest"
	"time"

	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/ui"
	"github.com/lpmos/lpmos/ui/api"
	"github.com/lpmos/lpmos/ui/api/apitest"
	"github.com/rogpeppe/go-internal/testscript"
)

// fleetKey finds a script's fleet among the values of its environment.
type fleetKey struct{}

// fleetCommand is a fleet in memory at the usual address, for what a node alone
// cannot show: a cluster of three, and what happens to it.
//
//	fleet                start it
//	fleet silent         node n3 is silent from now on
//	fleet cut-off        n1, which is asked, reaches nobody
//	fleet one-voter      n2 and n3 stand by
//	fleet namesakes      n2 is called n3, too
//	fleet leases         n1 has lent an address, lets one rest, and has none left
//	fleet pool           n1 lends 10.77.0.100 to 10.77.0.199
//	fleet sees MAC       a machine takes its loader
//	fleet stalls MAC     and nothing happens then
func fleetCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 2 {
		ts.Fatalf("usage: fleet [silent|cut-off|one-voter|namesakes|leases|pool|sees MAC|stalls MAC]")
	}
	node := ts.Value(fleetKey{}).(*apitest.Node)
	if len(args) == 0 {
		ts.Check(apitest.Gallery(node))
		page, err := ui.New(ui.Config{API: node.Config(), Static: fstest.MapFS{"index.html": {Data: []byte("the dashboard")}}})
		ts.Check(err)
		l, err := net.Listen("tcp", "127.0.0.1:8080")
		ts.Check(err)
		srv := &http.Server{Handler: apitest.SignedIn(page)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l) // it ends when it is closed
		}()
		ts.Defer(func() {
			page.Close()
			_ = srv.Close()
			<-done
		})
		return
	}
	switch args[0] {
	case "silent":
		node.Membership.Silence()
	case "cut-off":
		node.Membership.CutOff()
	case "one-voter":
		node.Membership.Set(func(s *consensus.Status) { s.Members[1].Voter, s.Members[2].Voter = false, false })
	case "namesakes":
		node.Membership.Set(func(s *consensus.Status) { s.Members[1].Name = "n3" })
	case "leases":
		until := node.Clock.Now().Add(time.Hour)
		node.Leases.Lend(api.Lease{Address: "10.77.0.150", State: api.LeaseLent, MAC: "52:54:00:00:0a:01", Until: until})
		node.Leases.Lend(api.Lease{Address: "10.77.0.9", State: api.LeaseResting, MAC: "52:54:00:00:0a:02", Until: until, Why: "declined by 52:54:00:00:0a:02"})
		node.Leases.Lend(api.Lease{Address: "10.77.0.151", State: api.LeaseEnded, MAC: "52:54:00:00:0a:03", Until: node.Clock.Now()})
		node.Sightings.Alarm("no address is left for new machines on br0")
	case "pool":
		_, err := node.Cluster.Propose(context.Background(), fleet.ClaimPool{NodeID: "n-1", Network: "10.77.0.0/24", First: "10.77.0.100", Last: "10.77.0.199"})
		ts.Check(err)
	case "sees":
		node.Sightings.Add(api.Sighting{At: node.Clock.Tick(), MAC: args[1], Kind: "tftp", Step: "served", File: "snponly.efi", Text: "fetched snponly.efi over TFTP (173792 bytes)", Node: "n2"})
	case "stalls":
		at := node.Clock.Tick()
		node.Sightings.Stalls(args[1], &api.Stall{ID: "loader-silent", Text: "took snponly.efi, then silence for 40 s", Hint: "switch Secure Boot off", Since: at, At: at})
		node.Sightings.Add(api.Sighting{At: at, MAC: args[1], Kind: "stall", Step: "stalled", Stall: "loader-silent", Text: "took snponly.efi, then silence for 40 s", Hint: "switch Secure Boot off"})
	default:
		ts.Fatalf("a fleet cannot be %q", args[0])
	}
	node.Clock.Tick()
}
