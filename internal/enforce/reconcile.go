package enforce

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// reconcileRetry is how long after a failure reconcile runs again.
const reconcileRetry = 30 * time.Second

// reconcile applies the wanted rules if they differ from the active ones, and logs the sentence
// why. After a failure it runs again after reconcileRetry. Each source (a survey, a list) stores
// its newest value, and then Run calls reconcile.
func (e *Enforcer) reconcile(ctx context.Context, why string) {
	if ctx.Err() != nil {
		return
	}
	if _, ok := e.surveys.newest(); !ok {
		return // without an allowlist no rules may be applied; the first survey calls reconcile
	}
	if e.active.rules == nil && e.lists().Len()+e.own.list.Len() == 0 {
		return // there are no lists yet
	}
	switch want := e.wanted(); {
	case e.active.rules == nil && e.lists().Len() == 0:
		return // the only list is the operator's, and it is rejected
	case want.equal(e.active.rules):
		if e.attempts.stale != nil { // the host changed back
			e.attempts.stale = nil
			e.publish()
		}
		return
	case e.attempts.stale == nil:
		e.o.Log.Info(why)
	}
	if err := e.applyWanted(ctx); err != nil && ctx.Err() == nil {
		if r, ok := errors.AsType[*RollbackError](err); !ok || !r.Again { // that would be logged at every retry
			e.o.Log.Warn("The active rules lack the newest allowlist or custom blacklist; retrying soon",
				zap.Error(err))
		}
		e.widen(ctx)
		e.attempts.stale = err
		e.setError(err, status.ApplyError)
		e.publish()
		e.reconcileLater()
	}
}

// widen adds the newest allowlist to the active rules if the wanted rules were rejected as a whole.
// The addresses that this host depends on are let through in any case.
func (e *Enforcer) widen(ctx context.Context) {
	if e.active.rules == nil || e.trials.rejected == nil {
		return
	}
	allow := e.allowed()
	wide := desired{block: e.active.rules.block.Without(allow), allow: e.active.rules.allow.Union(allow)}
	if wide.equal(e.active.rules) {
		return
	}
	if err := e.apply(ctx, wide); err != nil && ctx.Err() == nil {
		e.o.Log.Warn("The allowlist cannot be widened", zap.Error(err))
	}
}

// reconcileLater has reconcile called once after reconcileRetry, however often it is called itself.
func (e *Enforcer) reconcileLater() {
	if t := e.attempts.reconcile; t != nil {
		t.Reset(reconcileRetry)
		return
	}
	e.attempts.reconcile = time.AfterFunc(reconcileRetry, func() { offer(e.surveys.newsC, struct{}{}) })
}
