package api

import (
	"strings"
	"testing"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

func TestTroublesOfAMachineAreTold(t *testing.T) {
	for _, c := range []struct {
		m    fleet.Machine
		want string
	}{
		{fleet.Machine{}, ""},
		{fleet.Machine{ClockOff: -2 * 365 * 24 * 3600}, "2 years behind"},
		{fleet.Machine{ClockOff: 3 * 24 * 3600}, "3 days ahead of"},
		{fleet.Machine{ClockOff: 7200}, "2h0m0s ahead of"},
		{fleet.Machine{Doubled: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, "2026-01-02 03:04:05 UTC"},
	} {
		got := strings.Join(Lens{}.Machine(&c.m, nil).Troubles, "\n")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%+v: %q, want %q", c.m, got, c.want)
		}
	}
	if code := (Lens{}.Machine(&fleet.Machine{SessionHash: strings.Repeat("f", 64)}, nil)).PairingCode; code != "ZZZZZZ" {
		t.Errorf("pairing code %q", code)
	}
}
