package fleet

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/lpmos/lpmos/agent/wire"
)

// Command is one change that was asked for. Its JSON form is kept for ever: a
// type or a field may be added, never changed.
type Command struct {
	Version int       `json:"v"` // 3; 1 in logs that know no repeats, 2 in those that know no people, nor what guards a disk
	ID      string    `json:"id"`
	At      time.Time `json:"at"` // the proposing node's time, the only clock the rules know

	// Retry says that the command may be in the log already, under the same ID.
	// Since is the index of the state its node had when it asked first: the first
	// attempt can only be behind it.
	Retry bool   `json:"retry,omitempty"`
	Since uint64 `json:"since,omitempty"`

	// Actor is who asked for it over the API, as the door knows them, and From is
	// the address they asked from, or "socket". Both are empty for what nodes and
	// machines do.
	From  string `json:"from,omitempty"`
	Actor string `json:"actor,omitempty"`

	// ActorID is the id of the user who asked, ActorRole what they might do then and
	// ByToken whether a program asked for them: see Origin. Entries of before have none.
	ActorID   string `json:"actor_id,omitempty"`
	ActorRole Role   `json:"actor_role,omitempty"`
	ByToken   bool   `json:"by_token,omitempty"`

	Body Body `json:"-"`
}

// Body is what a command does.
type Body interface {
	commandType() string
	apply(s *State, c Command) (any, error)
}

// ErrUnknownCommand is met by a node that is older than the entry. It must stop
// rather than go on with a state that others do not have.
var ErrUnknownCommand = errors.New("log entry is of a kind this version does not know; upgrade this node")

type (
	// PutNode records a node of the cluster.
	PutNode struct{ Node Node }

	// PutImage makes an image known by its name; a second with the same name
	// takes its place for tasks to come.
	PutImage struct{ Image Image }

	// DeleteImage forgets an image that no open task uses.
	DeleteImage struct{ Name string }

	// ReportMachine is an agent's report. NewID is used if the machine is new.
	// Claim is the id of the code it begins its session with, Renew says that it has
	// the session already; logs from before there were codes have neither.
	// The result is a *Machine.
	ReportMachine struct {
		NewID       string
		RegionID    string
		BootID      string
		SessionHash string
		MAC         string
		BootMAC     string `json:",omitempty"` // what the firmware will ask with again
		IP          string
		Inventory   wire.Inventory

		Claim        string    `json:",omitempty"`
		ClaimMAC     string    `json:",omitempty"` // that the code was given to: the one MAC that is not the agent's own word
		ClaimExpires time.Time `json:",omitzero"`
		Renew        bool      `json:",omitempty"`
		ClockOff     int64     `json:",omitempty"` // seconds that the machine's clock was ahead
	}

	// LeaveAgent records that the agent with this session was told to boot its
	// machine's own disk: whatever is asked of the machine now waits for its next
	// netboot. The result is a *Machine, nil if the session is nobody's.
	LeaveAgent struct{ SessionHash string }

	// NoteDisplaced records that an agent still asks whose session another took: there
	// are two agents of one machine. The result is a *Machine, nil if there is nothing
	// to say of the session.
	NoteDisplaced struct{ SessionHash string }

	// ServeBoot records that a machine that is known or has an open task was told to
	// boot the agent, or to wait because it is held. The result is its *Task.
	ServeBoot struct{ MAC string }

	// CreateTask asks for an install; the result is a *Task. With Approve it is
	// made and approved in one step, or not made at all when the plan is not the
	// one that was approved.
	CreateTask struct {
		ID         string
		RegionID   string
		TargetMAC  string
		Spec       Spec
		PhoneToken string
		Approve    *Decision `json:",omitempty"`
	}

	// Decision is who approved which plan. With CheckSerial, ConfirmSerial is what the
	// person typed to show that they know which disk dies.
	Decision struct {
		PlanHash      string
		Notes         string
		By            string
		ConfirmSerial string `json:",omitempty"`
		CheckSerial   bool   `json:",omitempty"`
	}

	// DecideTask approves or rejects; the result is a *Task.
	DecideTask struct {
		TaskID        string
		Approved      bool
		PlanHash      string
		Notes         string
		By            string
		ConfirmSerial string `json:",omitempty"` // as in Decision
		CheckSerial   bool   `json:",omitempty"`
	}

	// StartInstall is the compare-and-set approved → installing. The result is a *Task.
	StartInstall struct {
		TaskID      string
		Generation  uint64
		PlanHash    string
		SessionHash string
		// Epoch is the one the grant was made in; 0 from an agent that was not told.
		Epoch uint64 `json:",omitempty"`
	}

	// Advance carries the newest progress of any number of installs.
	Advance struct{ Items []AdvanceItem }

	// FinishInstall ends an install; Error nil means it is complete. The result is a *Task.
	FinishInstall struct {
		TaskID      string
		Generation  uint64
		SessionHash string
		Error       *wire.TaskError
	}

	// ReportUp is an installed system's word from its own disk. The result is a *Task.
	ReportUp struct {
		PhoneToken string
		Hostname   string
		IP         string
	}

	// CancelTask stops a task; an install that runs leaves its disk unfinished.
	CancelTask struct {
		TaskID string
		By     string
	}

	// RetryTask starts an ended task anew under a higher generation.
	RetryTask struct {
		TaskID     string
		By         string
		PhoneToken string
	}

	// DeleteTask forgets a task that is not installing.
	DeleteTask struct{ TaskID string }

	// SettleQuestion answers a clash of ids: the machine takes the rival's ids,
	// or the rival is forgotten. The result is a *Machine.
	SettleQuestion struct {
		MachineID string
		Accept    bool
		// Remember, with a no, keeps the same rival from being asked about again.
		Remember bool `json:",omitempty"`
	}

	// DeleteMachine forgets a machine without an open task.
	DeleteMachine struct{ MachineID string }
)

// AdvanceItem is the progress of one install.
type AdvanceItem struct {
	TaskID     string
	Generation uint64
	Progress   wire.Progress
}

func (PutNode) commandType() string        { return "put_node" }
func (PutImage) commandType() string       { return "put_image" }
func (DeleteImage) commandType() string    { return "delete_image" }
func (ReportMachine) commandType() string  { return "report_machine" }
func (LeaveAgent) commandType() string     { return "leave_agent" }
func (NoteDisplaced) commandType() string  { return "note_displaced" }
func (ServeBoot) commandType() string      { return "serve_boot" }
func (CreateTask) commandType() string     { return "create_task" }
func (DecideTask) commandType() string     { return "decide_task" }
func (StartInstall) commandType() string   { return "start_install" }
func (Advance) commandType() string        { return "advance" }
func (FinishInstall) commandType() string  { return "finish_install" }
func (ReportUp) commandType() string       { return "report_up" }
func (CancelTask) commandType() string     { return "cancel_task" }
func (RetryTask) commandType() string      { return "retry_task" }
func (DeleteTask) commandType() string     { return "delete_task" }
func (SettleQuestion) commandType() string { return "settle_question" }
func (DeleteMachine) commandType() string  { return "delete_machine" }

// bodies decodes each kind of body.
var bodies = map[string]func(json.RawMessage) (Body, error){
	"put_node":        decode[PutNode],
	"put_image":       decode[PutImage],
	"delete_image":    decode[DeleteImage],
	"report_machine":  decode[ReportMachine],
	"leave_agent":     decode[LeaveAgent],
	"note_displaced":  decode[NoteDisplaced],
	"serve_boot":      decode[ServeBoot],
	"create_task":     decode[CreateTask],
	"decide_task":     decode[DecideTask],
	"start_install":   decode[StartInstall],
	"advance":         quickly(decodeAdvance),
	"finish_install":  decode[FinishInstall],
	"report_up":       decode[ReportUp],
	"cancel_task":     decode[CancelTask],
	"retry_task":      decode[RetryTask],
	"delete_task":     decode[DeleteTask],
	"settle_question": decode[SettleQuestion],
	"delete_machine":  decode[DeleteMachine],
	"put_cluster":     decode[PutCluster],
	"raise_epoch":     decode[RaiseEpoch],
	"create_token":    decode[CreateToken],
	"redeem_token":    decode[RedeemToken],
	"seat_node":       decode[SeatNode],
	"remove_node":     decode[RemoveNode],
	"note_leader":     decode[NoteLeader],
	"claim_pool":      decode[ClaimPool],
	"yield_pool":      decode[YieldPool],
	"take_pool":       decode[TakePool],
	"put_policy":      decode[PutPolicy],
	"protect_machine": decode[ProtectMachine],
	"lapse_approval":  decode[LapseApproval],
	"put_grant_key":   decode[PutGrantKey],
	"release_hold":    decode[ReleaseHold],
	"assign_address":  decode[AssignAddress],
	"put_profile":     decode[PutProfile],
	"delete_profile":  decode[DeleteProfile],
	"ask_boot":        decode[AskBoot],
	"cancel_boot":     decode[CancelBoot],
	"lapse_boot":      decode[LapseBoot],
	"take_boot":       decode[TakeBoot],

	"put_user":           decode[PutUser],
	"change_user":        decode[ChangeUser],
	"delete_user":        decode[DeleteUser],
	"create_session":     decode[CreateSession],
	"touch_session":      decode[TouchSession],
	"end_session":        decode[EndSession],
	"create_api_token":   decode[CreateAPIToken],
	"delete_api_token":   decode[DeleteAPIToken],
	"create_code":        decode[CreateCode],
	"redeem_setup":       decode[RedeemSetup],
	"redeem_login":       decode[RedeemLogin],
	"note_failed_logins": decode[NoteFailedLogins],
}
