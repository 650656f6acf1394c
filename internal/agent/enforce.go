package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// retryFirst and retryMost bound the wait after a pull that did not succeed; it doubles from one to the next.
	retryFirst, retryMost = 5 * time.Second, 15 * time.Minute
	// retryRefused is the shortest wait after a list was refused: the next one will hardly differ, and pulls have a quota.
	retryRefused = 5 * time.Minute
	// staleAfter is how many pull intervals old a list may be before the protection counts as degraded.
	staleAfter = 3
	// lookBriefly is how long names may take to resolve before the kept list is enforced: a host without network must not
	// wait for its protection.
	lookBriefly = time.Second
)

// enforcer is what the enforcing task remembers from one turn to the next.
type enforcer struct {
	pulled   blocklist.Blocklist // the last list of the API that was accepted
	pulledAt time.Time           // when; zero: none was yet
	baseline int                 // its entries, for the guards
	shrunk   bool                // the last pull was refused for having shrunk

	whitelist string              // the log line that was printed last
	enforced  *desired            // nil while nothing is in force
	rejected  blocklist.Blocklist // what was rolled back, and is not tried again
	failure   error               // why the last turn did not succeed, nil when it did
	wait      *backoff.ExponentialBackOff
	repair    repairer
}

// desired is what is in force, or is to be.
type desired struct {
	block, allow blocklist.Blocklist
}

// pullRequest asks the enforcing task for a pull at once.
type pullRequest struct {
	accept bool
	doneC  chan control.Outcome // capacity 1: nobody needs to wait
}

// enforce puts the kept list in force and then pulls, at once and at every interval, sooner after a failure or when asked,
// until ctx ends. In between it looks after what is in force.
func (a *Agent) enforce(ctx context.Context) error {
	a.enforcer.wait = newBackoff()
	a.restore(ctx)
	next := time.NewTimer(a.refresh(ctx, vet.Options{}))
	defer next.Stop()
	if ctx.Err() == nil {
		if !a.cfg.DryRun {
			a.log.Info("Monitoring blocked connections")
		}
		a.log.Info("SikkerGuard running")
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(a.refresh(ctx, vet.Options{}))
		case <-a.o.HangupC:
			a.log.Info("SIGHUP: pulling now")
			next.Reset(a.refresh(ctx, vet.Options{}))
		case req := <-a.pullC:
			a.log.Info("Asked to pull now", zap.Bool("accept", req.accept))
			next.Reset(a.refresh(ctx, vet.Options{Overrule: req.accept}))
			req.doneC <- a.outcome()
		case <-a.hostC:
			a.adapt(ctx)
		case err := <-a.lostC:
			a.enforcer.repair.lost(err)
		case <-a.enforcer.repair.due():
			a.restoreRules(ctx)
		}
	}
}

// restore puts the list of the last run in force, before the network is tried: a reboot without the API loses nothing.
func (a *Agent) restore(ctx context.Context) {
	c, err := a.feed.Kept()
	var damaged *feed.DamagedError
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return
	case errors.As(err, &damaged):
		a.log.Warn("The kept list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return
	case err != nil:
		a.log.Warn("The kept list cannot be read", zap.Error(err))
		return
	case c.Request != a.feed.Request():
		a.log.Info("The kept list is of another API, key or score, and is left alone")
		return
	}
	// It was accepted once; only what is no list at all is refused now.
	v, err := vet.Vet(bytes.NewReader(c.Body), vet.Options{Overrule: true})
	if err != nil {
		a.log.Warn("The kept list is left out", zap.Error(err))
		return
	}
	brief, cancel := context.WithTimeout(ctx, lookBriefly)
	allow := a.whitelist(brief)
	cancel()
	a.accept(v, c.Pulled)
	a.setStatus(func(s *Status) { s.Kept = true })
	a.enforcer.baseline = v.List.Len()
	if !a.cfg.DryRun {
		a.log.Info("Enforcing the kept list until the API answers", zap.String("pulled", c.Pulled.Format(time.RFC3339)))
	}
	if err := a.apply(ctx, a.wanted(allow)); err != nil && ctx.Err() == nil {
		a.log.Error("The kept list is not enforced", zap.Error(err))
	}
}

// refresh is one turn: pull, vet, apply, verify, tell. It returns how long to wait for the next. Whatever fails, what was
// enforced stays.
func (a *Agent) refresh(ctx context.Context, o vet.Options) time.Duration {
	allow := a.whitelist(ctx)
	pullErr := a.pull(ctx, o)
	want := a.wanted(allow)
	// When there is no new list and nothing would change, or there is nothing to block yet, the kernel is left alone.
	var applyErr error
	if pullErr == nil || !want.equal(a.enforcer.enforced) && (a.enforcer.enforced != nil || want.block.Len() > 0) {
		applyErr = a.apply(ctx, want)
	}
	if ctx.Err() != nil {
		return a.cfg.PullInterval
	}
	if pullErr == nil && applyErr == nil {
		a.keepList()
	}
	a.enforcer.failure = errors.Join(pullErr, applyErr)
	wait := a.cfg.PullInterval
	if a.enforcer.failure == nil {
		a.enforcer.wait.Reset()
	} else {
		wait = a.retryIn(a.enforcer.failure)
		a.tellFailure(wait)
	}
	a.setStatus(func(s *Status) { s.NextPull = inFuture(wait) })
	return wait
}

// keepList makes the list, which is in force, the one that the next is measured against and that the next start begins with.
func (a *Agent) keepList() {
	a.enforcer.baseline = a.enforcer.pulled.Len()
	if a.cfg.DryRun {
		return
	}
	if err := a.feed.Keep(a.enforcer.pulled, a.enforcer.pulledAt); err != nil {
		a.log.Warn("The list cannot be kept: a start without the API would not protect", zap.Error(err))
	}
}

// wanted is what is to be in force: the API's list and the operator's, less what is whitelisted.
func (a *Agent) wanted(allow blocklist.Blocklist) desired {
	return desired{block: a.enforcer.pulled.Union(a.custom()).Without(allow), allow: allow}
}

func (d desired) equal(e *desired) bool {
	return e != nil && d.block.Equal(e.block) && d.allow.Equal(e.allow)
}

// whitelist finds what this host depends on. It never fails: what cannot be found now is told, and the rest protected.
func (a *Agent) whitelist(ctx context.Context) blocklist.Blocklist {
	w, err := a.host.Discover(ctx)
	for _, p := range append(w.Problems, err) {
		if p != nil && ctx.Err() == nil {
			a.log.Warn("Safety whitelist is not complete", zap.Error(p))
		}
	}
	first := a.enforcer.whitelist == ""
	if line := w.String() + w.Kinds(); line != a.enforcer.whitelist {
		a.enforcer.whitelist = line
		a.log.Info(w.String())
		a.log.Info(w.Kinds())
	}
	if first && !a.cfg.DryRun {
		a.log.Info("Firewall ready")
	}
	a.setStatus(func(s *Status) { s.Whitelist = WhitelistStatus{IPs: w.IPs(), Ranges: w.Ranges(), Kinds: w.Kinds()} })
	return blocklist.New(w.Prefixes())
}

// pull asks the API for its list and vets it. An accepted list is remembered.
func (a *Agent) pull(ctx context.Context, o vet.Options) error {
	body, err := a.feed.Pull(ctx)
	if err != nil {
		return fmt.Errorf("pull blacklist: %w", err)
	}
	o.Baseline, o.Shrunk = a.enforcer.baseline, a.enforcer.shrunk
	v, err := vet.Vet(body, o)
	if err = errors.Join(err, body.Close()); err != nil {
		if refusal, ok := errors.AsType[*vet.RefusalError](err); ok {
			a.enforcer.shrunk = refusal.Guard == vet.GuardShrink
			a.setStatus(func(s *Status) { s.Refused = s.Refused.with(string(refusal.Guard)) })
		}
		return fmt.Errorf("vet blacklist: %w", err)
	}
	a.log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()), zap.Int("repeated", v.Repeated),
		zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		a.log.Warn("The pulled list has lines that are no address; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
	a.accept(v, time.Now())
	a.setStatus(func(s *Status) { s.Kept = false })
	return nil
}

// accept remembers a list that passed the guards.
func (a *Agent) accept(v vet.Verdict, pulled time.Time) {
	a.enforcer.pulled, a.enforcer.pulledAt, a.enforcer.shrunk = v.List, pulled, false
	at := pulled.UTC().Truncate(time.Second)
	a.setStatus(func(s *Status) { s.LastPull = &at })
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

// adapt follows a change of the host's addresses or routes: what is whitelisted now is let through at once.
func (a *Agent) adapt(ctx context.Context) {
	want := a.wanted(a.whitelist(ctx))
	if e := a.enforcer.enforced; e == nil || want.equal(e) || ctx.Err() != nil {
		return
	}
	a.log.Info("Addresses or routes of the host changed")
	if err := a.apply(ctx, want); err != nil && ctx.Err() == nil {
		a.log.Warn("The safety whitelist is not up to date", zap.Error(err))
	}
}

// newBackoff is how long to wait from one failure to the next: twice as long each time, half of it chance. It never ends.
func newBackoff() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = retryFirst, retryMost, 2
	return b
}

// retryIn is how long to wait after a failure.
func (a *Agent) retryIn(err error) time.Duration {
	wait := a.enforcer.wait.NextBackOff()
	var (
		quota     *sikkerapi.QuotaError
		temporary *sikkerapi.TemporaryError
		refusal   *vet.RefusalError
		rollback  *RollbackError
	)
	switch {
	case errors.As(err, &quota):
		// Until the quota is there again, and a little later, so that a fleet does not come back in the same second.
		return quota.RetryAfter + wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		wait = a.cfg.PullInterval // nothing changes until the key does
	case errors.As(err, &temporary):
		wait = max(wait, temporary.RetryAfter)
	case errors.As(err, &refusal), errors.As(err, &rollback):
		wait = max(wait, retryRefused)
	}
	return min(wait, a.cfg.PullInterval)
}

// inFuture is the time after d, as the status shows times: UTC, to the second.
func inFuture(d time.Duration) *time.Time {
	t := time.Now().Add(d).UTC().Truncate(time.Second)
	return &t
}
