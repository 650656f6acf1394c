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

const (
	// retestAfter is the shortest time between two tests of the exemptions. If an exemption is
	// needed, its test costs the host about two seconds of DNS, or of another service that depends
	// on the address.
	retestAfter = 6 * time.Hour
	// fewestMost bounds the search for the candidates that are needed, which takes a few seconds
	// for each of them. If an outage begins during the search, every candidate appears to be
	// needed.
	fewestMost = time.Minute
)

// exemptions are listed addresses that are let through because this host was proven to need them:
// for example the API, or a server that a resolver on this host asks.
type exemptions struct {
	addrs    []netip.Addr
	checks   []string  // names of the checks that need them
	retested time.Time // when the exemptions were last tested
	tested   time.Time // when testUpstreams last ran; later if it found no cause, so that the next run is delayed
}

// list returns the exempted addresses as a part of the allowlist.
func (x *exemptions) list() blocklist.Blocklist { return single(x.addrs) }

// without returns addrs except addr.
func without(addrs []netip.Addr, addr netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return a == addr })
}

// single returns a list of the addresses.
func single(addrs []netip.Addr) blocklist.Blocklist {
	ps := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		ps[i] = blocklist.Single(a)
	}
	return blocklist.New(ps)
}

// allowing returns d with the addresses let through.
func (d desired) allowing(addrs []netip.Addr) desired {
	s := single(addrs)
	return desired{block: d.block.Without(s), allow: d.allow.Union(s)}
}

// relayed returns the checks that go through a resolver on or near this host, which asks other
// servers.
func relayed(checks host.Checks) host.Checks {
	return slices.DeleteFunc(slices.Clone(checks), func(c host.Check) bool { return !c.Relayed })
}

// exemptNeeded tests whether the checks fail because d, which is active, blocks some of the
// candidates. If so, it exempts as few of them as the checks need; the rest of the list stays
// blocked. It returns the active rules and reports whether they differ from d. After an error
// either may be active. The caller clears status.CondOpen once the rules are known again.
func (e *Enforcer) exemptNeeded(
	ctx context.Context, d desired, broken host.Checks, candidates []netip.Addr,
) (desired, bool, error) {
	if len(broken) == 0 || len(candidates) == 0 {
		return d, false, nil
	}
	e.setCondition(status.CondOpen,
		fmt.Errorf("%d addresses, because this host does not reach: %v", len(candidates), broken))
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
		return d, false, fmt.Errorf("let through the needed addresses: %w", err)
	}
	e.o.Log.Warn("This host depends on listed addresses; those it needs are let through",
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

// errManyNeeded is the error of a search that exceeds fewestMost.
var errManyNeeded = fmt.Errorf("finding the needed addresses takes longer than %v", fewestMost)

// fewestNeeded returns as few of the candidates as must be let through for the checks to work. An
// attacker can forge replies of an address to get it exempted, so every candidate that is not
// needed is left out. Halves, quarters and so on are left out first, then each remaining candidate.
func (e *Enforcer) fewestNeeded(
	ctx context.Context, t trial, d desired, checks host.Checks, candidates []netip.Addr,
) ([]netip.Addr, error) {
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

// publishExemptions publishes the exempted addresses in the status.
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

// testUpstreams tests whether a list cuts a resolver on this host off from its upstreams. It runs
// after replies were dropped that this host may need. A trial blames a list only for checks that
// worked before it, but a resolver may start after the list, or change its upstreams later.
func (e *Enforcer) testUpstreams(ctx context.Context) {
	if e.o.DryRun || e.active.rules == nil || time.Since(e.trials.exempt.tested) < repliesGap ||
		len(e.trials.repliers.on(e.active.rules.block, time.Now())) == 0 {
		return
	}
	e.trials.exempt.tested = time.Now()
	broken := e.rebaseActive(ctx, relayed(trial{probe: e.o.Host.Probe}.unreached(ctx)))
	if len(broken) == 0 {
		return
	}
	d := *e.active.rules
	defer e.setCondition(status.CondOpen, nil)
	d, exempted, err := e.exemptNeeded(ctx, d, broken, e.trials.repliers.on(d.block, time.Now()))
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.o.Log.Warn("Cannot test whether the list cuts a resolver off from its upstreams", zap.Error(err))
		if err := e.undo(); err != nil {
			e.publish()
		}
	case exempted:
		e.setActive(d)
	default: // the next test comes later, because replies can be forged
		e.updateActive(d)
		e.o.Log.Info("The list does not cut the resolver off from its upstreams",
			zap.Stringer("notReached", broken))
		e.trials.exempt.tested = time.Now().Add(testGap - repliesGap)
	}
}

// retestExemptions ends exemptions that are no longer needed: the address is on no list any more,
// is allowlisted for another reason, or the checks work without it.
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
			e.o.Log.Info("A listed address that was let through is no longer needed",
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
	e.reconcile(ctx, "Exemptions changed")
}

// unneeded reports whether the checks that exemptions are for work without the exemption of addr.
// It leaves the active rules as they were.
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
