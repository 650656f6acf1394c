package enforce

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// examplesMost is the largest number of examples that one log line has.
const examplesMost = 10

// logRunning logs once that the start has ended: a saved list is active and the rest of the agent has
// started, or the first turn has ended, whatever its result.
func (e *Enforcer) logRunning() {
	if e.loop.running {
		return
	}
	e.loop.running = true
	if !e.o.DryRun {
		e.o.Log.Info("Monitoring blocked connections")
	}
	e.o.Log.Info("SikkerGuard running")
}

// hasList reports whether a list of a remote feed is active.
func (e *Enforcer) hasList() bool {
	return slices.ContainsFunc(e.remotes, func(r *remote) bool { return r.list.at != clock.Moment{} })
}

// logBlocking logs how many entries the kernel enforces, once for each change and after a failure.
// If same is true and the number was logged, it logs that nothing changed.
func (e *Enforcer) logBlocking(same bool) {
	if same && e.active.logged {
		e.o.Log.Info("The pulled list is already active")
		return
	}
	e.active.logged = true
	e.o.Log.Info(fmt.Sprintf("Blocking %d IPs", e.active.entries4+e.active.entries6))
}

// logDryRun logs how many entries d would block, with a few examples.
func (e *Enforcer) logDryRun(d desired) {
	var examples []string
	for p := range d.block.All() {
		if len(examples) == examplesMost {
			break
		}
		if p.IsSingleIP() {
			examples = append(examples, p.Addr().String())
		} else {
			examples = append(examples, p.String())
		}
	}
	e.o.Log.Info(fmt.Sprintf("Would block %d IPs", d.block.Len()), zap.Strings("examples", examples))
}

// logAllowlisted publishes how many entries of the lists are allowlisted, and logs each change with
// examples. The operator must learn that the host, or an address that it depends on, is listed.
func (e *Enforcer) logAllowlisted(d desired) {
	listed := e.lists().Merge()
	var examples []string
	n := 0
	for p := range d.allow.Overlapping(listed) {
		if n++; n <= examplesMost {
			examples = append(examples, p.String())
		}
	}
	e.setStatus(func(s *status.Status) { s.Whitelist.Listed = n })
	line := fmt.Sprint(n, examples)
	if n > 0 && line != e.active.listed {
		e.o.Log.Warn("Blocklist contains allowlisted entries; they stay reachable",
			zap.Int("entries", n), zap.Strings("examples", examples))
	}
	e.active.listed = line
}

// logFailure logs the failures of the last turn, the rules that stay active, and the time of the
// next attempt.
func (e *Enforcer) logFailure(wait time.Duration) {
	e.active.logged = false
	err := errors.Join(e.eachRemote(func(r *remote) error { return r.failure }), e.attempts.err)
	retry := zap.String("retryIn", wait.Round(time.Second).String())
	n := e.active.entries4 + e.active.entries6
	switch {
	case e.o.DryRun && e.active.rules == nil:
		e.o.Log.Warn("No list yet", zap.Error(err), retry)
	case e.o.DryRun:
		e.o.Log.Warn(fmt.Sprintf("Refresh failed; would still block %d IPs", n), zap.Error(err), retry)
	case e.active.adopted:
		e.o.Log.Error("No list yet; rules of a killed agent still block", zap.Error(err), retry)
	case e.active.rules == nil:
		e.o.Log.Error("Not blocking anything yet", zap.Error(err), retry)
	case !e.hasList():
		e.o.Log.Warn(fmt.Sprintf("Blocking the %d IPs of the custom blacklist alone", n), zap.Error(err), retry)
	default:
		e.o.Log.Warn(fmt.Sprintf("Refresh failed; still blocking %d IPs", n), zap.Error(err), retry)
	}
}
