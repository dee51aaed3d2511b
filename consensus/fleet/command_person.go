package fleet

import "time"

// What concerns people, as against machines and nodes.
type (
	// PutUser makes a user. The first is an admin. The result is a *User.
	PutUser struct {
		ID           string // u- and 16 hex digits
		Name         string
		Role         Role
		PasswordHash Secret // PHC text, or empty
		By           string
	}

	// ChangeUser changes what is not nil. A new role or password, or to be disabled,
	// ends the user's sessions. The result is a *User.
	ChangeUser struct {
		ID           string
		Role         *Role   `json:",omitempty"`
		PasswordHash *Secret `json:",omitempty"`
		Disabled     *bool   `json:",omitempty"`
		By           string
	}

	// DeleteUser forgets a user, with sessions, tokens and login links.
	DeleteUser struct{ ID, By string }

	// CreateSession is a sign-in whose password was right. The result is a *Session.
	CreateSession struct {
		SecretHash Secret
		UserID     string
		From       string
		ExpiresAt  time.Time // at most SessionLife from now; zero means that
		// Checked is HashSecret of the hash that the password was compared with. To check
		// takes a while, in which the password may have been changed. Empty: not asked.
		Checked Secret `json:",omitempty"`
	}

	// TouchSession says that a session is in use. The result is a *Session.
	TouchSession struct{ SecretHash Secret }

	// EndSession ends a session, which is named by its hash or by its id. One that
	// has ended already is no error.
	EndSession struct {
		SecretHash Secret `json:",omitempty"`
		ID         string `json:",omitempty"`
		By         string
	}

	// CreateAPIToken makes a token for a program. The result is an *APIToken.
	CreateAPIToken struct {
		ID         string
		Name       string
		SecretHash Secret
		Role       Role
		UserID     string `json:",omitempty"` // whose it is, if it is somebody's
		ExpiresAt  time.Time
		By         string
	}

	// DeleteAPIToken ends a token.
	DeleteAPIToken struct{ ID, By string }

	// CreateCode makes a code that can be used once. A setup code is made only while
	// there is no user. The result is a *OneUseCode.
	CreateCode struct {
		ID         string
		Kind       string
		SecretHash Secret
		UserID     string `json:",omitempty"` // of a login; empty: for no user
		Role       Role   `json:",omitempty"` // of a login for no user
		ExpiresAt  time.Time
		By         string
	}

	// RedeemSetup uses a setup code to make the first user, an admin. However many
	// try, one succeeds. The result is a *User.
	RedeemSetup struct {
		SecretHash Secret
		User       PutUser
	}

	// RedeemLogin uses a login link. Whose session it is, the link says. The result
	// is a *Session.
	RedeemLogin struct {
		SecretHash Secret
		Session    CreateSession
	}

	// NoteFailedLogins records sign-ins that were refused, as many as there were
	// since it was last told. What is told of a name again within a minute is left out.
	NoteFailedLogins struct{ Items []FailedLogins }

	// FailedLogins are those with one name.
	FailedLogins struct {
		Name  string
		From  string // the last
		Count int
	}
)

func (PutUser) commandType() string          { return "put_user" }
func (ChangeUser) commandType() string       { return "change_user" }
func (DeleteUser) commandType() string       { return "delete_user" }
func (CreateSession) commandType() string    { return "create_session" }
func (TouchSession) commandType() string     { return "touch_session" }
func (EndSession) commandType() string       { return "end_session" }
func (CreateAPIToken) commandType() string   { return "create_api_token" }
func (DeleteAPIToken) commandType() string   { return "delete_api_token" }
func (CreateCode) commandType() string       { return "create_code" }
func (RedeemSetup) commandType() string      { return "redeem_setup" }
func (RedeemLogin) commandType() string      { return "redeem_login" }
func (NoteFailedLogins) commandType() string { return "note_failed_logins" }
