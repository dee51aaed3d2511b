package fleet

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestSecretsAreNotPrinted(t *testing.T) {
	const secret = "canary-of-redact"
	spec := Spec{OSType: "debian", OSVersion: "12", UserData: secret, NetworkConfig: NetworkConfig{Hostname: "web-1", Config: secret}}
	task := Task{ID: "t-1", PhoneToken: secret, Spec: spec}
	profile := Profile{Name: "d-i", Kind: ProfileKernel, Args: secret, Script: secret, Answers: []AnswerFile{{Name: "preseed.cfg", Text: secret}}}
	next, last := NextBoot{ID: "b1", Profile: "d-i", Token: secret}, ProfileBoot{ID: "b1", Profile: "d-i", Token: secret}
	for _, v := range []any{profile, &profile, []*Profile{&profile}, PutProfile{profile}, &PutProfile{profile}, profile.Answers, profile.Answers[0],
		AskBoot{ID: "b1", Token: secret}, &AskBoot{Token: secret}, next, &next, last, &last, []NextBoot{next}, map[string]*ProfileBoot{"a": &last},
		Machine{ID: "m1", Name: "web1", NextBoot: &next, LastBoot: &last}, Command{Body: PutProfile{profile}}, Command{Body: AskBoot{Token: secret}},
		BootDecision{Once: &next}, Values{Token: secret}, Event{Profile: &profile},
		task, &task, spec, []Task{task}, map[string]*Spec{"a": &spec},
		CreateTask{ID: "t-1", PhoneToken: secret, Spec: spec}, &RetryTask{TaskID: "t-1", PhoneToken: secret}, ReportUp{PhoneToken: secret, Hostname: "web-1"},
		Command{ID: "c", At: time.Unix(1, 0), Body: CreateTask{PhoneToken: secret, Spec: spec}}, pastTask{ID: "t-1", PhoneToken: secret},
		struct{ Task *pastTask }{&pastTask{PhoneToken: secret}}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			if printed := fmt.Sprintf(verb, v); strings.Contains(printed, secret) {
				t.Errorf("%s of %T prints the secret: %s", verb, v, printed)
			}
		}
	}
}
