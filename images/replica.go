package images

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Figures of copying between nodes.
const (
	DefaultBytesPerSecond = 100_000_000 // of copying in the background

	maxThrough = 32               // chunks fetched at once for machines that wait for them
	idlePause  = 10 * time.Minute // between two looks when nothing is missing and nobody wakes us
)

// Peer is another node of the cluster, as far as images go.
type Peer struct {
	ID        string
	Reachable bool         // it answered lately; the others are not asked
	Client    *http.Client // speaks to this node and no other
	Base      string       // what its PeerHandler's paths, /x/chunk/… and /x/manifest/…, are appended to
	// Holds is how much of an image it has by its own word, with its age; nil
	// when it has not said.
	Holds func(digest string) Holding
}

// Want is an image that is to be on every node.
type Want struct {
	Digest      string
	Name        string // for people
	StoredBytes uint64 // of its chunks as they are stored; 0 when not known
}

// Fleet is what copying images asks of the cluster.
type Fleet interface {
	// Peers are all other nodes, also those out of reach.
	Peers() []Peer
	// Wanted are the images of the fleet's state, and those its open tasks
	// install. Whatever else a store holds is deleted.
	Wanted() []Want
	// Confirm returns nil when Wanted tells of everything the cluster had agreed
	// on when Confirm was called. A node that has just started, or is cut off, may
	// have an old state in which new images are not wanted yet.
	Confirm(ctx context.Context) error
}

// Limiter paces copying in the background, in bytes; *rate.Limiter is one. It has
// to let 64 KiB pass at once.
type Limiter interface {
	WaitN(ctx context.Context, n int) error
}

// ReplicatorOptions tune a Replicator. Store and Fleet are required.
type ReplicatorOptions struct {
	Store *Store
	Fleet Fleet
	// Self is the id of this node. Nodes that begin to copy together begin at
	// different places, so that they have something for each other.
	Self string
	// BytesPerSecond bounds copying in the background; 0 means
	// DefaultBytesPerSecond, less than 0 no bound. What a machine waits for is
	// never slowed down.
	BytesPerSecond int
	// Limiter is used in place of BytesPerSecond if it is set.
	Limiter Limiter
	// Parallel is how many chunks are copied at once in the background; 0 means 4.
	Parallel int
	// Stall is how long a peer may send nothing before the next is asked; 0 means 5 s.
	Stall time.Duration
	// Retry is the pause after a look that left something missing; it doubles up
	// to thirty times that. 0 means 2 s.
	Retry time.Duration
	Now   func() time.Time // nil means time.Now
	Log   *slog.Logger     // nil discards
}

// Replicator keeps the store as the fleet wants it: it copies what is missing
// from other nodes, deletes what nobody wants any more, and gives machines what
// is not here yet by fetching it while they wait.
type Replicator struct {
	store   *Store
	fleet   Fleet
	opts    ReplicatorOptions
	limiter Limiter
	now     func() time.Time
	log     *slog.Logger

	wakePull, wakeForget chan struct{} // hold a token when there is something to do
	life                 context.Context
	end                  context.CancelFunc
	slots                chan struct{} // of maxThrough

	mu       sync.Mutex
	flights  map[string]*flight    // by what is fetched
	running  sync.WaitGroup        // of the flights
	urgent   int                   // flights somebody waits for
	calm     chan struct{}         // closed while urgent is 0
	peers    map[string]*peerState // by id
	turn     int                   // spreads requests over peers that are alike
	nowhere  map[string]*absence   // by chunk: lately no peer had it
	waiting  map[string]waiting    // by digest: images that are not here in whole
	unwanted map[string]unwanted   // by digest: imports the fleet does not know yet
}

// waiting is why an image is not here in whole.
type waiting struct {
	why     string
	noSpace bool
}

// NewReplicator returns a replicator; Run makes it work. Its Handler works from
// now on.
func NewReplicator(opts ReplicatorOptions) *Replicator {
	opts.Parallel = cmp.Or(opts.Parallel, 4)
	opts.Stall = cmp.Or(opts.Stall, 5*time.Second)
	opts.Retry = cmp.Or(opts.Retry, 2*time.Second)
	r := &Replicator{
		store: opts.Store, fleet: opts.Fleet, opts: opts, limiter: opts.Limiter, now: opts.Now, log: opts.Log,
		wakePull: make(chan struct{}, 1), wakeForget: make(chan struct{}, 1),
		slots: make(chan struct{}, maxThrough), calm: make(chan struct{}),
		flights: map[string]*flight{}, peers: map[string]*peerState{}, nowhere: map[string]*absence{},
		waiting: map[string]waiting{}, unwanted: map[string]unwanted{},
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.limiter == nil {
		bound := rate.Limit(cmp.Or(opts.BytesPerSecond, DefaultBytesPerSecond))
		if bound < 0 {
			bound = rate.Inf
		}
		r.limiter = rate.NewLimiter(bound, 4*pieceBytes)
	}
	close(r.calm)
	r.life, r.end = context.WithCancel(context.Background())
	r.store.mu.Lock()
	r.store.onLoss = r.Wake
	r.store.mu.Unlock()
	return r
}

// Run copies and deletes until ctx ends. When it returns nothing writes to the
// store any more on its account, and nothing more is fetched.
func (r *Replicator) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { r.forgetLoop(ctx) })
	r.pullLoop(ctx)
	loops.Wait()
	r.mu.Lock()
	r.end() // under the lock: no flight begins after it
	r.mu.Unlock()
	r.running.Wait()
}

// Wake makes Run look at once: the fleet's images have changed, or something is
// missing that was here.
func (r *Replicator) Wake() {
	for _, c := range []chan struct{}{r.wakePull, r.wakeForget} {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Waiting says for each image that the fleet wants and that is not here in whole
// what it waits for, by digest; being copied is not waiting.
func (r *Replicator) Waiting() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[string]string, len(r.waiting))
	for digest, w := range r.waiting {
		out[digest] = w.why
	}
	return out
}

// pullLoop looks again and again for what is missing.
func (r *Replicator) pullLoop(ctx context.Context) {
	pause := r.opts.Retry
	for ctx.Err() == nil {
		whole, moved := r.pullAll(ctx)
		wait := idlePause
		if moved {
			pause = r.opts.Retry
		}
		if !whole {
			wait = pause
			pause = min(2*pause, 30*r.opts.Retry)
		}
		if r.rest(ctx, r.wakePull, wait) {
			pause = r.opts.Retry
		}
	}
}

// rest waits for a while; true means that it was woken.
func (r *Replicator) rest(ctx context.Context, wake <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-wake:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// pullAll goes once through all images. whole means that nothing is missing any
// more, moved that something arrived.
func (r *Replicator) pullAll(ctx context.Context) (whole, moved bool) {
	whole = true
	before := r.store.stamped()
	wanted := r.fleet.Wanted()
	for _, w := range wanted {
		r.store.settle(w.Digest, before[w.Digest].stamp)
	}
	r.dropWaiting(wanted)
	for _, w := range wanted {
		n, err := r.pull(ctx, w)
		moved = moved || n > 0
		if ctx.Err() != nil || len(r.wakePull) > 0 { // what is wanted may have changed
			return false, moved
		}
		r.explain(w, err)
		whole = whole && err == nil
	}
	return whole, moved
}

// explain keeps why an image is not here in whole, and logs it once: figures in
// it change with every look.
func (r *Replicator) explain(w Want, err error) {
	var full *SpaceError
	is := waiting{noSpace: errors.As(err, &full)}
	r.mu.Lock()
	was, waited := r.waiting[w.Digest]
	if err == nil {
		delete(r.waiting, w.Digest)
	} else {
		is.why = err.Error()
		r.waiting[w.Digest] = is
	}
	r.mu.Unlock()
	switch {
	case err != nil && (!waited || was.noSpace != is.noSpace):
		r.log.Warn("an image is not on this node in whole; it is tried again and again", "image", w.Name, "digest", w.Digest, "reason", is.why)
	case err == nil && waited:
		r.log.Info("an image is on this node in whole", "image", w.Name, "digest", w.Digest)
	}
}

// dropWaiting forgets what images wait for that nobody wants any more.
func (r *Replicator) dropWaiting(wanted []Want) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for digest := range r.waiting {
		if !slices.ContainsFunc(wanted, func(w Want) bool { return w.Digest == digest }) {
			delete(r.waiting, digest)
		}
	}
}

// wants reports whether the fleet wants an image.
func (r *Replicator) wants(digest string) bool {
	return slices.ContainsFunc(r.fleet.Wanted(), func(w Want) bool { return w.Digest == digest })
}
