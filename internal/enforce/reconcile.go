package enforce

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// reconcileRetry is how long after a failure the whitelist is brought up to date once more.
const reconcileRetry = 30 * time.Second

// reconcile puts the rules that are wanted now in force, if others are. That is logged by the
// sentence why. If it fails it is tried again after reconcileRetry. A source (a survey, a list) delivers
// its newest value and then has this called by the enforcing task.
func (e *Enforcer) reconcile(ctx context.Context, why string) {
	if ctx.Err() != nil {
		return
	}
	if _, ok := e.surveys.newest(); !ok {
		return // without an allowlist nothing may be put in force; the first survey calls this
	}
	if e.active.rules == nil && e.lists().Len()+e.own.list.Len() == 0 {
		return // there is nothing to enforce yet
	}
	switch want := e.wanted(); {
	case e.active.rules == nil && e.lists().Len() == 0:
		return // the operator's list is the only one, and is rejected
	case want.equal(e.active.rules):
		if e.attempts.stale != nil { // the change that could not be followed was taken back
			e.attempts.stale = nil
			e.publish()
		}
		return
	case e.attempts.stale == nil:
		e.o.Log.Info(why)
	}
	if err := e.applyWanted(ctx); err != nil && ctx.Err() == nil {
		if r, ok := errors.AsType[*RollbackError](err); !ok || !r.Again { // which would be logged every time
			e.o.Log.Warn("The rules in force lack the newest whitelist or custom blacklist; tried again soon", zap.Error(err))
		}
		e.widen(ctx)
		e.attempts.stale = err
		e.setError(err, status.ApplyError)
		e.publish()
		e.reconcileLater()
	}
}

// widen adds the allowlist that is wanted to the one in force, if the rules that are wanted as a whole
// were rejected: the addresses that this host depends on now are let through in any case.
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
		e.o.Log.Warn("The safety whitelist cannot be widened", zap.Error(err))
	}
}

// reconcileLater has reconcile called after reconcileRetry, once, however often it is asked for.
func (e *Enforcer) reconcileLater() {
	if t := e.attempts.reconcile; t != nil {
		t.Reset(reconcileRetry)
		return
	}
	e.attempts.reconcile = time.AfterFunc(reconcileRetry, func() { offer(e.surveys.newsC, struct{}{}) })
}
