package enforce

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
)

const (
	// probeAgain is how long after a failed probe the next one is sent. One lost packet proves
	// nothing.
	probeAgain = 500 * time.Millisecond
	// trialRounds is how often a check must fail with the rules and work without them. An outage
	// that begins or ends during a trial causes that only once.
	trialRounds = 2
	// trialMost is the largest number of rounds if the host comes to depend on other addresses
	// during each.
	trialMost = 5
	// rejectedFor is how long rules that cut the host off are not applied again. Later the network,
	// or the needs of the host, may have changed.
	rejectedFor = time.Hour
)

// trials is the state of the trials: whether rules cut this host off.
type trials struct {
	rejected *rejection // rules that cut this host off; nil for none
	tested   time.Time  // when the active list was last tested
	recheck  recheck    // of checks that failed without a proven cause
	baseline baseline   // the checks before the first rules
	late     lateChecks // those that did not work before the first rules
	exempt   exemptions
	repliers repliers
	repliedC chan struct{} // capacity 1: replies were dropped that this host may need
}

func newTrials() trials {
	return trials{
		recheck: recheck{wait: clock.NewRetry(recheckFirst, retryMost)}, repliedC: make(chan struct{}, 1),
		late: lateChecks{failedC: make(chan host.Checks, 1)},
	}
}

// trial tests whether rules cause this host to reach less than before. with activates the rules;
// without activates the rules that are not in doubt.
type trial struct {
	probe         func(context.Context, ...string) host.Checks // of the named checks, or all
	with, without func(context.Context) error
	outdated      func(context.Context) bool // reports whether the host has changed since the rules were composed
}

// broken returns the checks that worked before and fail now, twice.
func (t trial) broken(ctx context.Context, before host.Checks) host.Checks {
	worked := slices.DeleteFunc(slices.Clone(before), func(c host.Check) bool { return c.Err != nil })
	if len(worked) == 0 {
		return nil
	}
	return t.stillFailing(ctx, host.Broken(worked, t.ask(ctx, worked)))
}

// failing returns those of the checks that fail now, twice.
func (t trial) failing(ctx context.Context, checks host.Checks) host.Checks {
	if len(checks) == 0 {
		return nil
	}
	return t.stillFailing(ctx, failedOf(t.ask(ctx, checks), checks))
}

// unreached returns all checks that fail now, twice.
func (t trial) unreached(ctx context.Context) host.Checks {
	now := t.probe(ctx)
	return t.stillFailing(ctx, failedOf(now, now))
}

func (t trial) stillFailing(ctx context.Context, checks host.Checks) host.Checks {
	if len(checks) == 0 || !clock.Sleep(ctx, probeAgain) {
		return nil
	}
	return failedOf(t.ask(ctx, checks), checks)
}

// ask makes only the given checks. Others may take long to fail.
func (t trial) ask(ctx context.Context, checks host.Checks) host.Checks {
	names := make([]string, len(checks))
	for i, c := range checks {
		names[i] = c.Name
	}
	return t.probe(ctx, names...)
}

// prove returns those of the checks that fail because of the rules: they work without the rules and
// fail with them, in each round. In the last round the rules follow the newest survey. If prove
// returns checks, the rules are inactive. If it returns none and no error, they are active. After
// an error either may be the case. When prove is called, the rules must be active and the checks
// must fail.
func (t trial) prove(ctx context.Context, checks host.Checks) (host.Checks, error) {
	for round := 1; ; round++ {
		if err := t.without(ctx); err != nil {
			return nil, fmt.Errorf("deactivate the list for a moment: %w", err)
		}
		checks = t.working(ctx, checks)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if round >= trialRounds && len(checks) > 0 && (round >= trialMost || !t.isOutdated(ctx)) {
			return checks, nil
		}
		if err := t.with(ctx); err != nil {
			return nil, fmt.Errorf("activate the list again: %w", err)
		}
		if checks = t.failing(ctx, checks); len(checks) == 0 || ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (t trial) isOutdated(ctx context.Context) bool { return t.outdated != nil && t.outdated(ctx) }

// working returns those of the checks that work now. If none works, it makes them once more.
func (t trial) working(ctx context.Context, checks host.Checks) host.Checks {
	work := workedOf(t.ask(ctx, checks), checks)
	if len(work) == 0 && clock.Sleep(ctx, probeAgain) {
		return workedOf(t.ask(ctx, checks), checks)
	}
	return work
}

// failedOf returns the checks of now that fail and are among before.
func failedOf(now, before host.Checks) host.Checks {
	return slices.DeleteFunc(slices.Clone(now), func(c host.Check) bool {
		_, there := named(before, c.Name)
		return c.Err == nil || !there
	})
}

// workedOf returns the checks of before, with their errors, that work now.
func workedOf(now, before host.Checks) host.Checks {
	return slices.DeleteFunc(slices.Clone(before), func(c host.Check) bool {
		again, there := named(now, c.Name)
		return !there || again.Err != nil
	})
}

func named(checks host.Checks, name string) (host.Check, bool) {
	i := slices.IndexFunc(checks, func(c host.Check) bool { return c.Name == name })
	if i < 0 {
		return host.Check{}, false
	}
	return checks[i], true
}

// trialRules are rules on trial. A trial takes up to a minute, and the host may come to depend on
// other addresses meanwhile. Each time the rules are applied, the addresses of the newest survey
// are let through.
type trialRules struct {
	e     *Enforcer
	rules desired
}

// apply applies the rules.
func (o *trialRules) apply(ctx context.Context) error {
	o.rules, _ = o.e.rebased(o.rules)
	_, err := o.e.applyRules(ctx, o.rules)
	return err
}

// outdated surveys the host and reports whether the rules block an address that it depends on.
func (o *trialRules) outdated(ctx context.Context) bool {
	o.e.surveys.surveyLocal(ctx)
	_, differ := o.e.rebased(o.rules)
	return differ
}

// applying returns a step of a trial that applies d.
func (e *Enforcer) applying(d desired) func(context.Context) error {
	return (&trialRules{e, d}).apply
}
