package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestBadStateDirIsToldOnce: everything that uses the state directory fails with it, and one warning
// says why.
func TestBadStateDirIsToldOnce(t *testing.T) {
	t.Parallel()
	a, logs := logged(t, "SIKKER_STATE_DIR=/dev/null")
	a.tryOpen(a.helpers.control)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(a.enforcer.Run(ctx), a.recorder.Run(ctx)); err != nil {
		t.Fatal(err)
	}
	told := logs.FilterLevelExact(zapcore.WarnLevel).All()
	if len(told) != 1 || told[0].Message != status.Message(status.CondStateDir) {
		t.Fatalf("warnings: %v", told)
	}
	if detail, _ := told[0].ContextMap()["detail"].(string); !strings.Contains(detail, "SIKKER_STATE_DIR must be a directory") {
		t.Errorf("it says %q", detail)
	}
	for _, code := range []status.Code{status.CondStateDir, status.CondControl, status.CondDatabase} {
		if !a.board.Latest().Holds(code) {
			t.Errorf("%s does not hold", code)
		}
	}
}
