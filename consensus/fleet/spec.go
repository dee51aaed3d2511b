package fleet

import (
	"fmt"
	"strings"
)

// ImageName is the image a spec asks for: "debian-12" for debian and 12.
func (sp Spec) ImageName() string {
	if sp.OSVersion == "" {
		return sp.OSType
	}
	return sp.OSType + "-" + sp.OSVersion
}

// ValidName is the grammar of names that end up in paths, scripts and screens.
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i, r := range s {
		alnum := r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
		if !alnum && (i == 0 || (r != '.' && r != '-' && r != '_')) {
			return false
		}
	}
	return true
}

// ValidHostname is one label of RFC 1123.
func ValidHostname(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}

// CheckTask reports why a new task for the machine with this MAC would be
// refused: an *Error that names the field at fault (Invalid), or the open task in
// its way (Conflict). It is nil if such a task can be made now.
func (s *State) CheckTask(mac string, sp Spec) error {
	lower := strings.ToLower(mac)
	if !validMAC(lower) {
		return invalid("target_mac", "%q is no MAC address; write it as 52:54:00:12:34:56", mac)
	}
	if err := s.checkSpec(sp); err != nil {
		return err
	}
	if open := s.TaskForMAC(lower); open != nil {
		return refuse(Conflict, "machine %s already has open task %s (%s); cancel it first", lower, open.ID, open.Status)
	}
	return nil
}

func (s *State) checkSpec(sp Spec) error {
	if sp.OSType == "" {
		return invalid("os_type", "a task needs an os_type, for instance debian")
	}
	if s.images[sp.ImageName()] == nil {
		var have []string
		for _, i := range s.Images() {
			have = append(have, i.Name)
		}
		if len(have) == 0 {
			return invalid("os_type", "there is no image %s; no image has been imported yet (lpmos image import FILE --name %s)", sp.ImageName(), sp.ImageName())
		}
		return invalid("os_type", "there is no image %s; there are: %s", sp.ImageName(), strings.Join(have, ", "))
	}
	if h := sp.NetworkConfig.Hostname; h != "" && !ValidHostname(h) {
		return invalid("network_config.hostname", "hostname %q: use letters, digits and dashes, 63 at most", h)
	}
	for i, k := range sp.NetworkConfig.SSHKeys {
		if strings.ContainsAny(k, "\r\n\x00") || len(k) > 8192 || len(strings.Fields(k)) < 2 {
			return invalid(fmt.Sprintf("network_config.ssh_keys[%d]", i), "this is no line of an authorized_keys file")
		}
	}
	if len(sp.UserData) > 64<<10 {
		return invalid("user_data", "user data of %d bytes; 65536 at most", len(sp.UserData))
	}
	if len(sp.NetworkConfig.Config) > 64<<10 {
		return invalid("network_config.config", "network config of %d bytes; 65536 at most", len(sp.NetworkConfig.Config))
	}
	return nil
}

func validMAC(mac string) bool {
	if len(mac) != 17 {
		return false
	}
	for i, r := range mac {
		if i%3 == 2 {
			if r != ':' {
				return false
			}
		} else if !(r >= '0' && r <= '9' || r >= 'a' && r <= 'f') {
			return false
		}
	}
	return true
}
