package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// largest is what the agent's binary may weigh.
const largest = 6_000_000

func TestTheAgentIsSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the agent")
	}
	out := filepath.Join(t.TempDir(), "lpmos-agent")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, msg)
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > largest {
		t.Errorf("the agent weighs %d bytes, allowed are %d", info.Size(), largest)
	}
}
