package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestAMachineIsGivenAnAddress(t *testing.T) {
	node, s := newGallery(t)
	if _, err := node.Cluster.Propose(t.Context(), fleet.ClaimPool{NodeID: "n-1", Network: "10.77.0.0/24", First: "10.77.0.100", Last: "10.77.0.199"}); err != nil {
		t.Fatal(err)
	}
	machine := "/api/v1/machines/" + answer(t, s, "GET", "/api/v1/tasks/t-03", "", 200)["machine_id"].(string)
	v := answer(t, s, "PUT", machine+"/address", `{"address":"10.77.0.20"}`, 200)
	if fmt.Sprint(v["assigned"]) == "<nil>" || !strings.Contains(fmt.Sprint(v["assigned"]), "10.77.0.20") {
		t.Errorf("it was given %v", v["assigned"])
	}
	for body, want := range map[string]int{`{"address":"10.99.0.1"}`: 400, `{"address":"x"}`: 400, `{"address":"10.77.0.120"}`: 409, `{"address":"10.77.0.21","mac":"52:54:00:99:99:99"}`: 400, `{}`: 400} {
		answer(t, s, "PUT", machine+"/address", body, want)
	}
	answer(t, s, "PUT", "/api/v1/machines/m-none/address", `{"address":"10.77.0.21"}`, 404)
	if v := answer(t, s, "DELETE", machine+"/address?mac=52:54:00:99:99:99", "", 400); v["detail"] == nil {
		t.Error("another's card")
	}
	if v := answer(t, s, "DELETE", machine+"/address", "", 200); v["assigned"] != nil {
		t.Errorf("taken back, it has %v", v["assigned"])
	}
}
