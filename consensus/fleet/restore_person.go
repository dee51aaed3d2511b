package fleet

import "fmt"

// A snapshot that is damaged here could let somebody in, so nothing is taken that
// the rules would not have made.

func (s *State) restoreUser(u *User) error {
	if !validUserName(u.Name) || !u.Role.Valid() || !validPassword(u.PasswordHash) || s.UserByName(u.Name) != nil || len(s.users) == maxUsers {
		return fmt.Errorf("user %.40q has no name, role or password that a user could have, or is there twice", u.ID)
	}
	return putOnce("user", s.users, u.ID, u)
}

func (s *State) restoreSession(v *Session) error {
	if !v.SecretHash.isHash() || v.ID != sessionID(v.SecretHash) || !s.restoredHolder(v.UserID, v.Role) ||
		v.ExpiresAt.After(v.CreatedAt.Add(SessionLife)) || len(s.sessions) == maxSessions {
		return fmt.Errorf("session %.40q is nobody's, or not as a session is", v.ID)
	}
	return putOnce("session", s.sessions, v.ID, v)
}

func (s *State) restoreAPIToken(v *APIToken) error {
	u := s.users[v.UserID]
	if !v.SecretHash.isHash() || s.secretInUse(v.SecretHash) || !v.Role.Valid() || v.UserID != "" && (u == nil || u.Disabled || !u.Role.AtLeast(v.Role)) ||
		v.ExpiresAt.After(v.CreatedAt.Add(maxTokenLife)) || len(s.apiTokens) == maxAPITokens {
		return fmt.Errorf("API token %.40q may do what it may not, or is not as a token is", v.ID)
	}
	return putOnce("API token", s.apiTokens, v.ID, v)
}

func (s *State) restoreCode(v *OneUseCode) error {
	good := v.Kind == CodeLogin && s.restoredHolder(v.UserID, v.Role) ||
		v.Kind == CodeSetup && v.UserID == "" && v.Role == "" && (!s.HasUsers() || !v.UsedAt.IsZero())
	if !good || !v.SecretHash.isHash() || s.secretInUse(v.SecretHash) || v.ExpiresAt.After(v.CreatedAt.Add(maxCodeLife)) || len(s.codes) == maxCodes {
		return fmt.Errorf("code %.40q is for nothing, or not as a code is", v.ID)
	}
	return putOnce("code", s.codes, v.ID, v)
}

// restoredHolder reports whether what somebody holds is a user's who may sign in,
// or nobody's and says what it may.
func (s *State) restoredHolder(userID string, role Role) bool {
	if userID == "" {
		return role.Valid()
	}
	u := s.users[userID]
	return u != nil && !u.Disabled && role == ""
}

// peopleRestored checks what can be seen only when all are there.
func (s *State) peopleRestored() error {
	if !s.HasUsers() {
		return nil
	}
	for _, u := range s.users {
		if u.Role == Admin && !u.Disabled {
			return nil
		}
	}
	return fmt.Errorf("read snapshot: there are %d users and no admin who could sign in", len(s.users))
}
