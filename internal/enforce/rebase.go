package enforce

import (
	"context"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/host"
)

// rebased returns d with the addresses of the newest survey let through, and reports whether d
// blocks any of them.
func (e *Enforcer) rebased(d desired) (desired, bool) {
	v, _ := e.surveys.newest()
	for range d.block.Overlapping(v.allow) {
		return desired{block: d.block.Without(v.allow), allow: d.allow.Union(v.allow)}, true
	}
	return d, false
}

// rebase surveys the host before a trial of d, which is active, for the broken checks. If d blocks
// an address that the host has come to depend on since d was composed, rebase applies d without
// that address. It returns the active rules and the checks that still fail.
func (e *Enforcer) rebase(ctx context.Context, d desired, broken host.Checks) (desired, host.Checks, error) {
	for _, look := range []func(context.Context){e.surveys.surveyLocal, e.surveys.surveyNames} {
		if len(broken) == 0 {
			break
		}
		look(ctx)
		newer, differs := e.rebased(d)
		if !differs {
			continue
		}
		e.o.Log.Info("This host depends on addresses that the rules block; letting them through before a trial",
			zap.Stringer("notReached", broken))
		if _, err := e.applyRules(ctx, newer); err != nil {
			return d, broken, err
		}
		d = newer
		broken = trial{probe: e.o.Host.Probe}.failing(ctx, broken)
	}
	return d, broken, nil
}

// rebaseActive rebases the active rules. It returns the checks that still fail.
func (e *Enforcer) rebaseActive(ctx context.Context, broken host.Checks) host.Checks {
	d, broken, err := e.rebase(ctx, *e.active.rules, broken)
	if err != nil && ctx.Err() == nil {
		e.o.Log.Warn("The active rules lack the newest allowlist; retrying soon", zap.Error(err))
		e.reconcileLater()
	}
	e.updateActive(d)
	return broken
}

// updateActive records d as the active rules, if it differs from the rules that it was derived
// from.
func (e *Enforcer) updateActive(d desired) {
	if !d.equal(e.active.rules) {
		e.setActive(d)
	}
}
