package agent

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
func (a *Agent) takeSurvey(ctx context.Context) {
	v, ok := a.surveys.newest()
	if !ok {
		return
	}
	e := &a.enforcer
	var problems []string
	for _, p := range v.white.Problems {
		problems = append(problems, p.Error())
		if !slices.Contains(e.problems, p.Error()) && ctx.Err() == nil {
			a.log.Warn("Safety whitelist is not complete", zap.Error(p))
		}
	}
	e.problems = problems
	a.setCondition(status.CondSurvey, errors.Join(v.white.Problems...))
	a.admit(ctx)
	changed := v.white.Changed(e.looked)
	e.looked = v.white
	a.keepNames()
	a.reconcile(ctx, cmp.Or(changed, "The safety whitelist changed"))
}

// allowed composes the allowlist: the finds of the newest survey, with the operator's entries, and
// the exemptions. It logs the survey's part if that differs from the one that was logged last.
func (a *Agent) allowed() blocklist.Blocklist {
	v, ok := a.surveys.newest()
	if !ok {
		return blocklist.Blocklist{}
	}
	w := v.white
	first := a.enforcer.whitelist == ""
	if lines := w.String() + w.Kinds(); lines != a.enforcer.whitelist {
		a.enforcer.whitelist = lines
		a.log.Info(w.String())
		a.log.Info(w.Kinds())
	}
	if first && !a.cfg.DryRun {
		a.log.Info("Firewall ready")
	}
	a.setStatus(func(s *status.Status) {
		s.Whitelist.IPs, s.Whitelist.Ranges, s.Whitelist.Kinds = w.IPs(), w.Ranges(), w.Kinds()
	})
	allow := v.allow.Union(a.enforcer.exempt.list())
	a.allow.set(allow)
	return allow
}

// reconcile puts the rules that are wanted now in force, if others are. That is logged by the
// sentence why. If it fails it is tried again after adaptAgain. A source (a survey, a list) delivers
// its newest value and then has this called by the enforcing task.
func (a *Agent) reconcile(ctx context.Context, why string) {
	e := &a.enforcer
	if ctx.Err() != nil {
		return
	}
	if _, ok := a.surveys.newest(); !ok {
		return // without an allowlist nothing may be put in force; the first survey calls this
	}
	if e.enforced == nil && e.pulled.Len()+e.own.list.Len() == 0 {
		return // there is nothing to enforce yet
	}
	switch want := a.wanted(); {
	case e.enforced == nil && e.pulled.Len()+e.own.entries().Len() == 0:
		return // the operator's list is the only one, and is rejected
	case want.equal(e.enforced):
		if e.stale != nil { // the change that could not be followed was taken back
			e.stale = nil
			a.publish()
		}
		return
	case e.stale == nil:
		a.log.Info(why)
	}
	if err := a.applyNewest(ctx); err != nil && ctx.Err() == nil {
		if r, ok := errors.AsType[*RollbackError](err); !ok || !r.Again { // which would be logged every time
			a.log.Warn("The rules in force lack the newest whitelist or custom blacklist; tried again soon", zap.Error(err))
		}
		a.widen(ctx)
		e.stale = err
		a.remember(err, status.ApplyError)
		a.publish()
		a.reconcileAgain()
	}
}

// widen adds the allowlist that is wanted to the one in force, if the rules that are wanted as a whole
// were rejected: the addresses that this host depends on now are let through in any case.
func (a *Agent) widen(ctx context.Context) {
	e := &a.enforcer
	if e.enforced == nil || e.rejected == nil {
		return
	}
	allow := a.allowed()
	wide := desired{block: e.enforced.block.Without(allow), allow: e.enforced.allow.Union(allow)}
	if wide.equal(e.enforced) {
		return
	}
	if err := a.apply(ctx, wide); err != nil && ctx.Err() == nil {
		a.log.Warn("The safety whitelist cannot be widened", zap.Error(err))
	}
}

// reconcileAgain has reconcile called after adaptAgain, once, however often it is asked for.
func (a *Agent) reconcileAgain() {
	if t := a.enforcer.again; t != nil {
		t.Reset(adaptAgain)
		return
	}
	a.enforcer.again = time.AfterFunc(adaptAgain, func() { offer(a.surveys.newsC, struct{}{}) })
}
