package agent

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.uber.org/zap/zapcore"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestBadStateDirIsLoggedOnce checks that every part that uses an unusable state directory fails,
// and that one warning has the reason.
func TestBadStateDirIsLoggedOnce(t *testing.T) {
	t.Parallel()
	a, logs := logged(t, "SIKKER_STATE_DIR=/dev/null")
	a.supervisor.open(a.commands)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(a.enforcer.Run(ctx), a.delivery.recorder.Run(ctx)); err != nil {
		t.Fatal(err)
	}
	warnings := logs.FilterLevelExact(zapcore.WarnLevel).All()
	if len(warnings) != 1 || warnings[0].Message != status.Message(status.CondStateDir) {
		t.Fatalf("warnings: %v", warnings)
	}
	detail, _ := warnings[0].ContextMap()["detail"].(string)
	if !strings.Contains(detail, "SIKKER_STATE_DIR must be a directory") {
		t.Errorf("it says %q", detail)
	}
	for _, code := range []status.Code{status.CondStateDir, status.CondControl, status.CondDatabase} {
		if !a.board.Latest().Holds(code) {
			t.Errorf("%s does not hold", code)
		}
	}
}
