// Package door knows who asks. A request is one of a person who has signed in (a
// cookie), of a program (an API token) or of somebody who holds the node's own
// files (its socket); all others are nobody, and may do what a route lets anyone
// do. What a caller may do is said beside each route, and a route that does not
// say it lets nobody in.
//
// Nothing secret is kept: the cluster has the hashes of passwords, of sessions and
// of tokens. It is asked with every request, so that an account that is disabled
// at one node is disabled at all of them as soon as they have heard of it.
package door

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lpmos/lpmos/consensus/fleet"
)

const (
	// touchTime is how long such a note may take.
	touchTime = 10 * time.Second

	// SetupLife and LinkLife are how long a setup code and a login link are good.
	SetupLife = 15 * time.Minute
	LinkLife  = 10 * time.Minute
	// TokenLife is how long an API token is good if nobody says.
	TokenLife = 90 * 24 * time.Hour

	// waitingLogins bounds the logins that wait for a slot, of all and of one address.
	waitingLogins, waitingLoginsEach = 64, 4

	// tellSoon is how long refused logins are gathered before the first is told,
	// tellAgain those after it; failedNames bounds what is gathered.
	tellSoon, tellAgain = 5 * time.Second, time.Minute
	failedNames         = 50
)

// Cluster is what the door asks.
type Cluster interface {
	Propose(ctx context.Context, body fleet.Body) (any, error)
	View(f func(s *fleet.State))
}

// Config is what a door is made of. All of it must be set.
type Config struct {
	Cluster Cluster
	Now     func() time.Time
	Logger  *slog.Logger
}

// Door lets people and programs in.
type Door struct {
	cfg    Config
	hasher hasher

	byName, byAddress *limits

	mu      sync.Mutex
	touched map[string]time.Time // session → when a note was last asked for
	waiting map[string]int       // logins under way, by address
	queued  int

	failed    map[string]fleet.FailedLogins // since it was last told, by name
	telling   *time.Timer                   // nil: nothing is to be told
	tellAfter time.Duration
	closed    bool
}

// New makes a door.
func New(cfg Config) *Door {
	return &Door{cfg: cfg, hasher: newHasher(), byName: newLimits(loginsPerMinute), byAddress: newLimits(triesPerMinute),
		touched: map[string]time.Time{}, waiting: map[string]int{}, failed: map[string]fleet.FailedLogins{}, tellAfter: tellSoon}
}

// Refused is a login that was not let through. All ways to be wrong read alike.
type Refused struct {
	// Wait, if not 0, is how long to wait before the next try.
	Wait time.Duration
}

func (r *Refused) Error() string {
	if r.Wait > 0 {
		return "too many tries; wait a moment before the next"
	}
	return "that is not right, or not any more"
}

// Enter finds out who asks and lets next know. Whoever is known already, because
// of the way they came, stays who they are.
func (d *Door) Enter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !CallerOf(r.Context()).SignedIn() {
			r = r.WithContext(With(r.Context(), d.identify(r)))
		}
		next.ServeHTTP(w, r)
	})
}

// identify finds the caller of a request. A token that is shown and not good
// makes the caller nobody, whatever cookie comes with it.
func (d *Door) identify(r *http.Request) Caller {
	from := AddressOf(r)
	if header, shown := r.Header["Authorization"]; shown {
		text, bearer := strings.CutPrefix(header[0], "Bearer ")
		if len(header) != 1 || !bearer || !isTokenText(text) {
			return Caller{From: from}
		}
		return d.byToken(fleet.HashSecret(text), from)
	}
	cookies := r.CookiesNamed(d.CookieName(r))
	for i, c := range cookies {
		if i == 4 || len(c.Value) != sessionChars {
			break
		}
		if caller := d.bySession(fleet.HashSecret(c.Value), from); caller.SignedIn() {
			return caller
		}
	}
	return Caller{From: from}
}

func (d *Door) byToken(hash fleet.Secret, from string) Caller {
	c := Caller{From: from}
	d.cfg.Cluster.View(func(s *fleet.State) {
		if t := s.APITokenByHash(hash, d.cfg.Now()); t != nil {
			c = Caller{Name: "token " + t.Name, Role: t.Role, From: from, UserID: t.UserID, Token: t.ID, secret: hash}
		}
	})
	return c
}

func (d *Door) bySession(hash fleet.Secret, from string) Caller {
	now := d.cfg.Now()
	c, seen := d.session(hash, now)
	c.From = from
	if c.SignedIn() && now.Sub(seen) >= fleet.TouchEvery {
		d.touch(c.Session, hash, now)
	}
	return c
}

// session is the caller with this session, and when the cluster last noted it.
func (d *Door) session(hash fleet.Secret, now time.Time) (c Caller, seen time.Time) {
	d.cfg.Cluster.View(func(s *fleet.State) {
		e := s.SessionByHash(hash, now)
		if e == nil {
			return
		}
		c = Caller{Name: fleet.LocalName, Role: e.Role, UserID: e.UserID, Session: e.ID, secret: hash}
		if e.UserID != "" {
			u := s.User(e.UserID)
			if u == nil || u.Disabled {
				c = Caller{}
				return
			}
			c.Name, c.Role = u.Name, u.Role
		}
		seen = e.SeenAt
	})
	return c, seen
}

// Still reports whether who asked once may still be answered.
func (d *Door) Still(c Caller) bool {
	switch {
	case c.secret == "":
		return true // came by a way that does not end
	case c.Token != "":
		now := d.byToken(c.secret, c.From)
		return now.Role == c.Role
	}
	now, _ := d.session(c.secret, d.cfg.Now())
	return now.SignedIn() && now.Role == c.Role
}

// Used notes that a person with a session did something.
func (d *Door) Used(c Caller) {
	if c.Session == "" || c.secret == "" {
		return
	}
	now := d.cfg.Now()
	if _, seen := d.session(c.secret, now); now.Sub(seen) >= fleet.TouchEvery {
		d.touch(c.Session, c.secret, now)
	}
}

// touch lets the cluster note that a session is in use, without waiting for it.
func (d *Door) touch(id string, hash fleet.Secret, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if last, asked := d.touched[id]; asked && now.Sub(last) < touchTime {
		return
	}
	if len(d.touched) > keptLimits {
		clear(d.touched)
	}
	d.touched[id] = now
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), touchTime)
		defer cancel()
		if _, err := d.cfg.Cluster.Propose(ctx, fleet.TouchSession{SecretHash: hash}); err != nil {
			d.cfg.Logger.Debug("the use of a session is not noted", "session", id, "err", err)
		}
	}()
}

// Login gives a session for a name and its password: the secret to show.
func (d *Door) Login(ctx context.Context, from, name, password string) (secret string, s *fleet.Session, err error) {
	source := sourceOf(from)
	mine := source + " " + strings.ToLower(name)
	for _, try := range []struct {
		of  *limits
		key string
	}{{d.byAddress, source}, {d.byName, mine}} {
		if wait, ok := try.of.try(try.key, d.cfg.Now()); !ok {
			d.failure(from, name)
			return "", nil, &Refused{Wait: wait}
		}
	}
	var user fleet.User
	d.cfg.Cluster.View(func(st *fleet.State) {
		if u := st.UserByName(name); u != nil {
			user = *u
		}
	})
	right, err := d.checkPassword(ctx, source, user.PasswordHash, password)
	if err != nil {
		return "", nil, err
	}
	if !right || user.Disabled {
		d.failure(from, name)
		return "", nil, &Refused{}
	}
	d.byName.forget(mine)
	secret, s, err = d.begin(fleet.WithOrigin(ctx, fleet.Origin{Name: user.Name, From: from}), from, user.ID, user.PasswordHash)
	if fleet.ErrorCode(err) != "" { // changed, disabled or deleted while the password was checked
		d.failure(from, name)
		return "", nil, &Refused{}
	}
	return secret, s, err
}

// CheckOwn reports whether a password is the user's. It counts as a login does.
func (d *Door) CheckOwn(ctx context.Context, c Caller, password string) error {
	if wait, ok := d.byName.try(sourceOf(c.From)+" "+strings.ToLower(c.Name), d.cfg.Now()); !ok {
		return &Refused{Wait: wait}
	}
	var hash fleet.Secret
	d.cfg.Cluster.View(func(s *fleet.State) {
		if u := s.User(c.UserID); u != nil {
			hash = u.PasswordHash
		}
	})
	right, err := d.checkPassword(ctx, sourceOf(c.From), hash, password)
	if err == nil && !right {
		d.failure(c.From, c.Name)
		return &Refused{}
	}
	return err
}

// checkPassword hashes once for everybody, and lets no address fill the queue.
func (d *Door) checkPassword(ctx context.Context, source string, hash fleet.Secret, password string) (bool, error) {
	if len(password) > maxPassword {
		password = "" // nobody has an empty one
	}
	d.mu.Lock()
	if d.queued >= waitingLogins || d.waiting[source] >= waitingLoginsEach {
		d.mu.Unlock()
		return false, &Refused{Wait: time.Second}
	}
	d.queued++
	d.waiting[source]++
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.queued--
		if d.waiting[source]--; d.waiting[source] == 0 {
			delete(d.waiting, source)
		}
	}()
	return d.hasher.matches(ctx, string(hash), password)
}

// failure counts that somebody was refused. It is told soon, and then once a
// minute at most: who tries names must not fill the log.
func (d *Door) failure(from, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = clip(strings.ToLower(name))
	if _, known := d.failed[name]; !known && len(d.failed) >= failedNames {
		name = "" // with all the others that nobody can look at one by one
	}
	f := d.failed[name]
	d.failed[name] = fleet.FailedLogins{Name: name, From: from, Count: f.Count + 1}
	if d.telling == nil && !d.closed {
		d.telling = time.AfterFunc(d.tellAfter, d.tellFailed)
	}
}

// tellFailed puts what was counted into the audit and the log.
func (d *Door) tellFailed() {
	d.mu.Lock()
	items := slices.Collect(maps.Values(d.failed))
	clear(d.failed)
	d.telling, d.tellAfter = nil, tellAgain
	closed := d.closed
	d.mu.Unlock()
	if len(items) == 0 || closed {
		return
	}
	count := 0
	for _, it := range items {
		count += it.Count
	}
	d.cfg.Logger.Warn("sign-ins were refused", "count", count, "names", len(items), "last_from", items[len(items)-1].From)
	ctx, cancel := context.WithTimeout(context.Background(), touchTime)
	defer cancel()
	if _, err := d.cfg.Cluster.Propose(ctx, fleet.NoteFailedLogins{Items: items}); err != nil {
		d.cfg.Logger.Warn("refused sign-ins are not in the audit", "err", err)
	}
}

// Close stops telling of refused logins.
func (d *Door) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.telling != nil {
		d.telling.Stop()
	}
}

func clip(s string) string {
	if len(s) > 64 {
		return strings.ToValidUTF8(s[:64], "") + "…"
	}
	return s
}

// begin makes a session of a user whose password is, or was a moment ago, the one
// with this hash.
func (d *Door) begin(ctx context.Context, from, userID string, phc fleet.Secret) (string, *fleet.Session, error) {
	secret := newSecret()
	out, err := d.cfg.Cluster.Propose(ctx, fleet.CreateSession{SecretHash: fleet.HashSecret(secret), UserID: userID, From: from,
		ExpiresAt: d.cfg.Now().Add(fleet.SessionLife), Checked: fleet.HashSecret(string(phc))})
	if err != nil {
		return "", nil, err
	}
	s, _ := out.(*fleet.Session)
	return secret, s, nil
}

// Redeem gives a session for the code of a login link, once.
func (d *Door) Redeem(ctx context.Context, from, code string) (secret string, s *fleet.Session, err error) {
	// Looked at before anything is proposed: who tries codes shall not fill the log.
	// A good one is not guessed, so it is no try: others at its address keep nobody out.
	hash := fleet.HashSecret(plainCode(code))
	var known bool
	d.cfg.Cluster.View(func(st *fleet.State) {
		c := st.CodeByHash(hash, d.cfg.Now())
		known = c != nil && c.Kind == fleet.CodeLogin
	})
	if !known {
		if wait, ok := d.byAddress.try(sourceOf(from), d.cfg.Now()); !ok {
			return "", nil, &Refused{Wait: wait}
		}
		d.failure(from, "login link")
		return "", nil, &Refused{}
	}
	secret = newSecret()
	out, err := d.cfg.Cluster.Propose(ctx, fleet.RedeemLogin{SecretHash: hash,
		Session: fleet.CreateSession{SecretHash: fleet.HashSecret(secret), From: from, ExpiresAt: d.cfg.Now().Add(fleet.SessionLife)}})
	if fleet.ErrorCode(err) != "" {
		d.failure(from, "login link")
		return "", nil, &Refused{}
	}
	if err != nil {
		return "", nil, err
	}
	s, _ = out.(*fleet.Session)
	return secret, s, nil
}

// ErrSetUp says that the cluster has an administrator already.
var ErrSetUp = errors.New("this cluster has been set up already: sign in, or ask who runs it for an account")

// Setup makes the first administrator, with a session, for the setup code.
func (d *Door) Setup(ctx context.Context, from, code, name, password string) (secret string, s *fleet.Session, err error) {
	if wait, ok := d.byAddress.try(sourceOf(from), d.cfg.Now()); !ok {
		return "", nil, &Refused{Wait: wait}
	}
	if d.HasUsers() {
		return "", nil, ErrSetUp
	}
	// Looked at before the costly part. What decides is the rule.
	var known bool
	hash := fleet.HashSecret(plainCode(code))
	d.cfg.Cluster.View(func(st *fleet.State) { known = st.CodeByHash(hash, d.cfg.Now()) != nil })
	if !known {
		d.failure(from, "setup code")
		return "", nil, &Refused{}
	}
	phc, err := d.hasher.hash(ctx, password, func() error {
		if d.HasUsers() {
			return ErrSetUp
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	ctx = fleet.WithOrigin(ctx, fleet.Origin{Name: name, From: from})
	out, err := d.cfg.Cluster.Propose(ctx, fleet.RedeemSetup{SecretHash: hash,
		User: fleet.PutUser{ID: NewID("u-"), Name: name, Role: fleet.Admin, PasswordHash: phc}})
	if err != nil {
		return "", nil, err
	}
	u, ok := out.(*fleet.User)
	if !ok {
		return "", nil, errors.New("the cluster did not say which user was made")
	}
	return d.begin(ctx, from, u.ID, phc)
}

// End ends the caller's own session.
func (d *Door) End(ctx context.Context, c Caller) error {
	if c.Session == "" {
		return nil
	}
	_, err := d.cfg.Cluster.Propose(ctx, fleet.EndSession{SecretHash: c.secret, By: c.Name})
	if fleet.ErrorCode(err) == fleet.NotFound {
		return nil // it has ended by itself
	}
	return err
}

// Hash is a password as the cluster keeps it.
func (d *Door) Hash(ctx context.Context, password string) (fleet.Secret, error) {
	return d.hasher.hash(ctx, password, nil)
}

// HasUsers reports whether anybody has an account.
func (d *Door) HasUsers() (has bool) {
	d.cfg.Cluster.View(func(s *fleet.State) { has = s.HasUsers() })
	return has
}

// NewSetupCode makes a code by which the first administrator is made.
func (d *Door) NewSetupCode(ctx context.Context, by string) (string, time.Time, error) {
	return d.newCode(ctx, fleet.CreateCode{Kind: fleet.CodeSetup, By: by}, SetupLife)
}

// NewLoginCode makes a code that gives one session: of a user, or, if userID is
// empty, of who holds the node's files.
func (d *Door) NewLoginCode(ctx context.Context, userID, by string) (string, time.Time, error) {
	c := fleet.CreateCode{Kind: fleet.CodeLogin, UserID: userID, By: by}
	if userID == "" {
		c.Role = fleet.Admin
	}
	return d.newCode(ctx, c, LinkLife)
}

func (d *Door) newCode(ctx context.Context, c fleet.CreateCode, life time.Duration) (string, time.Time, error) {
	code := newCodeText()
	c.ID, c.SecretHash, c.ExpiresAt = NewID("c-"), fleet.HashSecret(plainCode(code)), d.cfg.Now().Add(life).UTC()
	_, err := d.cfg.Cluster.Propose(ctx, c)
	return code, c.ExpiresAt, err
}

// sessionChars is the length of a session's secret.
const sessionChars = 43

func newSecret() string { return base64.RawURLEncoding.EncodeToString(random(32)) }

// NewID is a new id of a kind.
func NewID(kind string) string { return kind + hex.EncodeToString(random(8)) }

// NewToken is the text of a new API token, and its id.
func NewToken() (text, id string) {
	id = hex.EncodeToString(random(8))
	return "lpat_" + id + "_" + hex.EncodeToString(random(16)), id
}

func isTokenText(s string) bool {
	if len(s) != 5+16+1+32 || s[:5] != "lpat_" || s[21] != '_' {
		return false
	}
	_, err := hex.DecodeString(s[5:21] + s[22:])
	return err == nil
}

// codeLetters leave out what is read as something else (Crockford's base 32).
const codeLetters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newCodeText is a code of 100 bits that people can type.
func newCodeText() string {
	var b strings.Builder
	for i, r := range random(20) {
		if i > 0 && i%5 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(codeLetters[r&31])
	}
	return b.String()
}

// plainCode is a code without what people add to it or mistake in it.
func plainCode(s string) string {
	return strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1").Replace(strings.ToUpper(strings.TrimSpace(s)))
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) //nolint:errcheck // never fails
	return b
}
