package enforce

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// enforceLoop is what the enforcing loop remembers when a panic ends it and it is started again.
type enforceLoop struct {
	next    *clock.Alarm // the next pull
	begun   bool         // the loop ran before
	pulls   bool         // the first pull was begun, or waits for next
	running bool         // that the agent runs was logged
	taking  *turn        // the turn that is being taken; nil for none
}

// beginEnforcing puts the kept list in force and begins the first pull.
func (e *Enforcer) beginEnforcing(ctx context.Context, l *enforceLoop) {
	e.restore(ctx)
	offer(e.readyC, struct{}{})
	e.restoreRefused()
	first := e.firstPull()
	l.pulls = true
	if first == 0 {
		e.begin(ctx, order{})
		return
	}
	l.next.Reset(first)
	l.running = true
	e.log.Info("The first pull waits: most of the quota is spent, and the kept list is in force", zap.Duration("in", first.Round(time.Second)))
	e.setStatus(func(s *status.Status) { s.NextPullAt = e.clock.After(first) })
	e.tellRunning()
}

// resume goes on after a panic of the loop. The kernel may hold something else than the loop remembers,
// so that is put in force and verified. A turn that was being taken is lost: its askers are told so,
// and the next pull comes later, because its list may be why.
func (e *Enforcer) resume(ctx context.Context, l *enforceLoop) {
	offer(e.readyC, struct{}{})
	if t := l.taking; t != nil {
		l.taking = nil
		for _, c := range t.order.askers {
			select {
			case c <- Outcome{Text: "A fault of SikkerGuard itself ended this pull: see the log"}:
			default: // it was told before
			}
		}
		l.next.Reset(max(retryRefused, e.spareQuota()))
	}
	switch {
	case !l.pulls: // the kept list or the refused one is why
		l.pulls = true
		e.begin(ctx, order{})
	case !e.busy:
		e.end(ctx) // which begins the pull that was asked for meanwhile
	}
	if !e.o.DryRun && e.enforced != nil {
		if _, err := e.enact(ctx, *e.enforced); err != nil && ctx.Err() == nil {
			e.repair.lost(err)
		}
	}
	e.publish()
}
