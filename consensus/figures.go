package consensus

// Figures are what a node has counted of itself since it started.
type Figures struct {
	// Commit is how long commands proposed on this node took until they were
	// agreed on and applied here, in seconds.
	Commit Histogram
	// Fsync is how long one write of the log took with its fsync, in seconds.
	Fsync Histogram
	// ProgressEntries is how many entries with progress this node gave to the log.
	ProgressEntries uint64
	// Watchers is how many follow the feed on this node now, and WatcherLag how
	// many events the slowest of them has not taken yet.
	Watchers   int
	WatcherLag int
}

// Histogram counts values by their size.
type Histogram struct {
	// Buckets rise. Each counts the values up to LE, those of the buckets before
	// it too; there is none for the values above the last LE.
	Buckets []Bucket
	Sum     float64 // of all values
	Count   uint64  // of all values, also those above the last bucket
}

// Bucket is how many values were at most LE.
type Bucket struct {
	LE    float64
	Count uint64
}
