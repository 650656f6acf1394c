package enforce

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// lateChecks are the checks that had no result yet when the first rules were applied. If one fails
// with the rules, either it also failed before, or the rules drop its answers. In the second case
// NFLOG reports the sources of these. The methods may be called by any goroutine.
type lateChecks struct {
	failedC chan host.Checks // capacity 1: late checks that fail with the rules

	mu      sync.Mutex
	open    bool
	answers []netip.Addr // sources of dropped packets that may be answers
	carried []netip.Addr // sources of dropped datagrams, which may be those of a tunnel
}

// begin begins to store the sources of dropped packets. It is called before the rules are applied.
func (l *lateChecks) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.answers, l.carried = true, nil, nil
}

// end stops that.
func (l *lateChecks) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.answers, l.carried = false, nil, nil
}

// add stores the sources of dropped packets that may be answers to a check, or the packets of a
// tunnel with an answer inside, at most maxCandidates of each kind. needed reports whether this host
// depends on answers from a port.
func (l *lateChecks) add(hits []sensor.Hit, needed func(port uint16) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		return
	}
	store := func(to *[]netip.Addr, source netip.Addr) {
		if len(*to) < maxCandidates && !slices.Contains(*to, source) {
			*to = append(*to, source)
		}
	}
	for _, h := range hits {
		switch {
		case h.Kind == sensor.Answer && needed(h.Port), encapsulates(h.Protocol):
			store(&l.answers, h.Source)
		case h.Protocol == sensor.UDP:
			store(&l.carried, h.Source)
		}
	}
}

// encapsulates reports whether the packets of a protocol contain packets.
func encapsulates(p sensor.Protocol) bool {
	const ipInIP, ipv6InIP = 4, 41 // IANA numbers
	return slices.Contains([]sensor.Protocol{ipInIP, ipv6InIP, sensor.GRE, sensor.ESP, sensor.AH}, p)
}

// candidates returns the stored sources on the list whose packets may be answers to the checks.
func (l *lateChecks) candidates(checks host.Checks, list blocklist.Blocklist) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(checks) == 0 {
		return nil
	}
	sources := slices.Clone(l.answers)
	if slices.ContainsFunc(checks, func(c host.Check) bool { return c.Tunnelled }) {
		sources = append(sources, l.carried...)
	}
	slices.SortFunc(sources, netip.Addr.Compare)
	sources = slices.DeleteFunc(slices.Compact(sources), func(a netip.Addr) bool { return !list.Contains(a) })
	return sources[:min(len(sources), maxCandidates)]
}

// watchLate makes the named checks while Run continues. Those that fail twice are sent to failedC.
func (e *Enforcer) watchLate(ctx context.Context, names []string) {
	l := &e.trials.late
	go func() { // it ends when the checks have failed at the latest
		var failing host.Checks
		_ = panics.Contain(func() error { // a check that panics is an error of that check
			t := trial{probe: e.o.Host.Probe}
			failing = t.stillFailing(ctx, failedNames(e.o.Host.Probe(ctx, names...), names))
			return nil
		})
		if len(failing) == 0 || ctx.Err() != nil {
			l.end()
			return
		}
		offer(l.failedC, failing)
	}()
}

// failedNames returns those of the named checks that fail.
func failedNames(now host.Checks, names []string) host.Checks {
	return slices.DeleteFunc(slices.Clone(now), func(c host.Check) bool {
		return c.Err == nil || !slices.Contains(names, c.Name)
	})
}

// testLate tests whether late checks fail because of the active rules. Without a dropped packet that
// may be an answer to a check, the rules are not the cause: a gateway that answers no ping costs
// nothing. Otherwise the sources of such packets are let through for a moment.
func (e *Enforcer) testLate(ctx context.Context, broken host.Checks) {
	defer e.trials.late.end()
	x, l := &e.trials.exempt, &e.trials.late
	broken = slices.DeleteFunc(broken, func(c host.Check) bool {
		return c.Relayed && time.Since(x.tested) < repliesGap // testUpstreams has tested it meanwhile
	})
	if e.active.rules == nil || len(l.candidates(broken, e.active.rules.block)) == 0 {
		return
	}
	if broken = e.rebaseActive(ctx, broken); len(broken) == 0 {
		return
	}
	d := *e.active.rules
	candidates := l.candidates(broken, d.block)
	e.logOpening(candidates, broken)
	defer e.setCondition(status.CondOpen, nil)
	if len(relayed(broken)) > 0 {
		x.tested = time.Now()
	}
	let, exempted, err := e.exemptNeeded(ctx, d, broken, candidates)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		e.o.Log.Warn("Cannot test whether the list cuts this host off", zap.Error(err))
		if err := e.undo(); err != nil {
			e.publish()
		}
	case exempted:
		e.setActive(let)
	default:
		e.updateActive(let)
		e.trials.recheck.start(broken)
		e.o.Log.Info("The list is not the cause; it stays active", zap.Stringer("notReached", broken))
	}
}

// logOpening logs that the candidates are let through for the broken checks.
func (e *Enforcer) logOpening(candidates []netip.Addr, broken host.Checks) {
	e.o.Log.Warn("Checks of this host fail and replies to it are dropped; letting their sources through for a moment",
		zap.Int("sources", len(candidates)), zap.Stringer("notReached", broken))
}
