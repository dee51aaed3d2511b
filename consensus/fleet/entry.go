package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// commandVersion is what commands are written as. Version 1 is read as ever;
// what it asked for was never repeated, so its ids are not kept (see done.go).
const commandVersion = 2

type envelope struct {
	Version int             `json:"v"`
	ID      string          `json:"id"`
	At      time.Time       `json:"at"`
	Type    string          `json:"type"`
	Retry   bool            `json:"retry,omitempty"`
	Since   uint64          `json:"since,omitempty"`
	Data    json.RawMessage `json:"data"`
}

// EncodeEntry gives one entry of the log: a command as it is, several as a list
// that is agreed on at once and applied in order.
func EncodeEntry(cmds []Command) ([]byte, error) {
	switch len(cmds) {
	case 0:
		return nil, errors.New("encode log entry: no commands")
	case 1:
		return cmds[0].Encode()
	}
	out := []byte{'['}
	for i, c := range cmds {
		b, err := c.Encode()
		if err != nil {
			return nil, err
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, b...)
	}
	return append(out, ']'), nil
}

// DecodeEntry reads what EncodeEntry wrote. A kind or version that is not known
// here gives ErrUnknownCommand.
func DecodeEntry(b []byte) ([]Command, error) {
	if b = bytes.TrimLeft(b, " \t\r\n"); len(b) == 0 || b[0] != '[' {
		c, err := DecodeCommand(b)
		if err != nil {
			return nil, err
		}
		return []Command{c}, nil
	}
	var list []envelope
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("decode log entry: %w", err)
	}
	if len(list) == 0 {
		return nil, errors.New("decode log entry: an empty list")
	}
	out := make([]Command, len(list))
	for i, e := range list {
		var err error
		if out[i], err = e.command(); err != nil {
			return nil, fmt.Errorf("command %d of %d: %w", i+1, len(list), err)
		}
	}
	return out, nil
}

// Encode gives the command as it stands in the log.
func (c Command) Encode() ([]byte, error) {
	data, err := json.Marshal(c.Body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.Body.commandType(), err)
	}
	return json.Marshal(envelope{Version: commandVersion, ID: c.ID, At: c.At.UTC(), Type: c.Body.commandType(),
		Retry: c.Retry, Since: c.Since, Data: data})
}

// DecodeCommand reads one command. A kind or version that is not known here
// gives ErrUnknownCommand.
func DecodeCommand(b []byte) (Command, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return Command{}, fmt.Errorf("decode log entry: %w", err)
	}
	return e.command()
}

func (e envelope) command() (Command, error) {
	dec, ok := bodies[e.Type]
	if !ok || e.Version < 1 || e.Version > commandVersion {
		return Command{}, fmt.Errorf("%w (type %q version %d)", ErrUnknownCommand, e.Type, e.Version)
	}
	body, err := dec(e.Data)
	if err != nil {
		return Command{}, fmt.Errorf("decode log entry %s: %w", e.Type, err)
	}
	return Command{Version: e.Version, ID: e.ID, At: e.At.UTC(), Retry: e.Retry, Since: e.Since, Body: body}, nil
}

func decode[T Body](raw json.RawMessage) (Body, error) {
	var b T
	err := json.Unmarshal(raw, &b)
	return b, err
}
