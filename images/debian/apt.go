package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// apt runs one of apt's programs for packages of the cache's architecture.
func (c Cache) apt(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	if c.Arch == "" {
		return run(ctx, dir, program, args...)
	}
	conf, err := c.foreign(ctx)
	if err != nil {
		return nil, err
	}
	return run(ctx, dir, program, append([]string{"-c", conf}, args...)...)
}

// foreignConf makes an apt that knows one architecture, and keeps what it knows
// below a folder of its own. Sources and keys are the machine's, so that
// signatures are checked as ever. What is to be run after an update is for the
// machine's own lists.
const foreignConf = `#clear APT::Architectures;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture %[1]q;
APT::Architectures { %[1]q; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State %[2]q;
Dir::State::status %[3]q;
Dir::Cache %[4]q;
`

// hostLists is where the machine's own apt keeps what there is.
const hostLists = "/var/lib/apt/lists"

// foreign is the configuration of an apt for another architecture: adding that to
// the machine's own ("dpkg --add-architecture") would change what the machine may
// install. Its lists are fetched when there are none, or when the machine has
// fetched its own anew since.
func (c Cache) foreign(ctx context.Context) (conf string, err error) {
	base, err := filepath.Abs(filepath.Join(c.Dir, "apt-"+c.Arch))
	if err != nil {
		return "", fmt.Errorf("package cache: %w", err)
	}
	state, cache, status := filepath.Join(base, "state"), filepath.Join(base, "cache"), filepath.Join(base, "status")
	for _, dir := range []string{filepath.Join(state, "lists", "partial"), filepath.Join(cache, "archives", "partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", fmt.Errorf("package cache: %w", err)
		}
	}
	conf = filepath.Join(base, "apt.conf")
	for name, text := range map[string]string{conf: fmt.Sprintf(foreignConf, c.Arch, state, status, cache), status: ""} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return "", fmt.Errorf("package cache: %w", err)
		}
	}
	fetched := filepath.Join(base, "fetched")
	if !older(fetched, hostLists) {
		return conf, nil
	}
	c.log("fetching the list of packages for %s", c.Arch)
	if _, err := run(ctx, "", "apt-get", "-c", conf, "update", "-q"); err != nil {
		if _, before := os.Stat(fetched); before == nil {
			c.log("the list of packages for %s stays as it was: %v", c.Arch, err)
			return conf, nil
		}
		return "", fmt.Errorf("the list of packages for %s: %w", c.Arch, err)
	}
	if err := os.WriteFile(fetched, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		return "", fmt.Errorf("package cache: %w", err)
	}
	return conf, nil
}

// older says whether the file is older than the other, or is not there.
func older(file, than string) bool {
	own, err := os.Stat(file)
	if err != nil {
		return true
	}
	other, err := os.Stat(than)
	return err == nil && own.ModTime().Before(other.ModTime())
}
