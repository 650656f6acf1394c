package agent

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

// adaptAgain is how long after a failure the whitelist is brought up to date once more.
const adaptAgain = 30 * time.Second

// discover finds what this host depends on. It never fails: what cannot be found now is told, and the rest protected. It
// touches nothing of the enforcing task's.
func (a *Agent) discover(ctx context.Context) host.Whitelist {
	w, err := a.host.Discover(ctx)
	for _, p := range append(w.Problems, err) {
		if p != nil && ctx.Err() == nil {
			a.log.Warn("Safety whitelist is not complete", zap.Error(p))
		}
	}
	return w
}

// whitelisted tells what is whitelisted when that has changed, and returns it.
func (a *Agent) whitelisted(w host.Whitelist) blocklist.Blocklist {
	first := a.enforcer.whitelist == ""
	if lines := w.String() + w.Kinds(); lines != a.enforcer.whitelist {
		a.enforcer.whitelist = lines
		a.log.Info(w.String())
		a.log.Info(w.Kinds())
	}
	if first && !a.cfg.DryRun {
		a.log.Info("Firewall ready")
	}
	a.setStatus(func(s *Status) {
		s.Whitelist.IPs, s.Whitelist.Ranges, s.Whitelist.Kinds = w.IPs(), w.Ranges(), w.Kinds()
	})
	allow := blocklist.New(w.Prefixes())
	if old := a.allow.Load(); old == nil || !old.Equal(allow) {
		a.allow.Store(&allow)
	}
	return allow
}

// adapt follows a change of the host's addresses or routes: what is whitelisted now is let through at once.
func (a *Agent) adapt(ctx context.Context, allow blocklist.Blocklist) {
	e := &a.enforcer
	switch {
	case e.enforced == nil || ctx.Err() != nil:
		return
	case e.enforced.allow.Equal(allow):
		if e.stale != nil { // the change that could not be followed was taken back
			e.stale = nil
			a.publish()
		}
		return
	case e.stale == nil:
		a.log.Info("Addresses or routes of the host changed")
	}
	if err := a.apply(ctx, a.wanted(allow)); err != nil && ctx.Err() == nil {
		a.log.Warn("The safety whitelist is not up to date; tried again soon", zap.Error(err))
		e.stale = err
		a.remember(err, applyError)
		a.publish()
		time.AfterFunc(adaptAgain, func() { offer(a.hostC, struct{}{}) })
	}
}
