package enforce

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// rebaseMost is how long a list that is accused may wait for the addresses of names. A resolver that
// answers does so within milliseconds.
const rebaseMost = 3 * time.Second

// lookNow makes the first part of a survey at once, beside those that Run makes.
func (s *surveyor) lookNow(ctx context.Context) {
	before, _ := s.newest()
	v := newSurvey(s.local(ctx))
	s.publish(v)
	if !before.allow.Equal(v.allow) || v.white.Gained(before.white) {
		offer(s.nameC, struct{}{}) // the survey that Run makes next may find no change
	}
}

// resolveNow makes the second part of a survey at once, and waits for it at most for rebaseMost.
func (s *surveyor) resolveNow(ctx context.Context) {
	doneC := make(chan struct{})
	go func() { // it ends within the time that names take to fail
		defer close(doneC)
		_ = panics.Contain(func() error { s.publish(newSurvey(s.names(ctx))); return nil }) // Run tells of it
	}()
	timer := time.NewTimer(rebaseMost)
	defer timer.Stop()
	select {
	case <-doneC:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// onTrial is rules that are being tried. A trial takes up to a minute, and the host may come to depend
// on other addresses meanwhile. Each time that the rules are put in force, the addresses of the newest
// survey are let through.
type onTrial struct {
	e     *Enforcer
	rules desired
}

// enforce puts the rules in force.
func (o *onTrial) enforce(ctx context.Context) error {
	o.rules, _ = o.e.rebased(o.rules)
	_, err := o.e.enact(ctx, o.rules)
	return err
}

// outdated looks at the host and reports whether the rules block an address that it depends on now.
func (o *onTrial) outdated(ctx context.Context) bool {
	o.e.surveys.lookNow(ctx)
	_, differ := o.e.rebased(o.rules)
	return differ
}

// enforcing returns a step of a trial that puts d in force.
func (e *Enforcer) enforcing(d desired) func(context.Context) error {
	return (&onTrial{e, d}).enforce
}

// rebased returns d with the addresses of the newest survey let through, and whether d blocks any of
// them.
func (e *Enforcer) rebased(d desired) (desired, bool) {
	v, _ := e.surveys.newest()
	for range d.block.Overlapping(v.allow) {
		return desired{block: d.block.Without(v.allow), allow: d.allow.Union(v.allow)}, true
	}
	return d, false
}

// rebase looks at the host before d, which is in force, is accused of the broken checks. If d blocks
// an address that the host has come to depend on since d was composed, it is put in force without
// that address. rebase returns the rules in force and the checks that still fail.
func (e *Enforcer) rebase(ctx context.Context, d desired, broken host.Checks) (desired, host.Checks, error) {
	for _, look := range []func(context.Context){e.surveys.lookNow, e.surveys.resolveNow} {
		if len(broken) == 0 {
			break
		}
		look(ctx)
		newer, differs := e.rebased(d)
		if !differs {
			continue
		}
		e.o.Log.Info("This host depends on other addresses than when the rules were composed; letting those through before a list is blamed",
			zap.Stringer("notReached", broken))
		if _, err := e.enact(ctx, newer); err != nil {
			return d, broken, err
		}
		d = newer
		broken = trial{probe: e.o.Host.Probe}.failing(ctx, broken)
	}
	return d, broken, nil
}

// rebaseInForce is rebase of the rules in force. It returns the checks that still fail.
func (e *Enforcer) rebaseInForce(ctx context.Context, broken host.Checks) host.Checks {
	d, broken, err := e.rebase(ctx, *e.active.rules, broken)
	if err != nil && ctx.Err() == nil {
		e.o.Log.Warn("The rules in force lack the newest whitelist; tried again soon", zap.Error(err))
		e.reconcileAgain()
	}
	e.follow(d)
	return broken
}

// follow remembers that d is in force, in the place of rules that it was made of.
func (e *Enforcer) follow(d desired) {
	if !d.equal(e.active.rules) {
		e.inForce(d)
	}
}
