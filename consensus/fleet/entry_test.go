package fleet

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// The quick reader and the general one must mean the same, or nodes of different
// versions could differ.
func TestTheQuickReaderReadsWhatTheGeneralOneReads(t *testing.T) {
	quick := 0
	for _, entry := range readLog(t, keptLogs[len(keptLogs)-1]) {
		cmds, err := DecodeEntry(entry)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range cmds {
			raw, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			var want envelope
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatalf("%s is no JSON: %v", raw, err)
			}
			got, ok := decodeEnvelope(raw)
			if ok {
				quick++
			}
			if ok && !reflect.DeepEqual(got, want) {
				t.Errorf("%s is read as %+v, want %+v", raw, got, want)
			}
		}
	}
	if quick == 0 {
		t.Error("nothing is read quickly")
	}
	odd := Command{ID: `a"b\ü`, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Body: DeleteTask{TaskID: `t","id":"x`}}
	raw, err := odd.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeCommand(raw); err != nil || back.ID != odd.ID || back.Body != odd.Body {
		t.Errorf("%s is read as %+v (%v)", raw, back, err)
	}
}
