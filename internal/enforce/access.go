package enforce

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// Host is the host as the Enforcer depends on it. *host.Host is one.
type Host interface {
	Local() host.Whitelist                                  // surveys the kernel and the files
	Names(ctx context.Context) host.Whitelist               // resolves names, and returns the whole survey
	Probe(ctx context.Context, names ...string) host.Checks // makes the named checks, or all
	AnsweredFrom(port uint16) bool                          // reports whether the host depends on replies from a port
	Surroundings() (contained, bridged error)
	Watch(ctx context.Context, changed func()) error
	WatchFiles(ctx context.Context, changed func()) error
	Recall(n host.Names, now time.Time)
	Resolved(now time.Time) host.Names
}

// Outcome is the result of a pull, for its asker.
type Outcome struct {
	OK   bool
	Text string // a sentence
}

// Pull asks Run for a pull and returns its outcome. If accept is true, the list that a guard refused last is accepted. It may
// be called by any goroutine.
func (e *Enforcer) Pull(ctx context.Context, accept bool) Outcome {
	doneC := make(chan Outcome, len(e.remotes))
	select {
	case e.loop.pullC <- order{accept: accept, askers: []chan<- Outcome{doneC}}:
	case <-ctx.Done():
		return Outcome{Text: "The agent is stopping"}
	}
	all := Outcome{OK: true}
	for range e.remotes {
		select {
		case o := <-doneC:
			all.OK = all.OK && o.OK
			all.Text = o.Text // the last one has the failures of every feed
		case <-ctx.Done():
			return Outcome{Text: "The agent is stopping"}
		}
	}
	return all
}

// WatchHost has the host surveyed after each change of addresses and routes, until ctx ends.
func (e *Enforcer) WatchHost(ctx context.Context) error {
	return e.o.Host.Watch(ctx, e.surveys.changed)
}

// WatchFiles has the host surveyed after each change of its resolver files, until ctx ends.
func (e *Enforcer) WatchFiles(ctx context.Context) error {
	return e.o.Host.WatchFiles(ctx, e.surveys.changed)
}

// WatchRules has changes that other programs make to the rules repaired, until ctx ends.
func (e *Enforcer) WatchRules(ctx context.Context) error { return e.backend.fw.Watch(ctx, e.lost) }

// Survey surveys the host whenever that is due, until ctx ends.
func (e *Enforcer) Survey(ctx context.Context) error { return e.surveys.Run(ctx) }

// ReadOwn reads the operator's file whenever that is due, until ctx ends.
func (e *Enforcer) ReadOwn(ctx context.Context) error { return e.own.reader.Run(ctx) }

// SurveyNow has the host surveyed soon, as when the API was not reached.
func (e *Enforcer) SurveyNow() { e.surveys.ask() }

// ReadyC returns a channel that has a value once the rules of the start are active. Its capacity is 1.
func (e *Enforcer) ReadyC() <-chan struct{} { return e.loop.readyC }

// PulseC returns an unbuffered channel. If Run receives from it, Run is alive.
func (e *Enforcer) PulseC() chan<- struct{} { return e.loop.pulseC }

// Ledger returns the sums of dropped packets.
func (e *Enforcer) Ledger() *counters.Ledger { return e.backend.ledger }

// Allows reports whether a source is allowlisted at this moment. It may be called by any goroutine.
func (e *Enforcer) Allows(source netip.Addr) bool { return e.allow.Allows(source) }

// Open opens the firewall, which needs a low descriptor, and takes note of the rules that a killed agent left.
func (e *Enforcer) Open() error {
	fw, err := e.o.Open()
	if err != nil {
		return err
	}
	e.backend.gate = &gate{Backend: fw}
	e.backend.fw = e.backend.gate
	info := fw.Info()
	e.o.Log.Info(fmt.Sprintf("Firewall backend: %s (%s)", info.Name, info.Reason))
	e.o.Log.Debug("Firewall features", zap.Strings("features", info.Features))
	e.tellGaps()
	e.takeLeftovers()
	_, _ = e.backend.ledger.Read() // the rules of an agent that was killed have counted on
	return nil
}

// Close closes the firewall, if it was opened. Its rules stay as they are.
func (e *Enforcer) Close() error {
	if e.backend.fw == nil {
		return nil
	}
	return e.backend.fw.Close()
}

// Opened reports whether Open succeeded. It never does in a dry run.
func (e *Enforcer) Opened() bool { return e.backend.fw != nil }

// Used reports whether there were rules, of this run or of one before.
func (e *Enforcer) Used() bool { return e.backend.gate != nil && e.backend.gate.used.Load() }

// Fill adds the firewall, the sums of dropped packets and the quota for pulls to s.
func (e *Enforcer) Fill(s *status.Status) {
	s.Quota.Pulls = status.QuotaOf(e.remotes[0].quota(), time.Now())
	if e.backend.fw == nil {
		return
	}
	i := e.backend.fw.Info()
	s.Backend, s.Features, s.Gaps = i.Name, append(s.Features, i.Features...), append(append(s.Gaps, i.Gaps...), i.Detours...)
	if s.Verified != nil && s.Verified.Counted {
		s.Features = append(s.Features, "element counts")
	}
}

// Remove removes the rules from the kernel. Nothing activates any afterwards.
func (e *Enforcer) Remove() error {
	if e.backend.fw == nil {
		return nil
	}
	e.backend.gate.shut()
	if err := e.takeAway(); err != nil {
		return fmt.Errorf("remove the firewall rules: %w (`sikkerguard cleanup` tries again)", err)
	}
	return nil
}

// offer hands a value to a task that looks for it when it has time. When one is waiting already, this one adds nothing.
func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}
