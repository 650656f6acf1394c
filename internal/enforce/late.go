package enforce

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
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
	sources [lateKinds][]netip.Addr // of dropped packets, in the order of their arrival
}

// The kinds of dropped packets that may be answers to a check.
const (
	lateAnswers = iota // answers from a port that this host needs, and packets in packets
	lateOthers         // other answers: a resolver may ask by HTTPS, and a tunnel may be a TCP connection
	lateCarried        // datagrams, which may be those of a tunnel
	lateKinds
)

// begin begins to store the sources of dropped packets. It is called before the rules are applied.
func (l *lateChecks) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.sources = true, [lateKinds][]netip.Addr{}
}

// end stops that.
func (l *lateChecks) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.sources = false, [lateKinds][]netip.Addr{}
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
	store := func(kind int, source netip.Addr) {
		if to := &l.sources[kind]; len(*to) < maxCandidates && !slices.Contains(*to, source) {
			*to = append(*to, source)
		}
	}
	for _, h := range hits {
		switch {
		case h.Kind == sensor.Answer && needed(h.Port), encapsulates(h.Key):
			store(lateAnswers, h.Source)
			continue
		case h.Kind == sensor.Answer:
			store(lateOthers, h.Source)
		}
		if h.Protocol == sensor.UDP {
			store(lateCarried, h.Source)
		}
	}
}

// encapsulates reports whether the packets of a key contain packets. IPsec behind an address
// translation has no device of its own, so that no route shows it.
func encapsulates(k sensor.Key) bool {
	const ipInIP, ipv6InIP = 4, 41 // IANA numbers
	const espInUDP = 4500          // RFC 3948
	return k.Protocol == sensor.UDP && k.Port == espInUDP ||
		slices.Contains([]sensor.Protocol{ipInIP, ipv6InIP, sensor.GRE, sensor.ESP, sensor.AH}, k.Protocol)
}

// candidates returns the stored sources on the list whose packets may be answers to the checks, at
// most maxCandidates. It takes them in turn from each kind, so that a flood of one kind leaves room
// for the others.
func (l *lateChecks) candidates(checks host.Checks, list blocklist.Blocklist) []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(checks) == 0 {
		return nil
	}
	kinds := [][]netip.Addr{l.sources[lateAnswers]}
	if slices.ContainsFunc(checks, func(c host.Check) bool { return c.Relayed || c.Tunnelled }) {
		kinds = append(kinds, l.sources[lateOthers])
	}
	if slices.ContainsFunc(checks, func(c host.Check) bool { return c.Tunnelled }) {
		kinds = append(kinds, l.sources[lateCarried])
	}
	var found []netip.Addr
	for i := range maxCandidates {
		for _, sources := range kinds {
			if i < len(sources) && len(found) < maxCandidates &&
				list.Contains(sources[i]) && !slices.Contains(found, sources[i]) {
				found = append(found, sources[i])
			}
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	return found
}

// lateEvidence is the least time from the rules to the judgement of late checks. An event reaches Add
// within about a second, and a check may fail sooner.
const lateEvidence = 2500 * time.Millisecond

// watchLate makes the named checks while Run continues. Those that fail twice are sent to failedC.
func (e *Enforcer) watchLate(ctx context.Context, names []string) {
	l, began := &e.trials.late, time.Now()
	go func() { // it ends when the checks have failed at the latest
		var failing host.Checks
		_ = panics.Contain(func() error { // a check that panics is an error of that check
			t := trial{probe: e.o.Host.Probe}
			failing = t.stillFailing(ctx, failedNames(e.o.Host.Probe(ctx, names...), names))
			return nil
		})
		if len(failing) == 0 || !clock.Sleep(ctx, lateEvidence-time.Since(began)) {
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
