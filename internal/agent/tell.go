package agent

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// shown is how many examples of something the log gives.
const shown = 10

// tellRunning says that the first turn is over, whatever came of it.
func (a *Agent) tellRunning() {
	if !a.cfg.DryRun {
		a.log.Info("Monitoring blocked connections")
	}
	a.log.Info("SikkerGuard running")
}

// tellGaps logs each missing part of the firewall once: as a warning if the host is less protected without it. Some show
// only when a list is in force.
func (a *Agent) tellGaps() {
	i := a.fw.Info()
	tell := func(gaps []string, log func(string, ...zap.Field)) {
		for _, gap := range gaps {
			if !slices.Contains(a.gaps, gap) {
				log("Firewall: " + gap)
			}
		}
	}
	tell(i.Gaps, a.log.Warn)
	tell(i.Detours, a.log.Info)
	a.gaps = slices.Concat(i.Gaps, i.Detours)
}

// tellBlocking logs how many entries the kernel enforces, once for each change and after a failure. If
// the same rules were in force before and that is in the log, it logs that nothing changed.
func (a *Agent) tellBlocking(same bool) {
	e := &a.enforcer
	if same && e.told {
		a.log.Info("The pulled list is the one in force")
		return
	}
	e.told = true
	a.log.Info(fmt.Sprintf("Blocking %d IPs", e.entries4+e.entries6))
}

// tellDryRun says what would be blocked, with the first few as examples, and what the whitelist saved.
func (a *Agent) tellDryRun(d desired) {
	var examples []string
	for p := range d.block.All() {
		if len(examples) == shown {
			break
		}
		if p.IsSingleIP() {
			examples = append(examples, p.Addr().String())
		} else {
			examples = append(examples, p.String())
		}
	}
	a.log.Info(fmt.Sprintf("Would block %d IPs", d.block.Len()), zap.Strings("examples", examples))
}

// tellSaved says what is listed and not blocked because it is whitelisted, when that has changed: that this host, or what it
// depends on, is on the list is news to its operator.
func (a *Agent) tellSaved(d desired) {
	listed := a.enforcer.pulled.Union(a.enforcer.own.entries())
	var examples []string
	n := 0
	for p := range d.allow.Overlapping(listed) {
		if n++; n <= shown {
			examples = append(examples, p.String())
		}
	}
	a.setStatus(func(s *status.Status) { s.Whitelist.Listed = n })
	saved := fmt.Sprint(n, examples)
	if n > 0 && saved != a.enforcer.saved {
		a.log.Warn("The list names whitelisted addresses; they are not blocked", zap.Int("entries", n), zap.Strings("examples", examples))
	}
	a.enforcer.saved = saved
}

// tellFailure says what did not work and what is enforced all the same.
func (a *Agent) tellFailure(wait time.Duration) {
	a.enforcer.told = false
	err := errors.Join(a.enforcer.failure, a.enforcer.unapplied)
	retry := zap.String("retryIn", wait.Round(time.Second).String())
	n, would := a.board.Latest().BlockedIPs, a.board.Latest().WouldBlock
	switch {
	case a.cfg.DryRun && a.enforcer.enforced == nil:
		a.log.Warn("No list yet", zap.Error(err), retry)
	case a.cfg.DryRun:
		a.log.Warn(fmt.Sprintf("Refresh failed; would still block %d IPs", would), zap.Error(err), retry)
	case a.enforcer.left:
		a.log.Error("No list yet, the rules of an agent that was killed still block", zap.Error(err), retry)
	case a.enforcer.enforced == nil:
		a.log.Error("Not blocking anything yet", zap.Error(err), retry)
	case a.enforcer.pulledAt == clock.Moment{}:
		a.log.Warn(fmt.Sprintf("Blocking the %d IPs of the custom blacklist alone", n), zap.Error(err), retry)
	default:
		a.log.Warn(fmt.Sprintf("Refresh failed; still blocking %d IPs", n), zap.Error(err), retry)
	}
}

// outcome is what came of the last turn, for who asked for it.
func (a *Agent) outcome() control.Outcome {
	n, would := a.board.Latest().BlockedIPs, a.board.Latest().WouldBlock
	switch err := errors.Join(a.enforcer.failure, a.enforcer.unapplied); {
	case err != nil && a.cfg.DryRun:
		return control.Outcome{Text: fmt.Sprintf("A dry run, without a new list: %v", err)}
	case err != nil && a.enforcer.left:
		return control.Outcome{Text: fmt.Sprintf("Still blocking by the rules of an agent that was killed: %v", err)}
	case err != nil && a.enforcer.enforced == nil:
		return control.Outcome{Text: fmt.Sprintf("Not blocking anything: %v", err)}
	case err != nil:
		return control.Outcome{Text: fmt.Sprintf("Still blocking %d IPs: %v", n, err)}
	case a.cfg.DryRun:
		return control.Outcome{OK: true, Text: fmt.Sprintf("Would block %d IPs", would)}
	default:
		return control.Outcome{OK: true, Text: fmt.Sprintf("Blocking %d IPs", n)}
	}
}
