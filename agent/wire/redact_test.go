package wire

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "canary-of-redact"
	grant := Grant{TaskID: "t-1", PhoneHome: "http://node/up/" + secret, PhoneAlso: []string{secret}, Plan: Plan{}}
	payload, err := json.Marshal(grant)
	if err != nil || !strings.Contains(string(payload), secret) {
		t.Fatalf("%s (%v)", payload, err)
	}
	signed := SignedGrant{Payload: payload}
	for _, v := range []any{grant, &grant, signed, &signed, ApprovalResponse{SignedGrant: &signed}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if printed := fmt.Sprintf(verb, v); strings.Contains(printed, secret) {
				t.Errorf("%s of %T prints the secret: %s", verb, v, printed)
			}
		}
	}
}
