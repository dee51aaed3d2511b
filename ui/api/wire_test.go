package api_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/lpmos/lpmos/ui/api"
)

func TestWireTellsOfStrangersToo(t *testing.T) {
	node, s := newGallery(t)
	node.Sightings.Add(api.Sighting{At: node.Clock.Tick(), MAC: "52:54:00:13:00:03", Kind: "dhcp", Text: "its other card", Node: "n2"})
	for _, c := range []struct {
		mac    string
		status int
		id     string
		stall  string
		least  int // moments
		text   string
	}{
		{"52:54:00:ff:ff:01", 200, "", "loader-silent", 1, "fetched snponly.efi over TFTP (173792 bytes)"},
		{"52:54:00:FF:FF:01", 200, "", "loader-silent", 1, "fetched snponly.efi over TFTP (173792 bytes)"},
		{"52:54:00:12:00:03", 200, "m-03", "", 7, "its other card"}, // a machine is what all of its cards did
		{"52:54:00:aa:aa:aa", 404, "", "", 0, ""},
		{"nonsense", 404, "", "", 0, ""},
	} {
		w := call(s, http.MethodGet, "/api/v1/wire/"+c.mac, "")
		var got api.Wire
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != c.status {
			t.Errorf("%s: %d %s (%v)", c.mac, w.Code, w.Body, err)
			continue
		}
		stall := ""
		if got.Stall != nil {
			stall = got.Stall.ID
		}
		if got.MachineID != c.id || stall != c.stall || len(got.Timeline) < c.least || got.Text != c.text {
			t.Errorf("%s: %+v", c.mac, got)
		}
	}
}
