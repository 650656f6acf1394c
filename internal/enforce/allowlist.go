package enforce

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// allowlist is the newest allowlist, which any goroutine may read, and the survey that it comes
// from.
type allowlist struct {
	p atomic.Pointer[blocklist.Blocklist]

	survey   host.Whitelist // the newest one that was applied
	problems []string       // of survey, as they were logged
	lines    string         // of the log, about survey
}

// set replaces the allowlist.
func (l *allowlist) set(list blocklist.Blocklist) {
	if old := l.p.Load(); old == nil || !old.Equal(list) {
		l.p.Store(&list)
	}
}

// Allows reports whether a source is allowlisted.
func (l *allowlist) Allows(source netip.Addr) bool {
	list := l.p.Load()
	return list != nil && list.Contains(source)
}

// Allows reports whether a source is allowlisted at this moment. It may be called by any goroutine.
func (e *Enforcer) Allows(source netip.Addr) bool { return e.allow.Allows(source) }

// allowed composes the allowlist: the finds of the newest survey, which include the operator's
// entries, and the exemptions. It logs a survey that differs from the one that was logged last.
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
		e.o.Log.Info("Whitelisted: " + w.Kinds())
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

// applySurvey logs the problems of the newest survey, each once while it lasts, and reconciles the
// rules with it.
func (e *Enforcer) applySurvey(ctx context.Context) {
	v, ok := e.surveys.newest()
	if !ok {
		return
	}
	var problems []string
	for _, p := range v.white.Problems {
		problems = append(problems, p.Error())
		if !slices.Contains(e.allow.problems, p.Error()) && ctx.Err() == nil {
			e.o.Log.Warn("The allowlist is incomplete", zap.Error(p))
		}
	}
	e.allow.problems = problems
	e.setCondition(status.CondSurvey, errors.Join(v.white.Problems...))
	e.updateAdopted(ctx)
	changed := v.white.Changed(e.allow.survey)
	e.allow.survey = v.white
	e.saveNames()
	e.reconcile(ctx, cmp.Or(changed, "The allowlist changed"))
}
