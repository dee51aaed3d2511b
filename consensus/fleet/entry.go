package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// commandVersion is what commands are written as. The older ones are read as ever.
// What version 1 asked for was never repeated, so its ids are not kept (see
// done.go); what version 2 did is told in the audit in fewer words (see audit.go), and
// did without what guard.go asks for. A node that goes by less has to stop at an
// entry of a newer version.
const commandVersion = 3

type envelope struct {
	Version int             `json:"v"`
	ID      string          `json:"id"`
	At      time.Time       `json:"at"`
	Type    string          `json:"type"`
	Retry   bool            `json:"retry,omitempty"`
	Since   uint64          `json:"since,omitempty"`
	From    string          `json:"from,omitempty"`
	Actor   string          `json:"actor,omitempty"`
	ActorID string          `json:"actor_id,omitempty"`
	Role    string          `json:"actor_role,omitempty"`
	ByToken bool            `json:"by_token,omitempty"`
	Data    json.RawMessage `json:"data"`
}

// An entry is one command, or several that are agreed on at once and applied in
// order. One is its JSON. Several are each their length in decimal digits, a colon
// and their JSON, behind a mark that no JSON begins with: a reader finds where
// each ends without looking at what it holds.
const several = '#'

// EncodeEntry gives one entry of the log.
func EncodeEntry(cmds []Command) ([]byte, error) {
	all := make([][]byte, len(cmds))
	for i, c := range cmds {
		var err error
		if all[i], err = c.Encode(); err != nil {
			return nil, err
		}
	}
	return JoinEntries(all...)
}

// JoinEntries makes one entry of the commands of several.
func JoinEntries(entries ...[]byte) ([]byte, error) {
	switch len(entries) {
	case 0:
		return nil, errors.New("join log entries: there are none")
	case 1:
		return entries[0], nil
	}
	size := 1
	for _, e := range entries {
		size += len(e) + 8
	}
	out := append(make([]byte, 0, size), several)
	for _, e := range entries {
		if len(e) > 0 && e[0] == several {
			out = append(out, e[1:]...)
			continue
		}
		out = strconv.AppendInt(out, int64(len(e)), 10)
		out = append(append(out, ':'), e...)
	}
	return out, nil
}

// DecodeEntry reads what EncodeEntry wrote. A kind or version that is not known
// here gives ErrUnknownCommand.
func DecodeEntry(b []byte) ([]Command, error) {
	if len(b) == 0 || b[0] != several {
		c, err := DecodeCommand(b)
		if err != nil {
			return nil, err
		}
		return []Command{c}, nil
	}
	var out []Command
	for rest := b[1:]; len(rest) > 0; {
		digits, after, ok := bytes.Cut(rest, []byte{':'})
		n, err := strconv.Atoi(string(digits))
		if !ok || err != nil || n < 1 || n > len(after) || strconv.Itoa(n) != string(digits) {
			return nil, fmt.Errorf("decode log entry: command %d has no length", len(out)+1)
		}
		c, err := DecodeCommand(after[:n])
		if err != nil {
			return nil, fmt.Errorf("command %d: %w", len(out)+1, err)
		}
		out, rest = append(out, c), after[n:]
	}
	if len(out) < 2 {
		return nil, errors.New("decode log entry: fewer than two commands where several should be")
	}
	return out, nil
}

// Encode gives the command as it stands in the log: the JSON of an envelope, with
// its fields in this order.
func (c Command) Encode() ([]byte, error) {
	data, err := encodeBody(c.Body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.Body.commandType(), err)
	}
	id, err := json.Marshal(c.ID)
	if err != nil {
		return nil, err
	}
	at, err := c.At.UTC().MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", c.Body.commandType(), err)
	}
	out := make([]byte, 0, len(data)+len(id)+len(at)+96)
	out = append(out, `{"v":`...)
	out = strconv.AppendInt(out, commandVersion, 10)
	out = append(append(out, `,"id":`...), id...)
	out = append(append(out, `,"at":`...), at...)
	out = append(append(append(out, `,"type":"`...), c.Body.commandType()...), '"')
	if c.Retry {
		out = append(out, `,"retry":true`...)
	}
	if c.Since > 0 {
		out = strconv.AppendUint(append(out, `,"since":`...), c.Since, 10)
	}
	for _, origin := range []struct{ name, value string }{{`,"from":`, c.From}, {`,"actor":`, c.Actor},
		{`,"actor_id":`, c.ActorID}, {`,"actor_role":`, string(c.ActorRole)}} {
		if origin.value == "" {
			continue
		}
		value, err := json.Marshal(origin.value)
		if err != nil {
			return nil, err
		}
		out = append(append(out, origin.name...), value...)
	}
	if c.ByToken {
		out = append(out, `,"by_token":true`...)
	}
	out = append(append(out, `,"data":`...), data...)
	return append(out, '}'), nil
}

// DecodeCommand reads one command. A kind or version that is not known here
// gives ErrUnknownCommand.
func DecodeCommand(b []byte) (Command, error) {
	if e, ok := decodeEnvelope(b); ok {
		return e.command()
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return Command{}, fmt.Errorf("decode log entry: %w", err)
	}
	return e.command()
}

// decodeEnvelope reads an envelope that looks just as Encode writes it, which is nearly
// every one: the general reader goes over the data three times. ok is false for
// any other, which may be as good.
func decodeEnvelope(b []byte) (e envelope, ok bool) {
	const head = `{"v":3,"id":"`
	const digit = len(`{"v":`)
	if len(b) < len(head)+2 || string(b[:digit]) != head[:digit] || string(b[digit+1:len(head)]) != head[digit+1:] || b[len(b)-1] != '}' {
		return e, false
	}
	if e.Version = int(b[digit] - '0'); e.Version != 2 && e.Version != 3 {
		return e, false
	}
	rest := b[len(head):]
	text := func(until string) (string, bool) {
		i := bytes.Index(rest, []byte(until))
		if i < 0 {
			return "", false
		}
		v := rest[:i]
		for _, c := range v {
			if c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
				return "", false
			}
		}
		rest = rest[i+len(until):]
		return string(v), true
	}
	if e.ID, ok = text(`","at":"`); !ok {
		return e, false
	}
	at, ok := text(`","type":"`)
	if !ok || e.At.UnmarshalText([]byte(at)) != nil {
		return e, false
	}
	if e.Type, ok = text(`",`); !ok {
		return e, false
	}
	if after, found := bytes.CutPrefix(rest, []byte(`"retry":true,`)); found {
		e.Retry, rest = true, after
	}
	if after, found := bytes.CutPrefix(rest, []byte(`"since":`)); found {
		digits, behind, found := bytes.Cut(after, []byte{','})
		n, err := strconv.ParseUint(string(digits), 10, 64)
		if !found || err != nil || strconv.FormatUint(n, 10) != string(digits) {
			return e, false
		}
		e.Since, rest = n, behind
	}
	for _, origin := range []struct {
		name  string
		value *string
	}{{`"from":"`, &e.From}, {`"actor":"`, &e.Actor}, {`"actor_id":"`, &e.ActorID}, {`"actor_role":"`, &e.Role}} {
		after, found := bytes.CutPrefix(rest, []byte(origin.name))
		if !found {
			continue
		}
		rest = after
		if *origin.value, ok = text(`",`); !ok {
			return e, false
		}
	}
	if after, found := bytes.CutPrefix(rest, []byte(`"by_token":true,`)); found {
		e.ByToken, rest = true, after
	}
	data, found := bytes.CutPrefix(rest, []byte(`"data":`))
	if !found || len(data) < 2 || data[0] != '{' {
		return e, false
	}
	e.Data = data[:len(data)-1] // what follows it is the last brace; decoding it finds out
	return e, true
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
	return Command{Version: e.Version, ID: e.ID, At: e.At.UTC(), Retry: e.Retry, Since: e.Since, From: e.From, Actor: e.Actor,
		ActorID: e.ActorID, ActorRole: Role(e.Role), ByToken: e.ByToken, Body: body}, nil
}

func decode[T Body](raw json.RawMessage) (Body, error) {
	var b T
	err := json.Unmarshal(raw, &b)
	return b, err
}

// quickly tries a reader of its own kind before the general one.
func quickly[T Body](read func([]byte) (T, bool)) func(json.RawMessage) (Body, error) {
	return func(raw json.RawMessage) (Body, error) {
		if b, ok := read(raw); ok {
			return b, nil
		}
		return decode[T](raw)
	}
}
