package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/appliance/confine"
	"github.com/lpmos/lpmos/appliance/trust"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/images"
	"golang.org/x/sys/unix"
)

const (
	noSpace   = 256 << 20 // with less free, a log soon cannot go on
	fewSpace  = 4 << 30   // with less free, no image fits
	noInodes  = 1000
	slowSync  = 20 * time.Millisecond
	syncTries = 20
)

func (h *Host) dataDir(context.Context) Finding {
	dir := h.Config.DataDir
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("%s is not there yet; lpmos up makes it", dir)
	case errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		return fail("choose another one with data_dir", "%s is no directory", dir)
	case err != nil:
		return fail("ls -ld "+dir, "%v", err)
	}
	if u, findErr := confine.Find(h.Config.User); findErr == nil && !u.Root() {
		err = h.CheckDir(dir)
	}
	if err == nil {
		err = consensus.CheckDir(filepath.Join(dir, "raft"))
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		return fail("choose another one with data_dir; or, if it is this node's, use the lpmos it was made with", "%v", err)
	}
	return ok("%s", dir)
}

// dataOwner: the keys of a node are in there, and one that gives up root gets it.
func (h *Host) dataOwner(context.Context) Finding {
	dir := h.Config.DataDir
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return skip("it is not there yet")
	}
	if err != nil {
		return fail("", "%v", err)
	}
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if info.Mode().Perm()&0o022 != 0 {
		return fail("sudo chmod 700 "+dir, "everybody on this host may write in %s (mode %04o)", dir, info.Mode().Perm())
	}
	u, err := confine.Find(h.Config.User)
	if err != nil {
		return fail("name a user that is there with user", "%v", err)
	}
	if me := confine.Current(); !me.Root() {
		if owner != me.UID {
			return skip("%s is user %d's and this process is user %d: sudo lpmos doctor can look", dir, owner, me.UID)
		}
		return ok("it is this user's own, mode %04o", info.Mode().Perm())
	}
	if owner != u.UID && owner != 0 {
		return warn(fmt.Sprintf("sudo chown -R %d:%d %s", u.UID, u.GID, dir), "it is user %d's, and a node that root starts goes on as %s", owner, u)
	}
	return ok("it is user %d's, mode %04o", owner, info.Mode().Perm())
}

// existing is the data directory, or where it would be made.
func (h *Host) existing() string {
	dir, err := filepath.Abs(h.Config.DataDir)
	if err != nil {
		return h.Config.DataDir
	}
	for {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func (h *Host) dataSpace(context.Context) Finding {
	dir := h.existing()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return skip("how much space there is cannot be read: %v", err)
	}
	free, total := s.Bavail*uint64(s.Bsize), s.Blocks*uint64(s.Bsize)
	switch {
	case free < noSpace:
		return fail("df -h "+dir+"; lpmos image list shows what images there are, lpmos image delete takes one away",
			"the disk of %s is full: %s of %s are free, and a node writes everything down before it answers", dir, bytesText(free), bytesText(total))
	case s.Files > 0 && s.Ffree < noInodes:
		return fail("df -i "+dir, "the disk of %s takes %d more files, and that is all", dir, s.Ffree)
	case s.Flags&unix.ST_RDONLY != 0:
		return fail("sudo mount -o remount,rw "+mountOf(dir), "the disk of %s may only be read", dir)
	case free < fewSpace:
		return warn("df -h "+dir, "%s of %s are free on the disk of %s: hardly an image fits", bytesText(free), bytesText(total), dir)
	}
	return ok("%s of %s are free on the disk of %s", bytesText(free), bytesText(total), dir)
}

// mountOf is where the file system of a directory begins.
func mountOf(dir string) string {
	here, err := os.Stat(dir)
	for err == nil && dir != "/" {
		above, aboveErr := os.Stat(filepath.Dir(dir))
		if aboveErr != nil || above.Sys().(*syscall.Stat_t).Dev != here.Sys().(*syscall.Stat_t).Dev {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// dataSync measures how long the disk takes to keep a few bytes, in a file without
// a name, of which nothing is left whatever happens.
func (h *Host) dataSync(ctx context.Context) Finding {
	dir := h.existing()
	f, err := nameless(dir)
	if errors.Is(err, fs.ErrPermission) {
		return skip("no file may be made in %s to measure with: %v", dir, err)
	}
	if err != nil {
		return fail("df -h "+dir, "no file can be made in %s: %v", dir, err)
	}
	defer f.Close()
	times := make([]time.Duration, 0, syncTries)
	block := make([]byte, 4096)
	for range syncTries {
		if ctx.Err() != nil {
			return skip("it was ended")
		}
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return fail("df -h "+dir, "writing in %s: %v", dir, err)
		}
		if err := f.Sync(); err != nil {
			return fail("sudo dmesg | tail", "the disk of %s does not keep what is written: %v", dir, err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	median, worst := times[len(times)/2], times[len(times)-1]
	text := fmt.Sprintf("the disk of %s keeps a write in %s (the slowest of %d took %s)", dir, shortTime(median), syncTries, shortTime(worst))
	if median > slowSync {
		return warn("put data_dir on an SSD", "%s: every decision of the cluster waits for it", text)
	}
	return ok("%s", text)
}

// nameless makes a file that nobody else finds and that is gone when it is closed.
func nameless(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOENT) { // a file system without such
		f, err := os.CreateTemp(dir, ".lpmos-doctor-")
		if err != nil {
			return nil, err
		}
		return f, os.Remove(f.Name())
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir), nil
}

func shortTime(d time.Duration) string {
	if d < time.Millisecond {
		return d.Round(time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// imageStore reads every manifest as the node would, and changes none.
func (h *Host) imageStore(context.Context) Finding {
	dir := filepath.Join(h.Config.DataDir, "images", "manifests")
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skip("no image is here yet")
	case errors.Is(err, fs.ErrPermission):
		return skip("only the node's user may read them: sudo lpmos doctor can")
	case err != nil:
		return fail("ls -l "+dir, "%v", err)
	}
	n := 0
	var bad []string
	for _, e := range entries {
		digest, is := strings.CutSuffix(e.Name(), ".json")
		if !is || !wire.IsDigest(digest) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err == nil {
			_, err = images.ParseManifest(data)
		}
		if err != nil {
			bad = append(bad, digest[:12])
			continue
		}
		n++
	}
	if len(bad) > 0 {
		return fail("lpmos image import gives it again", "%d of %d images cannot be read: %s", len(bad), n+len(bad), strings.Join(bad, ", "))
	}
	return ok("the manifests of %d images can be read", n)
}

// certificates are those the nodes of the cluster know each other by.
func (h *Host) certificates(context.Context) Finding {
	id, err := trust.Load(h.Config.DataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skip("this node is of no cluster yet; lpmos up makes one")
	case errors.Is(err, fs.ErrPermission):
		return skip("only the node's user may read them: sudo lpmos doctor can")
	case err != nil:
		return fail("put "+filepath.Join(h.Config.DataDir, "trust")+" back from a copy, or join anew with an empty data directory", "%v", err)
	}
	now := h.Now()
	if now.After(id.CA.NotAfter) {
		return fail("lpmos backup, then begin a new cluster with lpmos restore", "the authority of the cluster ended on %s: no node takes another for one", day(id.CA.NotAfter))
	}
	if left := id.CA.NotAfter.Sub(now); left < 180*24*time.Hour {
		return warn("plan a new cluster: lpmos backup and lpmos restore", "the authority of the cluster ends on %s", day(id.CA.NotAfter))
	}
	ends := id.Certificate().Leaf.NotAfter
	switch {
	case now.After(ends):
		return warn("sudo lpmos up", "this node's certificate ended on %s; the node makes itself a new one when it starts", day(ends))
	case ends.Sub(now) < 14*24*time.Hour:
		return warn("sudo lpmos up", "this node's certificate ends on %s, and a node that ran would have renewed it", day(ends))
	}
	return ok("this node's holds until %s, the cluster's authority until %s", day(ends), day(id.CA.NotAfter))
}

// tlsCertificate is the one for browsers that somebody has brought.
func (h *Host) tlsCertificate(context.Context) Finding {
	if h.Config.TLSCert == "" {
		return skip("none was brought; the dashboard shows one of the cluster's own authority")
	}
	pair, err := tls.LoadX509KeyPair(h.Config.TLSCert, h.Config.TLSKey)
	if err != nil {
		return fail("openssl x509 -noout -text -in "+h.Config.TLSCert, "%v", err)
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return fail("openssl x509 -noout -text -in "+h.Config.TLSCert, "%s: %v", h.Config.TLSCert, err)
	}
	now := h.Now()
	switch {
	case now.After(leaf.NotAfter):
		return fail("get a new one; it is read when it changes", "%s ended on %s: browsers refuse the dashboard", h.Config.TLSCert, day(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return fail("date", "%s does not hold before %s", h.Config.TLSCert, day(leaf.NotBefore))
	case leaf.NotAfter.Sub(now) < 14*24*time.Hour:
		return warn("get a new one; it is read when it changes", "%s ends on %s", h.Config.TLSCert, day(leaf.NotAfter))
	}
	return ok("%s holds until %s", h.Config.TLSCert, day(leaf.NotAfter))
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

func bytesText(n uint64) string {
	const unit = 1 << 10
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}
