package agent

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/control"
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

// tellGaps logs what of the firewall cannot be had, once: some of it shows only when a list is in force.
func (a *Agent) tellGaps() {
	gaps := a.fw.Info().Gaps
	for _, gap := range gaps {
		if !slices.Contains(a.gaps, gap) {
			a.log.Warn("Firewall: " + gap)
		}
	}
	a.gaps = gaps
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
	var saved []string
	n := 0
	for p := range d.allow.Overlapping(a.enforcer.pulled) {
		if n++; n <= shown {
			saved = append(saved, p.String())
		}
	}
	a.log.Info(fmt.Sprintf("Would block %d IPs", d.block.Len()), zap.Strings("examples", examples),
		zap.Int("whitelisted", n), zap.Strings("saved", saved))
}

// tellFailure says what did not work and what is enforced all the same.
func (a *Agent) tellFailure(wait time.Duration) {
	err := a.enforcer.failure
	retry := zap.String("retryIn", wait.Round(time.Second).String())
	n := a.status.Load().BlockedIPs
	switch {
	case a.enforcer.enforced == nil:
		a.log.Error("Not blocking anything yet", zap.Error(err), retry)
	case a.enforcer.pulledAt.IsZero():
		a.log.Warn(fmt.Sprintf("Blocking the %d IPs of the custom blacklist alone", n), zap.Error(err), retry)
	default:
		a.log.Warn(fmt.Sprintf("Refresh did not succeed, still blocking %d IPs", n), zap.Error(err), retry)
	}
}

// outcome is what came of the last turn, for who asked for it.
func (a *Agent) outcome() control.Outcome {
	n := a.status.Load().BlockedIPs
	switch err := a.enforcer.failure; {
	case err != nil && a.enforcer.enforced == nil:
		return control.Outcome{Text: fmt.Sprintf("Not blocking anything: %v", err)}
	case err != nil:
		return control.Outcome{Text: fmt.Sprintf("Still blocking %d IPs: %v", n, err)}
	case a.cfg.DryRun:
		return control.Outcome{OK: true, Text: fmt.Sprintf("Would block %d IPs", n)}
	default:
		return control.Outcome{OK: true, Text: fmt.Sprintf("Blocking %d IPs", n)}
	}
}
