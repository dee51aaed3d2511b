package ui

import (
	"math"
	"reflect"
	"time"

	"github.com/lpmos/lpmos/ui/api"
)

// figuresEvery is how many times the slow interval figures of the cluster wait
// that change all the time, such as round trips. What people act on is told in
// the next one.
const figuresEvery = 5

// clusterTold is what a viewer was last told of the cluster.
type clusterTold struct {
	view *api.ClusterView // without its figures
	beat int              // slow intervals since figures were told
}

// news reports whether the viewer has to be told, and takes it that it then is.
func (c *clusterTold) news(now *api.ClusterView) bool {
	if now == nil {
		return false
	}
	c.beat++
	plain := withoutFigures(*now)
	if c.beat < figuresEvery && c.view != nil && reflect.DeepEqual(*c.view, plain) {
		return false
	}
	c.view, c.beat = &plain, 0
	return true
}

// withoutFigures leaves out what changes without anything having happened.
func withoutFigures(v api.ClusterView) api.ClusterView {
	v.Applied, v.Committed, v.HeardAt = 0, 0, time.Time{}
	members := make([]api.Member, len(v.Members))
	for i, m := range v.Members {
		m.Applied, m.Lag, m.RoundTrip, m.SeenAt = 0, 0, 0, time.Time{}
		m.Warnings = nil // of what is here already, with figures in the words
		m.ClockOff = math.Round(m.ClockOff)
		m.Described.FreeBytes = 0
		members[i] = m
	}
	v.Members = members
	return v
}
