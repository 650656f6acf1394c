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
		if !slices.Contains(e.problems, p.Error()) && ctx.Err() == nil {
			e.log.Warn("Safety whitelist is not complete", zap.Error(p))
		}
	}
	e.problems = problems
	e.setCondition(status.CondSurvey, errors.Join(v.white.Problems...))
	e.admit(ctx)
	changed := v.white.Changed(e.looked)
	e.looked = v.white
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
	first := e.whitelist == ""
	if lines := w.String() + w.Kinds(); lines != e.whitelist {
		e.whitelist = lines
		e.log.Info(w.String())
		e.log.Info(w.Kinds())
	}
	if first && !e.o.DryRun {
		e.log.Info("Firewall ready")
	}
	e.setStatus(func(s *status.Status) {
		s.Whitelist.IPs, s.Whitelist.Ranges, s.Whitelist.Kinds = w.IPs(), w.Ranges(), w.Kinds()
	})
	allow := v.allow.Union(e.exempt.list())
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
	if e.enforced == nil && e.pulled.Len()+e.own.list.Len() == 0 {
		return // there is nothing to enforce yet
	}
	switch want := e.wanted(); {
	case e.enforced == nil && e.pulled.Len()+e.own.entries().Len() == 0:
		return // the operator's list is the only one, and is rejected
	case want.equal(e.enforced):
		if e.stale != nil { // the change that could not be followed was taken back
			e.stale = nil
			e.publish()
		}
		return
	case e.stale == nil:
		e.log.Info(why)
	}
	if err := e.applyNewest(ctx); err != nil && ctx.Err() == nil {
		if r, ok := errors.AsType[*RollbackError](err); !ok || !r.Again { // which would be logged every time
			e.log.Warn("The rules in force lack the newest whitelist or custom blacklist; tried again soon", zap.Error(err))
		}
		e.widen(ctx)
		e.stale = err
		e.remember(err, status.ApplyError)
		e.publish()
		e.reconcileAgain()
	}
}

// widen adds the allowlist that is wanted to the one in force, if the rules that are wanted as a whole
// were rejected: the addresses that this host depends on now are let through in any case.
func (e *Enforcer) widen(ctx context.Context) {
	if e.enforced == nil || e.rejected == nil {
		return
	}
	allow := e.allowed()
	wide := desired{block: e.enforced.block.Without(allow), allow: e.enforced.allow.Union(allow)}
	if wide.equal(e.enforced) {
		return
	}
	if err := e.apply(ctx, wide); err != nil && ctx.Err() == nil {
		e.log.Warn("The safety whitelist cannot be widened", zap.Error(err))
	}
}

// reconcileAgain has reconcile called after adaptAgain, once, however often it is asked for.
func (e *Enforcer) reconcileAgain() {
	if t := e.again; t != nil {
		t.Reset(adaptAgain)
		return
	}
	e.again = time.AfterFunc(adaptAgain, func() { offer(e.surveys.newsC, struct{}{}) })
}
