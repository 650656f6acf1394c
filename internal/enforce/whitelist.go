package enforce

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// adaptAgain is how long after a failure the whitelist is brought up to date once more.
const adaptAgain = 30 * time.Second

// takeSurvey logs the problems of the newest survey, each once while it lasts, and reconciles.
func (e *Enforcer) takeSurvey(ctx context.Context) {
	v, ok := e.surveys.newest()
	if !ok {
		return
	}
	var problems []string
	for _, p := range v.white.Problems {
		problems = append(problems, p.Error())
		if !slices.Contains(e.allow.problems, p.Error()) && ctx.Err() == nil {
			e.o.Log.Warn("Safety whitelist is not complete", zap.Error(p))
		}
	}
	e.allow.problems = problems
	e.setCondition(status.CondSurvey, errors.Join(v.white.Problems...))
	e.admit(ctx)
	changed := v.white.Changed(e.allow.survey)
	e.allow.survey = v.white
	e.saveNames()
	e.reconcile(ctx, cmp.Or(changed, "The safety whitelist changed"))
}

// allowed composes the allowlist: the finds of the newest survey, with the operator's entries, and
// the exemptions. It logs the survey's part if that differs from the one that was logged last.
func (e *Enforcer) allowed() blocklist.Blocklist {
	v, ok := e.surveys.newest()
	if !ok {
		return blocklist.Blocklist{}
	}
	w := v.white
	first := e.allow.lines == ""
	if lines := w.String() + w.Kinds(); lines != e.allow.lines {
		e.allow.lines = lines
		e.o.Log.Info(w.String())
		e.o.Log.Info(w.Kinds())
	}
	if first && !e.o.DryRun {
		e.o.Log.Info("Firewall ready")
	}
	e.setStatus(func(s *status.Status) {
		s.Whitelist.IPs, s.Whitelist.Ranges, s.Whitelist.Kinds = w.IPs(), w.Ranges(), w.Kinds()
	})
	allow := v.allow.Union(e.trials.exempt.list())
	e.allow.set(allow)
	return allow
}

// reconcile puts the rules that are wanted now in force, if others are. That is logged by the
// sentence why. If it fails it is tried again after adaptAgain. A source (a survey, a list) delivers
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
	if err := e.applyNewest(ctx); err != nil && ctx.Err() == nil {
		if r, ok := errors.AsType[*RollbackError](err); !ok || !r.Again { // which would be logged every time
			e.o.Log.Warn("The rules in force lack the newest whitelist or custom blacklist; tried again soon", zap.Error(err))
		}
		e.widen(ctx)
		e.attempts.stale = err
		e.remember(err, status.ApplyError)
		e.publish()
		e.reconcileAgain()
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

// reconcileAgain has reconcile called after adaptAgain, once, however often it is asked for.
func (e *Enforcer) reconcileAgain() {
	if t := e.attempts.again; t != nil {
		t.Reset(adaptAgain)
		return
	}
	e.attempts.again = time.AfterFunc(adaptAgain, func() { offer(e.surveys.newsC, struct{}{}) })
}
