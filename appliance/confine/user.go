package confine

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
)

// UsualName is the user a node becomes if nobody says.
const UsualName = "lpmos"

// usualID is who a node is where there is no user of that name. It is of the few
// that neither Debian nor systemd hands out (65520 to 65533), so that nobody else
// has files or processes under it.
const usualID = 65527

// User is who a node is to be.
type User struct {
	Name     string // for people
	UID, GID int
}

// Root says whether the user is root.
func (u User) Root() bool { return u.UID == 0 }

// String is the user as errors and logs name it.
func (u User) String() string {
	if u.Name == "" {
		return "user " + strconv.Itoa(u.UID)
	}
	return fmt.Sprintf("user %s (%d)", u.Name, u.UID)
}

// Find gives the user with this name or number; an empty name is the usual user.
func Find(name string) (User, error) {
	asked := name
	if name == "" {
		name = UsualName
	}
	found, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		id, notNumber := strconv.ParseUint(name, 10, 31)
		switch {
		case asked == "":
			id = usualID
		case notNumber != nil:
			return User{}, fmt.Errorf("user: there is no user %q on this host: make it, or write the number of one", asked)
		}
		named, err := user.LookupId(strconv.FormatUint(id, 10))
		switch {
		case err == nil && asked == "":
			return User{}, fmt.Errorf("user: there is no user %s on this host, and %d, which it would get, is %s: make it (useradd --system %s), or say with user who the node is to be", UsualName, id, named.Username, UsualName)
		case err != nil:
			return User{UID: int(id), GID: int(id)}, nil
		}
		found = named
	} else if err != nil {
		return User{}, fmt.Errorf("user: %w", err)
	}
	uid, err := strconv.Atoi(found.Uid)
	gid, gidErr := strconv.Atoi(found.Gid)
	if err := errors.Join(err, gidErr); err != nil {
		return User{}, fmt.Errorf("user %s: %w", name, err)
	}
	return User{Name: found.Username, UID: uid, GID: gid}, nil
}

// Current is who this process is.
func Current() User { return User{UID: os.Geteuid(), GID: os.Getegid()} }
