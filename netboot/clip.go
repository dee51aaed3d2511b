package netboot

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// clip makes a value from the wire fit for a log line: short, and without what
// would steer the terminal that somebody reads it on.
func clip(s string) string {
	more := ""
	if len(s) > 80 {
		s, more = s[:80], "…"
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s) + more
}
