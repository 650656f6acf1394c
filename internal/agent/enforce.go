package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// retryFirst and retryMost bound the wait after a pull that did not succeed; it doubles from one to the next.
	retryFirst, retryMost = 5 * time.Second, 15 * time.Minute
	// retryRefused is the shortest wait after a list was refused: the next one will hardly differ, and pulls have a quota.
	retryRefused = 5 * time.Minute
	// shown is how many examples of something a line of the log gives.
	shown = 10
)

// enforced is what was put in place and verified.
type enforced struct {
	block, allow blocklist.Blocklist
}

// enforce pulls and applies, at once and then at every interval, sooner after a failure or on SIGHUP, until ctx ends.
func (a *Agent) enforce(ctx context.Context) error {
	a.enforcer.backoff = newBackoff()
	first := true
	for {
		wait := a.refresh(ctx, first)
		if ctx.Err() != nil {
			return nil
		}
		if first {
			first = false
			if !a.cfg.DryRun {
				a.log.Info("Monitoring blocked connections")
			}
			a.log.Info("SikkerGuard running")
		}
		a.setStatus(func(s *Status) { s.NextPull = inFuture(wait) })
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-a.o.HangupC:
			a.log.Info("SIGHUP: pulling now")
		case <-timer.C:
		}
		timer.Stop()
	}
}

// newBackoff is how long to wait from one failure to the next: twice as long each time, half of it chance. It never ends.
func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = retryFirst, retryMost, 2
	return b
}

// inFuture is the time after d, as the status shows times: UTC, to the second.
func inFuture(d time.Duration) *time.Time {
	t := time.Now().Add(d).UTC().Truncate(time.Second)
	return &t
}

// refresh is one turn: pull, vet, apply, verify, tell. It returns how long to wait for the next. Whatever fails, what was
// enforced stays.
func (a *Agent) refresh(ctx context.Context, first bool) time.Duration {
	allow := a.whitelist(ctx)
	if first && !a.cfg.DryRun {
		a.log.Info("Firewall ready")
	}
	pullErr := a.pull(ctx)
	if ctx.Err() != nil {
		return 0
	}
	block := a.enforcer.pulled.Union(a.custom()).Without(allow)
	applyErr := a.apply(ctx, block, allow, pullErr)
	err := errors.Join(pullErr, applyErr)
	if ctx.Err() != nil {
		return 0
	}
	if err == nil {
		a.enforcer.backoff.Reset()
		return a.cfg.PullInterval
	}
	wait := a.retryIn(err)
	a.tellFailure(err, wait)
	return wait
}

// whitelist finds what this host depends on. It never fails: what cannot be found now is told, and the rest protected.
func (a *Agent) whitelist(ctx context.Context) blocklist.Blocklist {
	w, err := a.host.Discover(ctx)
	for _, p := range w.Problems {
		a.log.Warn("Safety whitelist is not complete", zap.Error(p))
	}
	if err != nil {
		a.log.Warn("Safety whitelist is not complete", zap.Error(err))
	}
	if line := w.String(); line != a.enforcer.whitelist {
		a.enforcer.whitelist = line
		a.log.Info(line)
		a.log.Info(w.Kinds())
	}
	a.setStatus(func(s *Status) { s.Whitelist = WhitelistStatus{IPs: w.IPs(), Ranges: w.Ranges()} })
	return blocklist.New(w.Prefixes())
}

// pull asks the API for its list and vets it. An accepted list is remembered.
func (a *Agent) pull(ctx context.Context) error {
	body, err := a.feed.Pull(ctx)
	if err != nil {
		return fmt.Errorf("pull blacklist: %w", err)
	}
	v, err := vet.Vet(body, vet.Options{})
	if err = errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("vet blacklist: %w", err)
	}
	a.log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()), zap.Int("repeated", v.Repeated),
		zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		a.log.Warn("The pulled list has lines that are no address; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
	a.enforcer.pulled = v.List
	a.setStatus(func(s *Status) { s.LastPull = inFuture(0) })
	return nil
}

// custom reads the operator's list. What is wrong with it is told; the rest of it counts.
func (a *Agent) custom() blocklist.Blocklist {
	file, err := a.feed.Custom()
	if err == nil && file == nil {
		return blocklist.Blocklist{}
	}
	var v vet.Verdict
	if err == nil {
		v, err = vet.Custom(file)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		a.log.Warn("Custom blacklist is left out", zap.String("file", a.cfg.CustomBlacklist), zap.Error(err))
		return blocklist.Blocklist{}
	}
	for i, bad := range v.Malformed {
		if i == shown {
			a.log.Warn("Custom blacklist: more lines are left out", zap.Int("lines", v.Bad-shown))
			break
		}
		a.log.Warn("Custom blacklist: a line is left out", zap.String("file", a.cfg.CustomBlacklist), zap.Int("line", bad.Line), zap.Error(bad))
	}
	if v.Special > 0 {
		a.log.Warn("Custom blacklist: special-purpose addresses, such as private ones, are never blocked", zap.Int("entries", v.Special))
	}
	return v.List
}

// apply puts the list in force, and says so after the kernel was asked. When the pull failed and nothing would change, or
// there is nothing to block yet, the kernel is left alone.
func (a *Agent) apply(ctx context.Context, block, allow blocklist.Blocklist, pullErr error) error {
	e := a.enforcer.enforced
	if pullErr != nil {
		unchanged := e != nil && e.block.Equal(block) && e.allow.Equal(allow)
		if unchanged || e == nil && block.Len() == 0 {
			return nil
		}
	}
	if a.cfg.DryRun {
		a.tellDryRun(block)
	} else {
		ev, err := a.fw.Apply(ctx, ruleset.Ruleset{
			Block: block, Allow: allow, LogGroup: a.cfg.NFLOGGroup, LogRate: a.cfg.LogRate,
		})
		if err != nil {
			return err
		}
		a.log.Info(fmt.Sprintf("Blocking %d IPs", ev.Entries()))
		a.log.Debug("Verified in the kernel", zap.Int("elements", ev.Elements), zap.Bool("counted", ev.Counted),
			zap.Int("sampled", ev.Sampled), zap.Duration("took", ev.Took))
	}
	a.enforcer.enforced = &enforced{block: block, allow: allow}
	a.setStatus(func(s *Status) {
		s.BlockedIPs, s.Blocked4, s.Blocked6 = block.Len(), block.Len4(), block.Len6()
		s.State, s.Reason = StateActive, ""
		if a.cfg.DryRun {
			s.State = StateDryRun
		}
	})
	return nil
}

// tellDryRun says what would be blocked, with the first few as examples.
func (a *Agent) tellDryRun(block blocklist.Blocklist) {
	var examples []string
	for p := range block.All() {
		if len(examples) == shown {
			break
		}
		if p.IsSingleIP() {
			examples = append(examples, p.Addr().String())
		} else {
			examples = append(examples, p.String())
		}
	}
	a.log.Info(fmt.Sprintf("Would block %d IPs", block.Len()), zap.Strings("examples", examples))
}

// retryIn is how long to wait after a failure.
func (a *Agent) retryIn(err error) time.Duration {
	wait := a.enforcer.backoff.NextBackOff()
	var (
		quota     *sikkerapi.QuotaError
		temporary *sikkerapi.TemporaryError
		refusal   *vet.RefusalError
	)
	switch {
	case errors.As(err, &quota):
		// Until the quota is there again, and a little later, so that a fleet does not come back in the same second.
		return quota.RetryAfter + wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		wait = a.cfg.PullInterval // nothing changes until the key does
	case errors.As(err, &temporary):
		wait = max(wait, temporary.RetryAfter)
	case errors.As(err, &refusal):
		wait = max(wait, retryRefused)
	}
	return min(wait, a.cfg.PullInterval)
}

// tellFailure says what did not work and what is enforced all the same.
func (a *Agent) tellFailure(err error, wait time.Duration) {
	retry := zap.String("retryIn", wait.Round(time.Second).String())
	n := a.status.Load().BlockedIPs
	switch {
	case a.enforcer.enforced == nil:
		a.log.Error("Not blocking anything yet", zap.Error(err), retry)
	case a.enforcer.pulled.Len() == 0:
		a.log.Warn(fmt.Sprintf("Blocking the %d IPs of the custom blacklist alone", n), zap.Error(err), retry)
	default:
		a.log.Warn(fmt.Sprintf("Refresh did not succeed, still blocking %d IPs", n), zap.Error(err), retry)
	}
	a.setStatus(func(s *Status) {
		s.Reason = err.Error()
		s.State = StateDegraded
		if a.enforcer.enforced == nil {
			s.State = StateUnprotected
		}
		if a.cfg.DryRun {
			s.State = StateDryRun
		}
	})
}
