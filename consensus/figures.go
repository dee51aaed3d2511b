package consensus

// Histogram counts how long something took.
type Histogram struct {
	Bounds []float64 // seconds, rising
	Counts []uint64  // as many as Bounds: how many took at most that long
	Count  uint64
	Sum    float64 // seconds
}

// Figures are what a node measures of itself.
type Figures struct {
	Commit  Histogram // from a proposal on this node to its outcome
	Fsync   Histogram // of one write of the log
	Flushes uint64    // entries of progress that this node has written
}
