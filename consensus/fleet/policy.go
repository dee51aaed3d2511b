package fleet

import (
	"fmt"
	"slices"
	"time"
)

// When a second person has to approve a plan.
const (
	SecondOverCap = "cap"    // once as many plans were approved lately as one word is good for
	SecondAlways  = "always" // every plan
	SecondNever   = "never"
)

// Policy says how much may be erased on one person's word.
type Policy struct {
	// ApprovalCap is how many plans may be approved within ApprovalWindow before a
	// second person is asked for each further one: who has stolen one password, or
	// has written a loop with a mistake in it, erases no more than that.
	ApprovalCap    int           `json:"approval_cap"`
	ApprovalWindow time.Duration `json:"approval_window"`
	SecondApprover string        `json:"second_approver"`

	By        string    `json:"by,omitempty"` // who changed it last
	ChangedAt time.Time `json:"changed_at,omitzero"`
}

// defaultPolicy holds until somebody has decided otherwise.
var defaultPolicy = Policy{ApprovalCap: 10, ApprovalWindow: 10 * time.Minute, SecondApprover: SecondOverCap}

// Bounds of a policy. The cap bounds what the state remembers of approvals, too.
const (
	maxCap    = 1000
	maxWindow = 24 * time.Hour
)

// PutPolicy changes the policy. The result is a *Policy.
type PutPolicy struct {
	ApprovalCap    int
	ApprovalWindow time.Duration
	SecondApprover string
	By             string
}

func (PutPolicy) commandType() string { return "put_policy" }

// Policy is what holds now.
func (s *State) Policy() Policy {
	if s.policy == nil {
		return defaultPolicy
	}
	return *s.policy
}

func (b PutPolicy) apply(s *State, c Command) (any, error) {
	b.By = c.by(b.By)
	switch {
	case b.ApprovalCap < 1 || b.ApprovalCap > maxCap:
		return nil, invalid("approval_cap", "the cap is a number from 1 to %d", maxCap)
	case b.ApprovalWindow < time.Minute || b.ApprovalWindow > maxWindow:
		return nil, invalid("approval_window", "the window is from 1 minute to 24 hours")
	case !slices.Contains([]string{SecondOverCap, SecondAlways, SecondNever}, b.SecondApprover):
		return nil, invalid("second_approver", "a second person is asked %q: say cap, always or never", b.SecondApprover)
	}
	p := &Policy{ApprovalCap: b.ApprovalCap, ApprovalWindow: b.ApprovalWindow, SecondApprover: b.SecondApprover, By: b.By, ChangedAt: c.At}
	s.policy = p
	s.events = append(s.events, Event{Type: EventPolicy, Policy: p})
	s.note(c, AuditRecord{By: b.By, What: fmt.Sprintf("%s changed the policy: %d approvals in %s before a second person is asked, which is done: %s",
		who(b.By), p.ApprovalCap, p.ApprovalWindow, p.SecondApprover)})
	return p, nil
}

// needsSecond says whether the next approval takes two people.
func (s *State) needsSecond(at time.Time) bool {
	p := s.Policy()
	switch p.SecondApprover {
	case SecondAlways:
		return true
	case SecondNever:
		return false
	}
	lately := 0
	for _, word := range s.words {
		if word.After(at.Add(-p.ApprovalWindow)) {
			lately++
		}
	}
	return lately >= p.ApprovalCap
}

// countWord remembers an approval, for as long as a window can be.
func (s *State) countWord(at time.Time) {
	kept := make([]time.Time, 0, len(s.words)+1)
	for _, word := range s.words {
		if word.After(at.Add(-maxWindow)) {
			kept = append(kept, word)
		}
	}
	kept = append(kept, at)
	s.words = kept[max(0, len(kept)-maxCap):]
}

// guardRecord is what a snapshot holds of all this. There is none in a state in
// which nothing was approved under this policy or another.
type guardRecord struct {
	Policy *Policy     `json:"policy,omitempty"`
	Words  []time.Time `json:"words,omitempty"` // the oldest first
}

func (s *State) guardRecords() []*guardRecord {
	if s.policy == nil && len(s.words) == 0 {
		return nil
	}
	return []*guardRecord{{Policy: s.policy, Words: slices.Clone(s.words)}}
}

func (s *State) restoreGuard(r *guardRecord) error {
	if s.policy != nil || len(s.words) > 0 || len(r.Words) > maxCap {
		return fmt.Errorf("the policy is there twice, or with more than %d approvals", maxCap)
	}
	s.policy, s.words = r.Policy, r.Words
	return nil
}
