package fleet

import (
	"errors"
	"fmt"
)

// Code says what kind of refusal an Error is; edges map it to a status once.
type Code string

// The kinds of refusal.
const (
	Invalid      Code = "invalid"      // the request makes no sense as it is
	NotFound     Code = "not_found"    // the thing named does not exist
	Conflict     Code = "conflict"     // not in this state
	Precondition Code = "precondition" // what was approved is not what is there now
	Uncertain    Code = "uncertain"    // repeated too late to know whether it was done before
)

// Error is a refusal by a rule. Nothing was changed.
type Error struct {
	Code    Code
	Message string   // a sentence naming machine or task
	Field   string   // the field at fault, if one is
	Changed []string // with Precondition: what is different now, in sentences
}

func (e *Error) Error() string { return e.Message }

// ErrorCode is the code of a refusal, or "" for any other error.
func ErrorCode(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func invalid(field, format string, args ...any) *Error {
	return &Error{Code: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}
