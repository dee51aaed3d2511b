package chaos

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
	"github.com/lpmos/lpmos/consensus"
	"github.com/lpmos/lpmos/consensus/fleet"
)

// A checker that finds nothing may be blind. Each of these ways to be wrong has to
// be found.
func TestPlantedBugsAreFound(t *testing.T) {
	plain := honest()
	bugs := []struct {
		name    string
		trouble bool
		plant   func(a *access)
	}{
		{"a read that is not verified", false, func(a *access) {
			a.verify = func(context.Context, *consensus.Node) error { return nil }
		}},
		{"acknowledged before it is agreed on", true, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				go plain.propose(context.Background(), n, b) //nolint:errcheck // that is the bug
				return nil, nil
			}
		}},
		{"a repeated command that is applied twice", false, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				if _, err := plain.propose(ctx, n, b); err != nil {
					return nil, err
				}
				return plain.propose(ctx, n, b) // under an id of its own
			}
		}},
		{"an acknowledged write that is lost", false, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				if _, is := b.(fleet.DecideTask); is && rand.IntN(4) == 0 {
					return nil, nil
				}
				return plain.propose(ctx, n, b)
			}
		}},
		{"a write that is done and said not to be", false, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				got, err := plain.propose(ctx, n, b)
				if err == nil && rand.IntN(10) == 0 {
					return nil, consensus.ErrNotReady
				}
				return got, err
			}
		}},
		{"an uncertain write that is repeated under another id", true, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				got, err := plain.propose(ctx, n, b)
				for range 5 {
					if !errors.Is(err, consensus.ErrUncertain) {
						break
					}
					more, cancel := context.WithTimeout(context.Background(), 2*time.Second)
					got, err = plain.propose(more, n, b)
					cancel()
				}
				return got, err
			}
		}},
		{"two that may erase", false, func(a *access) {
			a.propose = func(ctx context.Context, n *consensus.Node, b fleet.Body) (any, error) {
				in, is := b.(fleet.StartInstall)
				if !is {
					return plain.propose(ctx, n, b)
				}
				// A look in the place of a compare-and-set.
				var may bool
				n.View(func(s *fleet.State) {
					t := s.Task(in.TaskID)
					may = t.Generation == in.Generation && (t.Status == wire.StatusApproved || t.Status == wire.StatusInstalling)
				})
				if !may {
					return nil, &fleet.Error{Code: fleet.Conflict, Message: "not approved"}
				}
				go plain.propose(context.Background(), n, b) //nolint:errcheck // that is the bug
				return nil, nil
			}
		}},
	}
	for _, b := range bugs {
		t.Run(b.name, func(t *testing.T) {
			for seed := range 20 {
				a := honest()
				b.plant(&a)
				s := play(t, uint64(1000+seed), 3, 5, a, b.trouble)
				if _, wrong := s.judge(30 * time.Second); len(wrong) > 0 {
					t.Logf("found by seed %d: %v", seed, wrong)
					return
				}
			}
			t.Error("it was not found")
		})
	}
}
