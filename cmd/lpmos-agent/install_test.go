package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lpmos/lpmos/agent/install"
	"github.com/lpmos/lpmos/agent/wire"
)

func TestAnInstallThatWasDoneBeforeIsASuccess(t *testing.T) {
	broken := errors.New("the disk broke")
	for _, tc := range []struct {
		ended, want error
		told        int
	}{
		{nil, nil, 0},
		{install.ErrInstalled, nil, 1},
		{fmt.Errorf("check: %w", install.ErrInstalled), nil, 1},
		{install.ErrGrantUsed, install.ErrGrantUsed, 0},
		{broken, broken, 0},
	} {
		var told []wire.Progress
		if err := outcome(tc.ended, func(p wire.Progress) { told = append(told, p) }); !errors.Is(err, tc.want) || (tc.want == nil) != (err == nil) {
			t.Errorf("%v: told as %v, want %v", tc.ended, err, tc.want)
		}
		// A task is complete only after it has been through its last stage.
		if len(told) != tc.told || (tc.told > 0 && (told[0].Stage != wire.StageConfiguring || told[0].Percentage != 100)) {
			t.Errorf("%v: progress %v", tc.ended, told)
		}
	}
}

func TestWhatWasChangedOnPurposeIsOnTheConsole(t *testing.T) {
	var lines []string
	i := installer{logf: func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }}
	i.tellChanged([]install.Range{{Offset: 512, Length: 512, Reason: "primary GPT header"}, {Offset: 1 << 30, Length: 4096, Reason: "install journal"}})
	want := []string{"512 bytes at 512, primary GPT header", "4096 bytes at 1073741824, install journal"}
	if !slices.EqualFunc(lines, want, strings.Contains) {
		t.Errorf("the console says %q, want %q", lines, want)
	}
}
