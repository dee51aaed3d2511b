package wire

import (
	"fmt"
	"strings"
	"testing"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "canary-of-redact"
	grant := Grant{TaskID: "t-1", PhoneHome: "http://node/up/" + secret, PhoneAlso: []string{secret}, Plan: Plan{}}
	for _, v := range []any{grant, &grant, ApprovalResponse{Grant: &grant}, ReportResponse{MachineID: "m-1", Session: secret}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if printed := fmt.Sprintf(verb, v); strings.Contains(printed, secret) {
				t.Errorf("%s of %T prints the secret: %s", verb, v, printed)
			}
		}
	}
}
