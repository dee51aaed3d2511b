package wire

// Status is the state of a task.
type Status string

// The life of a task. Installing is entered by compare-and-set before the first
// destructive byte; the five last are ends, from which a retry starts anew.
const (
	StatusPending         Status = "pending"          // the machine has not been seen
	StatusReady           Status = "ready"            // the machine is known and has to netboot
	StatusBooting         Status = "booting"          // the machine was told to boot the agent
	StatusPendingApproval Status = "pending_approval" // the agent has reported; a person decides
	StatusNeedsReview     Status = "needs_review"     // what was approved is not what is there now; nothing is written until a person looks again
	StatusApproved        Status = "approved"         // the agent may ask for its grant
	StatusInstalling      Status = "installing"       // the disk is being written
	StatusCompleted       Status = "completed"
	StatusFailed          Status = "failed"
	StatusRejected        Status = "rejected"
	StatusCancelled       Status = "cancelled"
	StatusInterrupted     Status = "interrupted" // the agent was lost while it wrote
)

// Stage is a part of an install. Each covers a span of the percentage.
type Stage string

// The stages and the span each covers.
const (
	StagePartitioning Stage = "partitioning" // 0-20 %
	StageDownloading  Stage = "downloading"  // 20-60 %
	StageInstalling   Stage = "installing"   // 60-90 %: read back, verify, make bootable
	StageConfiguring  Stage = "configuring"  // 90-100 %
)

// Stages in their order.
var Stages = []Stage{StagePartitioning, StageDownloading, StageInstalling, StageConfiguring}

// Span is the range of percentages of a stage; ok is false for an unknown one.
func (s Stage) Span() (from, to float64, ok bool) {
	switch s {
	case StagePartitioning:
		return 0, 20, true
	case StageDownloading:
		return 20, 60, true
	case StageInstalling:
		return 60, 90, true
	case StageConfiguring:
		return 90, 100, true
	}
	return 0, 0, false
}

// Progress is how far an install has come.
type Progress struct {
	Stage      Stage           `json:"stage"`
	Percentage float64         `json:"percentage"` // 0 to 100, never backwards within a generation
	Message    string          `json:"message,omitempty"`
	Details    ProgressDetails `json:"details"`
}

// ProgressDetails are the figures behind a percentage.
type ProgressDetails struct {
	BytesDownloaded uint64  `json:"bytes_downloaded"` // on the wire
	BytesTotal      uint64  `json:"bytes_total"`      // on the wire
	BytesWritten    uint64  `json:"bytes_written,omitempty"`
	SpeedMbps       float64 `json:"speed_mbps"` // megabits a second on the wire
}

// TaskError says why a task failed.
type TaskError struct {
	Code    string `json:"code"` // one of the Code constants
	Message string `json:"message"`
	Details string `json:"details,omitempty"`
	// Untouched says that this grant has written nothing to the disk.
	Untouched bool `json:"untouched,omitempty"`
}

// Error makes TaskError an error.
func (e *TaskError) Error() string { return e.Code + ": " + e.Message }

// Codes of a TaskError.
const (
	CodePlanMismatch = "plan_mismatch" // the machine is not as approved; nothing was written
	CodeDiskTooSmall = "disk_too_small"
	CodeDiskBusy     = "disk_busy"
	CodeDiskError    = "disk_error" // reading or writing the disk failed
	CodeImageError   = "image_error"
	CodeVerifyFailed = "verify_failed" // the disk does not hold what was written
	CodeBootSetup    = "boot_setup"    // partitions, seed or boot entry could not be written
	CodeInternal     = "internal"
)

// ReportRequest is an agent's first word in a boot, repeated until answered:
// POST /api/v1/agent/report.
type ReportRequest struct {
	BootID string `json:"boot_id"` // random, new each time the agent starts
	MAC    string `json:"mac"`     // of the interface the agent came up on
	// BootMAC is the one the firmware netbooted from, which need not be among the
	// inventory's: Linux may have no driver for that card.
	BootMAC   string    `json:"boot_mac,omitempty"`
	IP        string    `json:"ip"`      // its address there
	Version   string    `json:"version"` // of the agent
	Inventory Inventory `json:"inventory"`
	// Claim is the code of the kernel command line, which begins the session of the
	// key that signs this request, and no other. Later reports carry it as well: a
	// node that knows the session does not look at it.
	Claim string `json:"claim,omitempty"`
	// ClockOff is how many seconds the machine's clock was ahead of the node's when
	// the agent started, if that was far.
	ClockOff int64 `json:"clock_off,omitempty"`
}

// ReportResponse tells the agent who it is. From then on its key is its session.
type ReportResponse struct {
	MachineID string `json:"machine_id"`
	// Nodes are the base URLs of the nodes this machine may turn to, the one that
	// answers first, then the others, best first.
	Nodes []string `json:"nodes,omitempty"`
}

// Verdict is what a waiting agent is to do.
type Verdict string

// The verdicts of GET /api/v1/agent/approval/{mac}, a long poll: the node holds
// it for up to 25 s and answers at once when something is decided.
const (
	VerdictWait    Verdict = "wait"    // nothing decided; ask again
	VerdictInstall Verdict = "install" // SignedGrant is set
	VerdictReboot  Verdict = "reboot"  // boot the machine's own disk
	VerdictReport  Verdict = "report"  // the node does not know this boot: report again
)

// ApprovalResponse answers the long poll.
type ApprovalResponse struct {
	Verdict Verdict `json:"verdict"`
	Reason  string  `json:"reason"` // a sentence for the machine's console
	// SignedGrant is the permission to erase. What is not signed grants nothing.
	SignedGrant *SignedGrant `json:"signed_grant,omitempty"`
	// Nodes is as in ReportResponse: nodes come and go while a machine waits.
	Nodes []string `json:"nodes,omitempty"`
	// Elsewhere says, with "wait", that the node is cut off from the others and
	// that one of them may know more: ask there next.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// StatusRequest moves a task: POST /api/v1/agent/status. "installing" is the
// compare-and-set that must be answered 204 before the first destructive byte;
// "completed" and "failed" end the task. Repeating one is harmless.
type StatusRequest struct {
	TaskID     string     `json:"task_id"`
	Generation uint64     `json:"generation"`
	Status     Status     `json:"status"`
	PlanHash   string     `json:"plan_hash,omitempty"` // with "installing"
	Epoch      uint64     `json:"epoch,omitempty"`     // of the grant, with "installing"
	Error      *TaskError `json:"error,omitempty"`     // with "failed"
	// Progress is, with "completed", the last there was: the node that takes the
	// end need not be the one that was told.
	Progress *Progress `json:"progress,omitempty"`
	// Keep says, with an end, that no node the machine knows could write it down:
	// a node that is cut off from the others then keeps it and tells it later.
	Keep bool `json:"keep,omitempty"`
}

// ProgressRequest is POST /api/v1/agent/progress.
type ProgressRequest struct {
	TaskID     string `json:"task_id"`
	Generation uint64 `json:"generation"`
	Progress
}

// NextRequest asks what to fetch next and from where: POST /api/v1/agent/next.
type NextRequest struct {
	TaskID string     `json:"task_id"`
	Image  string     `json:"image"` // manifest digest
	Got    []int      `json:"got"`   // chunks verified since the last request
	Bad    []BadChunk `json:"bad,omitempty"`
	Need   []int      `json:"need"` // chunks wanted, at most 64, in the order they suit the agent
}

// BadChunk is a source that failed or served wrong bytes.
type BadChunk struct {
	Index  int    `json:"index"`
	URL    string `json:"url"`
	Reason string `json:"reason"`
}

// NextResponse names a source for each chunk to fetch now. It may name fewer
// than were asked for; none means ask again after RetryAfterMS.
type NextResponse struct {
	Fetch        []ChunkSource `json:"fetch"`
	RetryAfterMS int           `json:"retry_after_ms,omitempty"`
}

// ChunkSource is where a chunk can be had: a GET answered with one gzip member
// that inflates to the chunk's raw bytes.
type ChunkSource struct {
	Index int    `json:"index"`
	URL   string `json:"url"`
}

// LogRequest carries lines of the agent's console to the node:
// POST /api/v1/agent/log.
type LogRequest struct {
	TaskID string   `json:"task_id,omitempty"`
	Lines  []string `json:"lines"`
}
