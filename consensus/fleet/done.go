package fleet

import (
	"errors"
	"strings"
)

// maxDone is how many commands the state remembers to have done.
const maxDone = 16_384

// window remembers the newest commands by their id, with what was answered. A
// node that did not hear the answer asks again under the same id, on another
// node or after an election, and the effect is not doubled.
type window struct {
	byID  map[string]*deed
	order []*deed // the oldest first
	// floor is the index up to which deeds may have been forgotten. What was asked
	// for first at or behind it is in the window if it was done at all.
	floor uint64
}

// deed is one command that was done, with its answer: a refusal, or the name of
// the result. What the name stands for is looked up when it is asked for again.
type deed struct {
	ID    string   `json:"id"`
	Index uint64   `json:"i"`
	Kind  string   `json:"k,omitempty"` // of the result
	Name  string   `json:"n,omitempty"` // of the result
	Error *refusal `json:"e,omitempty"`
}

// refusal is an Error as it is kept.
type refusal struct {
	Code    Code     `json:"code,omitempty"`
	Message string   `json:"message"`
	Field   string   `json:"field,omitempty"`
	Changed []string `json:"changed,omitempty"`
}

// counts reports whether the command's id is kept. A log of version 1 was
// written by a node that was alone and repeated nothing. Leaving its ids out by
// what the log says gives the same state to a node that reads that log and to one
// that begins with a snapshot made then.
func (c Command) counts() bool { return c.ID != "" && c.Version != 1 }

func (w *window) keep(d *deed) {
	w.byID[d.ID] = d
	w.order = append(w.order, d)
	if len(w.order) > maxDone {
		oldest := w.order[0]
		w.order[0] = nil // the array behind the slice lives on
		w.order = w.order[1:]
		delete(w.byID, oldest.ID)
		w.floor = oldest.Index
	}
}

// restore puts back a part of the window, in the order it was written in.
func (w *window) restore(r *doneRecord) error {
	for _, d := range r.Deeds {
		if d == nil || d.ID == "" || w.byID[d.ID] != nil || len(w.order) == maxDone {
			return errors.New("a command that was done is nameless, there twice or one too many")
		}
		w.byID[d.ID] = d
		w.order = append(w.order, d)
	}
	w.floor = r.Floor
	return nil
}

func deedOf(index uint64, c Command, result any, err error) *deed {
	d := &deed{ID: c.ID, Index: index}
	if err != nil {
		d.Error = &refusal{Message: cut(err.Error())}
		var e *Error
		if errors.As(err, &e) {
			d.Error.Code, d.Error.Field = e.Code, cut(e.Field)
			for _, ch := range e.Changed {
				d.Error.Changed = append(d.Error.Changed, cut(ch))
			}
		}
		return d
	}
	switch c.Body.(type) {
	case DeleteImage: // nothing is left to look up
		return d
	}
	switch v := result.(type) {
	case *Task:
		d.Kind, d.Name = "task", nameOf(v, func() string { return v.ID })
	case *Machine:
		d.Kind, d.Name = "machine", nameOf(v, func() string { return v.ID })
	case *Profile:
		d.Kind, d.Name = "profile", nameOf(v, func() string { return v.Name })
	case *Image:
		d.Kind, d.Name = "image", nameOf(v, func() string { return v.Name })
	case *Node:
		d.Kind, d.Name = "node", nameOf(v, func() string { return v.ID })
	case *Cluster:
		d.Kind, d.Name = "cluster", nameOf(v, func() string { return v.ID })
	case *Token:
		d.Kind, d.Name = "token", nameOf(v, func() string { return v.ID })
	case *Policy:
		d.Kind = "policy"
	case *Pool:
		d.Kind, d.Name = "pool", nameOf(v, func() string { return v.Network })
	case *User:
		d.Kind, d.Name = "user", nameOf(v, func() string { return v.ID })
	case *Session:
		d.Kind, d.Name = "session", nameOf(v, func() string { return v.ID })
	case *APIToken:
		d.Kind, d.Name = "API token", nameOf(v, func() string { return v.ID })
	case *OneUseCode:
		d.Kind, d.Name = "code", nameOf(v, func() string { return v.ID })
	}
	return d
}

// nameOf is the name of a result, "" for none.
func nameOf[T any](v *T, name func() string) string {
	if v == nil {
		return ""
	}
	return name()
}

// Outcome is what was answered to the command of that id, if it was done lately.
func (s *State) Outcome(id string) (result any, err error, done bool) {
	d := s.done.byID[id]
	if d == nil {
		return nil, nil, false
	}
	result, err = s.answer(d)
	return result, err, true
}

// answer gives what was answered when the command was done. A result is what it
// is now.
func (s *State) answer(d *deed) (any, error) {
	if e := d.Error; e != nil {
		return nil, &Error{Code: e.Code, Message: e.Message, Field: e.Field, Changed: e.Changed}
	}
	switch d.Kind {
	case "task":
		if t := s.Task(d.Name); t != nil || d.Name == "" {
			return t, nil
		}
		return nil, gone(d)
	case "machine":
		return present(s.machines, d)
	case "image":
		return present(s.images, d)
	case "profile":
		return present(s.profiles, d)
	case "node":
		return present(s.nodes, d)
	case "token":
		return present(s.tokens, d)
	case "pool":
		return present(s.pools, d)
	case "policy":
		p := s.Policy()
		return &p, nil
	case "user":
		return present(s.users, d)
	case "session":
		return present(s.sessions, d)
	case "API token":
		return present(s.apiTokens, d)
	case "code":
		return present(s.codes, d)
	case "cluster":
		if s.cluster == nil {
			return nil, gone(d)
		}
		return s.cluster, nil
	}
	return nil, nil
}

func present[T any](m map[string]*T, d *deed) (any, error) {
	v := m[d.Name]
	if v == nil && d.Name != "" {
		return nil, gone(d)
	}
	return v, nil
}

func gone(d *deed) error {
	return refuse(NotFound, "this was done before, and %s %s has been deleted since", d.Kind, d.Name)
}

// cut bounds a sentence that is kept.
func cut(s string) string {
	if len(s) <= maxSentence {
		return s
	}
	return strings.ToValidUTF8(s[:maxSentence-len("…")], "") + "…"
}
