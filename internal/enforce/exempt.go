package enforce

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// exemptions are addresses that are on the list and let through all the same, because this host was
// proven to need them: a resolver on this host asks them, or the API is there. They belong to the
// enforcing task.
type exemptions struct {
	addrs    []netip.Addr
	checks   []string  // names of the checks that need them
	retested time.Time // when they were last tested
	tested   time.Time // when a listed upstream was suspected in vain
}

// list returns them as a part of the allowlist.
func (x *exemptions) list() blocklist.Blocklist { return single(x.addrs) }

// without returns those other than addr.
func without(addrs []netip.Addr, addr netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a == addr })
}

// single returns the list of the addresses.
func single(addrs []netip.Addr) blocklist.Blocklist {
	ps := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		ps[i] = blocklist.Single(a)
	}
	return blocklist.New(ps)
}

// letting returns d with the addresses let through.
func (d desired) allowing(addrs []netip.Addr) desired {
	s := single(addrs)
	return desired{block: d.block.Without(s), allow: d.allow.Union(s)}
}

// relayed returns the checks by which a resolver on or near this host was asked, which asks others.
func relayed(checks host.Checks) host.Checks {
	return slices.DeleteFunc(slices.Clone(checks), func(c host.Check) bool { return !c.Relayed })
}

// exemptNeeded finds out whether d, which is in force, is why the checks fail because it holds some
// of the candidates. If so, as few of those are exempted as the checks take; nothing else of the list
// is touched. It returns the rules in force then, and whether they are other than d. After an error
// either may be in force. The caller ends status.CondOpen when it has put that right.
func (e *Enforcer) exemptNeeded(ctx context.Context, d desired, broken host.Checks, candidates []netip.Addr) (desired, bool, error) {
	if len(broken) == 0 || len(candidates) == 0 {
		return d, false, nil
	}
	e.setCondition(status.CondOpen, fmt.Errorf("%d addresses, because this host does not reach: %v", len(candidates), broken))
	o := &trialRules{e, d}
	t := trial{
		probe:    e.o.Host.Probe,
		with:     o.apply,
		without:  e.applying(d.allowing(candidates)),
		outdated: o.outdated,
	}
	guilty, err := t.prove(ctx, broken)
	if err != nil || len(guilty) == 0 {
		return o.rules, false, err
	}
	needed, err := e.fewestNeeded(ctx, t, d, guilty, candidates)
	o.rules = d.allowing(needed)
	if err == nil {
		err = o.apply(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return d, false, ctx.Err()
	case err != nil:
		return d, false, fmt.Errorf("let through the addresses that are needed: %w", err)
	}
	e.o.Log.Warn("This host depends on addresses that are on the list; those it needs are let through",
		zap.Stringer("notReached", guilty), zap.Stringers("exempted", needed))
	x := &e.trials.exempt
	x.addrs, x.retested = append(x.addrs, needed...), time.Now()
	for _, c := range guilty {
		if !slices.Contains(x.checks, c.Name) {
			x.checks = append(x.checks, c.Name)
		}
	}
	e.publishExemptions()
	return o.rules, true, nil
}

// errManyNeeded is a search that found no end.
var errManyNeeded = fmt.Errorf("it takes longer than %v to find the addresses that are needed", fewestMost)

// fewest returns as few of the candidates as must be let through for the checks to work. Another
// host can forge answers of an address that it wants to be let through; an address that is not needed
// is left out. Halves, quarters and so on are tried, then each candidate that is left.
func (e *Enforcer) fewestNeeded(ctx context.Context, t trial, d desired, checks host.Checks, candidates []netip.Addr) ([]netip.Addr, error) {
	needed := slices.Clone(candidates)
	began := time.Now()
	for n := (len(needed) + 1) / 2; ; n /= 2 {
		for i := 0; i < len(needed); {
			fewer := slices.Delete(slices.Clone(needed), i, min(i+n, len(needed)))
			if len(fewer) == 0 {
				break
			}
			if time.Since(began) > fewestMost {
				return nil, errManyNeeded
			}
			if err := e.applying(d.allowing(fewer))(ctx); err != nil {
				return nil, err
			}
			if len(t.working(ctx, checks)) == len(checks) {
				needed = fewer
			} else {
				i += n
			}
		}
		if n <= 1 {
			return needed, nil
		}
	}
}

// publishExemptions makes the status name the addresses that are exempted.
func (e *Enforcer) publishExemptions() {
	var held error
	if addrs := e.trials.exempt.addrs; len(addrs) > 0 {
		texts := make([]string, len(addrs))
		for i, addr := range addrs {
			texts[i] = addr.String()
		}
		held = fmt.Errorf("let through: %s", strings.Join(texts, ", "))
	}
	e.setCondition(status.CondExempt, held)
}

// testUpstreams is called if answers were dropped that this host may need. A list is blamed only
// for checks that worked before it; later a resolver on this host may begin to ask others, and at a
// boot it may not be there yet.
func (e *Enforcer) testUpstreams(ctx context.Context) {
	if e.o.DryRun || e.active.rules == nil || time.Since(e.trials.exempt.tested) < repliesGap ||
		len(e.trials.repliers.on(e.active.rules.block, time.Now())) == 0 {
		return
	}
	e.trials.exempt.tested = time.Now()
	broken := e.rebaseInForce(ctx, relayed(trial{probe: e.o.Host.Probe}.unreached(ctx)))
	if len(broken) == 0 {
		return
	}
	d := *e.active.rules
	defer e.setCondition(status.CondOpen, nil)
	d, exempted, err := e.exemptNeeded(ctx, d, broken, e.trials.repliers.on(d.block, time.Now()))
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.o.Log.Warn("It cannot be found out whether the list keeps a resolver from those that it asks", zap.Error(err))
		if err := e.undo(); err != nil {
			e.publish()
		}
	case exempted:
		e.setActive(d)
	default: // not asked again soon, since answers can be forged
		e.updateActive(d)
		e.o.Log.Info("It is not the list that keeps a resolver from those that it asks",
			zap.Stringer("notReached", broken))
		e.trials.exempt.tested = time.Now().Add(testGap - repliesGap)
	}
}

// retestExemptions ends exemptions that are not needed: the address is on no list any more or
// whitelisted by itself, or the resolver does without it now.
func (e *Enforcer) retestExemptions(ctx context.Context) {
	if len(e.trials.exempt.addrs) == 0 || e.active.rules == nil || ctx.Err() != nil {
		return
	}
	v, _ := e.surveys.newest()
	listed := e.lists().Merge().Without(v.allow)
	due := time.Since(e.trials.exempt.retested) >= retestAfter
	for _, addr := range slices.Clone(e.trials.exempt.addrs) {
		if !listed.Contains(addr) || due && e.unneeded(ctx, addr) {
			e.trials.exempt.addrs = without(e.trials.exempt.addrs, addr)
			e.publishExemptions()
			e.o.Log.Info("An address of the list that was let through is not needed any more",
				zap.Stringer("address", addr))
		}
	}
	if due {
		e.trials.exempt.retested = time.Now()
	}
	if len(e.trials.exempt.addrs) == 0 {
		e.trials.exempt.checks = nil
	}
	e.publishExemptions()
	e.reconcile(ctx, "What is let through has changed")
}

// needless reports whether the checks that exemptions are for work without that of addr. The rules
// in force are the same afterwards.
func (e *Enforcer) unneeded(ctx context.Context, addr netip.Addr) bool {
	t := trial{probe: e.o.Host.Probe}
	before := e.o.Host.Probe(ctx, e.trials.exempt.checks...)
	if slices.ContainsFunc(before, func(c host.Check) bool { return c.Err != nil }) {
		return false // nothing can be proven now
	}
	x := e.trials.exempt.addrs
	e.trials.exempt.addrs = without(x, addr)
	d := e.wanted()
	e.trials.exempt.addrs = x
	if err := e.applying(d)(ctx); err != nil {
		return false
	}
	broken := t.failing(ctx, before)
	if err := e.undo(); err != nil {
		e.publish()
	}
	return len(broken) == 0 && ctx.Err() == nil
}
