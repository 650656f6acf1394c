package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/control"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

const (
	// lookBriefly is how long the first survey may take before the kept list is enforced: a host without network must not
	// wait for its protection.
	lookBriefly = time.Second
)

// enforcer is what the enforcing task remembers from one turn to the next.
type enforcer struct {
	pulled   blocklist.Blocklist // the last list of the API that was accepted
	pulledAt clock.Moment        // when; zero: none was yet
	kept     bool                // it is of the run before
	fresh    *pulled             // a list that was accepted and is not in force yet; nil for none
	own      ownList             // the operator's list
	baseline int                 // entries of the API's list last in force, for the guards
	refused  refused

	keeper      *keeper // writes the list in force to the disk
	asideKeeper *keeper // writes the refused list
	names       names

	turnC  chan turn // the turn under way ends here
	busy   bool      // one is under way
	queued *order    // what was asked for meanwhile

	whitelist string         // the log lines that were printed last
	looked    host.Whitelist // the survey that was taken last
	problems  []string       // of the newest survey, which were logged
	told      bool           // the log has how much is blocked, and no failure since
	saved     string         // what was told last of what is listed and whitelisted
	enforced  *desired       // nil while nothing is in force, but for
	left      bool           // the rules of a killed agent, which were in force at the start and still are
	entries4  int            // of the list, which the kernel was last shown to enforce, by family: a host without
	entries6  int            // IPv6 rules enforces none of that family
	rejected  *rejection     // rules that cut this host off; nil for none
	suspected time.Time      // when a list was suspected last
	failure   error          // why the last pull did not succeed, nil when it did
	unapplied error          // why the wanted rules did not come in force, nil if they did
	retry     *clock.Retry   // puts it in force once more, without a pull
	doubt     doubt
	stale     error       // why what is in force is not what is wanted now, nil when it is
	again     *time.Timer // tries once more to put it in force; nil until it was needed
	offline   offline
	exempt    exemptions
	wait      *backoff.ExponentialBackOff
	wasted    int // lists that were downloaded since one came in force
	repair    repairer
}

func newEnforcer() enforcer {
	return enforcer{
		wait: clock.NewBackoff(retryFirst, retryMost), retry: clock.NewRetry(retryFirst, retryMost), doubt: doubt{wait: clock.NewRetry(doubtFirst, retryMost)},
		keeper: newKeeper(), asideKeeper: newKeeper(), names: names{keeper: newKeeper()}, own: ownList{keeper: newKeeper()},
	}
}

// endKeepers waits for what is being written, but not for a disk that hangs.
func (e *enforcer) endKeepers() {
	timer := time.NewTimer(keepMost)
	defer timer.Stop()
	for _, k := range []*keeper{e.keeper, e.own.keeper, e.asideKeeper, e.names.keeper} {
		k.end(timer.C)
	}
}

// pulled is a list of the API that was accepted.
type pulled struct {
	list blocklist.Blocklist
	at   clock.Moment // zero: there is none
	kept bool         // it is of the run before
}

// desired is what is in force, or is to be.
type desired struct {
	block, allow blocklist.Blocklist
}

// order says what a turn is to do beside pulling.
type order struct {
	accept bool                     // enforce the list that was refused
	askers []chan<- control.Outcome // capacity 1 each: nobody needs to wait
}

// turn is what was found out, off the enforcing task, which must not wait for the network.
type turn struct {
	order   order
	before  host.Whitelist // the host when it began
	verdict vet.Verdict
	err     error // of the pull
}

// enforce puts the kept list in force and then pulls, at once and at every interval, sooner after a failure or when asked,
// until ctx ends. Meanwhile it looks after what is in force. A panic ends neither it nor the process, with which the rules
// would go.
func (a *Agent) enforce(ctx context.Context) error {
	a.enforcer.turnC = make(chan turn)
	l := &enforceLoop{next: clock.NewAlarm(a.clock, a.cfg.PullInterval)}
	defer l.next.Stop()
	return a.keep(ctx, task("enforcing of the list", func(ctx context.Context) error {
		a.enforceUntil(ctx, l)
		return nil
	}))
}

// enforceUntil is one run of the loop, until ctx ends.
func (a *Agent) enforceUntil(ctx context.Context, l *enforceLoop) {
	e, next := &a.enforcer, l.next
	if l.begun {
		a.resume(ctx, l)
	} else {
		l.begun = true
		a.beginEnforcing(ctx, l)
	}
	for {
		select {
		case <-ctx.Done():
			if e.busy {
				<-e.turnC // it ends with ctx, unless a disk hangs, and then Run does not wait for it
			}
			e.endKeepers()
			return
		case t := <-e.turnC:
			e.busy, l.taking = false, &t
			a.takeOwn()
			next.Reset(a.refresh(ctx, t))
			l.taking = nil
			e.offline.pulled(t.err, t.before)
			if !l.running && ctx.Err() == nil {
				l.running = true
				a.tellRunning()
			}
			a.retestExemptions(ctx)
			a.end(ctx)
			a.pullIfNetwork(next)
		case <-a.surveys.newsC:
			a.takeSurvey(ctx)
			a.pullIfNetwork(next)
		case <-a.custom.news():
			a.takeOwn()
			a.reconcile(ctx, "Custom blacklist changed")
		case <-next.TickC():
			if next.Due() {
				a.begin(ctx, order{})
			}
		case <-a.o.HangupC:
			a.log.Info("SIGHUP: pulling now")
			a.begin(ctx, order{})
		case o := <-a.pullC:
			a.log.Info("Asked to pull now", zap.Bool("accept", o.accept))
			a.begin(ctx, o)
		case err := <-a.lostC:
			a.takeLoss(err)
		case <-e.repair.due():
			a.restoreRules(ctx)
		case <-e.retry.DueC():
			a.tryAgain(ctx)
		case <-e.doubt.due():
			a.doubtAgain(ctx)
		case lost := <-a.lostFilesC:
			a.saveAgain(lost)
		case err := <-e.keeper.doneC:
			a.takeKept(err)
		case <-e.keeper.late():
			a.keepHangs()
		case <-e.keeper.due():
			e.keeper.retry()
		case err := <-e.own.keeper.doneC:
			a.takeOwnKept(err)
		case <-e.own.keeper.late():
			a.keepOwnHangs()
		case <-e.own.keeper.due():
			e.own.keeper.retry()
		case err := <-e.asideKeeper.doneC:
			e.asideKeeper.done(err)
		case <-e.asideKeeper.due():
			e.asideKeeper.retry()
		case err := <-e.names.keeper.doneC:
			a.takeNamesKept(err)
		case <-e.names.keeper.due():
			e.names.keeper.retry()
		case <-e.own.rejected.due():
			e.own.forgive()
			a.reconcile(ctx, "Trying the custom blacklist again")
		case <-a.answeredC:
			a.suspectUpstreams(ctx)
		case <-a.pulseC: // the supervisor is told that enforcing goes on
		}
	}
}

// begin starts a turn, or has one follow the turn that is under way.
func (a *Agent) begin(ctx context.Context, o order) {
	e := &a.enforcer
	readC := a.custom.ask() // a pull that hangs does not keep the operator's list waiting
	if e.busy {
		if q := e.queued; q != nil {
			o.accept, o.askers = o.accept || q.accept, append(q.askers, o.askers...)
		}
		e.queued = &o
		return
	}
	e.busy = true
	vo := a.vetOptions()
	go func() { // enforce waits for it
		surveyedC := a.surveys.ask() // a list is measured by a look at the host that is no older than the pull
		t := turn{order: o, before: a.surveys.first(ctx)}
		if err := panics.Contain(func() error {
			t.verdict, t.err = a.pull(ctx, vo)
			return nil
		}); err != nil {
			t.err = err
		}
		if unreached(t.err) {
			a.surveys.ask() // the API may have another address
		}
		a.surveys.await(ctx, surveyedC, surveyMost)
		a.awaitOwn(ctx, readC)
		e.turnC <- t
	}()
}

// vetOptions returns the sizes that the next list is measured against.
func (a *Agent) vetOptions() vet.Options {
	e := &a.enforcer
	return vet.Options{Baseline: e.baseline, Largest: a.feed.Largest(), Shrunk: e.refused.shrunk, Grown: e.refused.grown}
}

// end makes room for the next turn, and begins it when one was asked for.
func (a *Agent) end(ctx context.Context) {
	e := &a.enforcer
	e.busy = false
	if q := e.queued; q != nil {
		e.queued = nil
		a.begin(ctx, *q)
	}
}

// restore puts the lists of the last run and the operator's file in force, before the network is tried: a reboot without the
// API loses nothing.
func (a *Agent) restore(ctx context.Context) {
	readC := a.custom.ask()
	a.recallNames()
	a.restoreOwn()
	kept := a.restorePulled()
	if !kept && a.cfg.CustomBlacklist == "" {
		return
	}
	if !a.surveys.await(ctx, a.surveys.ask(), lookBriefly) {
		return
	}
	a.awaitOwn(ctx, readC)
	a.takeOwn()
	e := &a.enforcer
	if !kept {
		e.failure = errNotPulled
	}
	switch {
	case kept && !a.cfg.DryRun:
		a.log.Info("Enforcing the kept list until the API answers", zap.String("pulled", e.fresh.at.Wall.Format(time.RFC3339)))
	case !kept && e.own.list.Len() == 0:
		return
	}
	if err := a.putInForce(ctx); err != nil && ctx.Err() == nil {
		a.log.Error("The kept list is not enforced", zap.Error(err))
		a.publish()
	}
}

// errNotPulled is the state between a start and the end of its first pull.
var errNotPulled = errors.New("the first pull since the start has not ended yet")

// restorePulled takes the API's list as the last run had it, and reports whether there is one.
func (a *Agent) restorePulled() bool {
	c, err := readDisk(keepMost, "reading of the kept list", a.feed.Kept)
	var damaged *feed.DamagedError
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return false
	case errors.As(err, &damaged):
		a.log.Warn("The kept list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return false
	case err != nil:
		a.warnOfDisk("The kept list cannot be read", err)
		return false
	case c.Request != a.feed.Request() && c.Source != a.feed.Source():
		a.log.Info("The kept list is of another API or score, and is left alone")
		return false
	}
	// It was accepted once; only what is no list at all is refused now.
	v, err := vetted(bytes.NewReader(c.Body), vet.Options{Overrule: true})
	if err != nil {
		a.log.Warn("The kept list is left out", zap.Error(err))
		return false
	}
	if c.Request == a.feed.Request() {
		a.enforcer.baseline = v.List.Len()
	} else { // with it the same host and account were protected; the new key may have lists of another size
		a.log.Info("The kept list was pulled with another key; the first list of this key replaces it, whatever its size")
	}
	a.enforcer.fresh = &pulled{list: v.List, at: clock.Moment{Wall: c.Pulled}, kept: true}
	return true
}

// refresh takes what a pull came to into force, and tells. It returns how long to wait for the next. Whatever failed, what
// was enforced stays.
func (a *Agent) refresh(ctx context.Context, t turn) time.Duration {
	if ctx.Err() != nil {
		return a.cfg.PullInterval
	}
	e := &a.enforcer
	if t.order.accept {
		e.rejected = nil // the operator has it tried again
		e.own.forgive()
	}
	a.judge(t)
	if err := a.putInForce(ctx); err == nil {
		a.suspect(ctx, t.err)
	}
	if ctx.Err() != nil {
		return a.cfg.PullInterval
	}
	wait := a.nextPull()
	if e.failure != nil || e.unapplied != nil {
		a.tellFailure(min(wait, e.retry.Left()))
	}
	a.publish()
	a.setStatus(func(s *status.Status) { s.NextPullAt = a.clock.After(wait) })
	for _, c := range t.order.askers {
		c <- a.outcome()
	}
	return wait
}

// judge takes what a pull came to as the list that is wanted, or remembers why not.
func (a *Agent) judge(t turn) {
	e := &a.enforcer
	a.setStatus(func(s *status.Status) { s.Pulls = s.Pulls.With(pullResult(t.err)) })
	e.failure = t.err
	refusal, isRefused := errors.AsType[*vet.RefusalError](t.err)
	aside := e.refused.aside
	switch {
	case t.err == nil:
		a.accept(pulled{list: t.verdict.List, at: a.clock.Now()})
		a.tellVerdict(t.verdict)
	case isRefused && refusal.Overrulable() && e.pulledAt != (clock.Moment{}) && refusal.List.Equal(e.pulled):
		a.accept(pulled{list: refusal.List, at: a.clock.Now()}) // it was accepted before, and is in force
	case t.order.accept && aside != nil && (!isRefused || refusal.Overrulable()):
		if isRefused && !refusal.List.Equal(aside.List) {
			a.log.Warn("The API gives another list now, which is judged at the next pull; enforcing the one that was refused and shown",
				zap.String("list", aside.Aside), zap.Error(refusal))
		}
		a.accept(pulled{list: aside.List, at: e.refused.at})
	case isRefused:
		a.refuse(refusal)
		e.failure = fmt.Errorf("vet blacklist: %w", refusal) // which names the list now
	}
	a.remember(e.failure, status.PullError)
}

// accept takes a list as the one that is wanted.
func (a *Agent) accept(p pulled) {
	a.enforcer.fresh, a.enforcer.failure = &p, nil
	a.unrefuse()
}

func (a *Agent) tellVerdict(v vet.Verdict) {
	a.log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()), zap.Int("repeated", v.Repeated),
		zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		a.log.Warn("The pulled list has lines that are no address; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
}

// wanted composes what is to be in force from the newest of everything: the API's list and the operator's, less what is
// whitelisted.
func (a *Agent) wanted() desired {
	allow := a.allowed()
	a.enforcer.own.reconsider(allow)
	return desired{block: a.enforcer.pulled.Union(a.enforcer.own.entries()).Without(allow), allow: allow}
}

// covered returns an error if the whitelist covers all that the lists hold, so that nothing is blocked.
func (e *enforcer) covered() error {
	if listed := e.pulled.Len() + e.own.entries().Len(); e.enforced != nil && listed > 0 && e.enforced.block.Len() == 0 {
		return fmt.Errorf("%s, and all are whitelisted", blocklist.Entries(listed))
	}
	return nil
}

// empty returns an error if rules are in force that block nothing.
func (e *enforcer) empty() error {
	switch {
	case e.enforced == nil || e.entries4+e.entries6 > 0:
		return nil
	case e.enforced.block.Len() > 0:
		return errors.New("this host filters no address family that the list has entries of")
	}
	return errors.New("it has no entries")
}

func (d desired) equal(e *desired) bool {
	return e != nil && d.block.Equal(e.block) && d.allow.Equal(e.allow)
}

// uselessError is a list that was downloaded, and counts in the quota, but could not be read.
type uselessError struct{ error }

func (e uselessError) Unwrap() error { return e.error }

// vetted is vet.Vet, but returns an error where that panics: a list that does that must end neither
// the process nor each one after it.
func vetted(body io.Reader, o vet.Options) (v vet.Verdict, err error) {
	err = panics.Contain(func() error {
		v, err = vet.Vet(body, o)
		return err
	})
	return v, err
}

// pull asks the API for its list and vets it. It touches nothing of the enforcing task's.
func (a *Agent) pull(ctx context.Context, o vet.Options) (vet.Verdict, error) {
	body, err := a.feed.Pull(ctx)
	if err != nil {
		return vet.Verdict{}, fmt.Errorf("pull blacklist: %w", err)
	}
	v, err := vetted(body, o)
	if err = errors.Join(err, body.Close()); isForeign(err) {
		return vet.Verdict{}, fmt.Errorf("pull blacklist: %w", err)
	}
	if err != nil {
		return vet.Verdict{}, uselessError{fmt.Errorf("vet blacklist: %w", err)}
	}
	return v, nil
}
