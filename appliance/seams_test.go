package appliance

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lpmos/lpmos/consensus/fleet"
	"github.com/lpmos/lpmos/images"
)

// What an agent is refused ends its install; what it is told to be our trouble is
// asked for again.
func TestWhichTroubleWithChunksEndsAnInstall(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fleet.Code
	}{
		{nil, ""},
		{fmt.Errorf("chunk 70: %w", images.ErrBadRequest), fleet.Invalid},
		{fmt.Errorf("manifest: %w", images.ErrNotFound), fleet.NotFound},
		{fmt.Errorf("chunk 3: %w", images.ErrSourceExhausted), fleet.Precondition},
		{fmt.Errorf("chunk 3: %w", images.ErrCorrupt), fleet.Precondition},
		{fmt.Errorf("manifest: %w", images.ErrNotYet), ""},
		{errors.New("too many open files"), ""},
	} {
		err := chunkError(c.err)
		if got := fleet.ErrorCode(err); got != c.want || (err == nil) != (c.err == nil) {
			t.Errorf("%v becomes %v (%q), want %q", c.err, err, got, c.want)
		}
	}
}
