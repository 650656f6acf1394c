package enforce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/counters"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

const (
	// lookBriefly is how long the first survey may take before the kept list is enforced: a host without network must not
	// wait for its protection.
	lookBriefly = time.Second
)

// Enforcer keeps the kernel's rules at the lists less the allowlist.
type Enforcer struct {
	o     Options
	log   *zap.Logger
	board *status.Board
	clock clock.Clock

	host    Host
	surveys *surveyor
	feed    *feed.Feed
	fw      firewall.Backend // nil in a dry run
	gate    *gate            // what fw is, once it was opened
	gaps    []string         // of the firewall, that were told
	others  leftovers
	ledger  *counters.Ledger
	allow   allowlist

	pullC      chan order     // what the enforcing task is asked
	lostFilesC chan feed.Lost // capacity 1: saved lists that another program took from the disk
	answeredC  chan struct{}  // capacity 1: answers were dropped that this host may need
	lostC      chan error     // capacity 1: the rules are no longer what was applied
	readyC     chan struct{}  // capacity 1: what there is to enforce at the start is in force
	pulseC     chan struct{}  // unbuffered: that the enforcing task takes from it shows that it goes on

	custom    *customReader
	answerers answerers
	heart     heart
	loop      enforceLoop

	pulled   blocklist.Blocklist // the last list of the API that was accepted
	pulledAt clock.Moment        // when; zero: none was yet
	kept     bool                // it is of the run before
	fresh    *pulled             // a list that was accepted and is not in force yet; nil for none
	own      ownList             // the operator's list
	baseline int                 // entries of the API's list last in force, for the guards
	refused  refused

	saver        *saver // of the API's list
	refusedSaver *saver
	names        names

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

// Options are the dependencies of an Enforcer.
type Options struct {
	DryRun       bool
	PullInterval time.Duration
	OwnFile      string         // the operator's list, for messages; empty for none
	Allow        []netip.Prefix // the configured allowlist
	LogGroup     uint16
	LogRate      uint32
	HangupC      <-chan os.Signal // each value asks for a pull at once; nil for never

	Host      Host
	Feed      *feed.Feed
	Open      func() (firewall.Backend, error)              // opens the firewall; not called in a dry run
	Leftovers func() ([]string, error)                      // names the rules of other runs
	Counters  func(context.Context) (store.Counters, error) // reads the sums of earlier runs
	Listed    func(blocklist.Blocklist)                     // takes the API's list when it is put in force; nil for none
	Board     *status.Board
	Clock     clock.Clock
	Log       *zap.Logger
}

// errNotOpen is the answer to a question about the kernel before Open.
var errNotOpen = errors.New("the firewall is not open")

// New returns an Enforcer. Nothing is opened yet.
func New(o Options) *Enforcer {
	e := &Enforcer{
		o: o, log: o.Log, board: o.Board, clock: o.Clock, host: o.Host, feed: o.Feed,
		others:     leftovers{inForce: o.Leftovers},
		pullC:      make(chan order),
		lostC:      make(chan error, 1),
		answeredC:  make(chan struct{}, 1),
		lostFilesC: make(chan feed.Lost, 1),
		readyC:     make(chan struct{}, 1),
		pulseC:     make(chan struct{}),
		wait:       clock.NewBackoff(retryFirst, retryMost), retry: clock.NewRetry(retryFirst, retryMost), doubt: doubt{wait: clock.NewRetry(doubtFirst, retryMost)},
	}
	e.saver, e.own.saver, e.names.saver = newSaver(e.reportList), newSaver(e.reportOwn), newSaver(e.reportNames)
	e.refusedSaver = newSaver(func(error, bool) {}) // an operator who accepts the list notices
	e.surveys = newSurveyor(
		func(context.Context) host.Whitelist {
			defer e.lookAround()
			return e.host.Local()
		},
		func(ctx context.Context) host.Whitelist { return e.host.Names(ctx) })
	if o.OwnFile != "" {
		e.custom = newCustomReader(e.feed.Custom)
	}
	e.ledger = counters.New(counters.Options{
		Kernel: func() (ruleset.Counters, error) {
			if e.fw == nil {
				return ruleset.Counters{}, errNotOpen
			}
			return e.fw.Counters()
		}, Stored: o.Counters,
	})
	return e
}

// endSavers waits until the newest values are written, at most for saveMost.
func (e *Enforcer) endSavers() {
	timer := time.NewTimer(saveMost)
	defer timer.Stop()
	for _, s := range []*saver{e.saver, e.own.saver, e.refusedSaver, e.names.saver} {
		s.wait(timer.C)
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
	accept bool             // enforce the list that was refused
	askers []chan<- Outcome // capacity 1 each: nobody needs to wait
}

// turn is what was found out, off the enforcing task, which must not wait for the network.
type turn struct {
	order   order
	before  host.Whitelist // the host when it began
	verdict vet.Verdict
	err     error // of the pull
}

// Run puts the kept list in force and then pulls, at once and at every interval, sooner after a failure or when asked, until ctx
// ends. Then it returns nil. Meanwhile it looks after what is in force. After a panic it can be called again: the rules are
// still in force, and it resumes.
func (e *Enforcer) Run(ctx context.Context) error {
	l := &e.loop
	if l.begun {
		e.resume(ctx, l)
	} else {
		e.turnC, l.begun, l.next = make(chan turn), true, clock.NewAlarm(e.clock, e.o.PullInterval)
		e.beginEnforcing(ctx, l)
	}
	next := l.next
	for {
		select {
		case <-ctx.Done():
			if e.busy {
				<-e.turnC // it ends with ctx, unless a disk hangs, and then Run does not wait for it
			}
			e.endSavers()
			next.Stop()
			return nil
		case t := <-e.turnC:
			e.busy, l.taking = false, &t
			e.takeOwn()
			next.Reset(e.refresh(ctx, t))
			l.taking = nil
			e.offline.pulled(t.err, t.before)
			if !l.running && ctx.Err() == nil {
				l.running = true
				e.tellRunning()
			}
			e.retestExemptions(ctx)
			e.end(ctx)
			e.pullIfNetwork(next)
		case <-e.surveys.newsC:
			e.takeSurvey(ctx)
			e.pullIfNetwork(next)
		case <-e.custom.news():
			e.takeOwn()
			e.reconcile(ctx, "Custom blacklist changed")
		case <-next.TickC():
			if next.Due() {
				e.begin(ctx, order{})
			}
		case <-e.o.HangupC:
			e.log.Info("SIGHUP: pulling now")
			e.begin(ctx, order{})
		case o := <-e.pullC:
			e.log.Info("Asked to pull now", zap.Bool("accept", o.accept))
			e.begin(ctx, o)
		case err := <-e.lostC:
			e.takeLoss(err)
		case <-e.repair.due():
			e.restoreRules(ctx)
		case <-e.retry.DueC():
			e.tryAgain(ctx)
		case <-e.doubt.due():
			e.doubtAgain(ctx)
		case lost := <-e.lostFilesC:
			e.saveAgain(lost)
		case <-e.own.rejected.due():
			e.own.forgive()
			e.reconcile(ctx, "Trying the custom blacklist again")
		case <-e.answeredC:
			e.suspectUpstreams(ctx)
		case <-e.pulseC: // the supervisor is told that enforcing goes on
		}
	}
}

// begin starts a turn, or has one follow the turn that is under way.
func (e *Enforcer) begin(ctx context.Context, o order) {
	readC := e.custom.ask() // a pull that hangs does not keep the operator's list waiting
	if e.busy {
		if q := e.queued; q != nil {
			o.accept, o.askers = o.accept || q.accept, append(q.askers, o.askers...)
		}
		e.queued = &o
		return
	}
	e.busy = true
	vo := e.vetOptions()
	go func() { // enforce waits for it
		surveyedC := e.surveys.ask() // a list is measured by a look at the host that is no older than the pull
		t := turn{order: o, before: e.surveys.first(ctx)}
		if err := panics.Contain(func() error {
			t.verdict, t.err = e.pull(ctx, vo)
			return nil
		}); err != nil {
			t.err = err
		}
		if unreached(t.err) {
			e.surveys.ask() // the API may have another address
		}
		e.surveys.await(ctx, surveyedC, surveyMost)
		e.awaitOwn(ctx, readC)
		e.turnC <- t
	}()
}

// vetOptions returns the sizes that the next list is measured against.
func (e *Enforcer) vetOptions() vet.Options {
	return vet.Options{Baseline: e.baseline, Largest: e.feed.Largest(), Shrunk: e.refused.shrunk, Grown: e.refused.grown}
}

// end makes room for the next turn, and begins it when one was asked for.
func (e *Enforcer) end(ctx context.Context) {
	e.busy = false
	if q := e.queued; q != nil {
		e.queued = nil
		e.begin(ctx, *q)
	}
}

// restore puts the lists of the last run and the operator's file in force, before the network is tried: a reboot without the
// API loses nothing.
func (e *Enforcer) restore(ctx context.Context) {
	readC := e.custom.ask()
	e.recallNames()
	e.restoreOwn()
	kept := e.restorePulled()
	if !kept && e.o.OwnFile == "" {
		return
	}
	if !e.surveys.await(ctx, e.surveys.ask(), lookBriefly) {
		return
	}
	e.awaitOwn(ctx, readC)
	e.takeOwn()
	if !kept {
		e.failure = errNotPulled
	}
	switch {
	case kept && !e.o.DryRun:
		e.log.Info("Enforcing the kept list until the API answers", zap.String("pulled", e.fresh.at.Wall.Format(time.RFC3339)))
	case !kept && e.own.list.Len() == 0:
		return
	}
	if err := e.putInForce(ctx); err != nil && ctx.Err() == nil {
		e.log.Error("The kept list is not enforced", zap.Error(err))
		e.publish()
	}
}

// errNotPulled is the state between a start and the end of its first pull.
var errNotPulled = errors.New("the first pull since the start has not ended yet")

// restorePulled takes the API's list as the last run had it, and reports whether there is one.
func (e *Enforcer) restorePulled() bool {
	c, err := readDisk(saveMost, "reading of the kept list", e.feed.Kept)
	var damaged *feed.DamagedError
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return false
	case errors.As(err, &damaged):
		e.log.Warn("The kept list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return false
	case err != nil:
		e.warnOfDisk("The kept list cannot be read", err)
		return false
	case c.Request != e.feed.Request() && c.Source != e.feed.Source():
		e.log.Info("The kept list is of another API or score, and is left alone")
		return false
	}
	// It was accepted once; only what is no list at all is refused now.
	v, err := vetted(bytes.NewReader(c.Body), vet.Options{Overrule: true})
	if err != nil {
		e.log.Warn("The kept list is left out", zap.Error(err))
		return false
	}
	if c.Request == e.feed.Request() {
		e.baseline = v.List.Len()
	} else { // with it the same host and account were protected; the new key may have lists of another size
		e.log.Info("The kept list was pulled with another key; the first list of this key replaces it, whatever its size")
	}
	e.fresh = &pulled{list: v.List, at: clock.Moment{Wall: c.Pulled}, kept: true}
	return true
}

// refresh takes what a pull came to into force, and tells. It returns how long to wait for the next. Whatever failed, what
// was enforced stays.
func (e *Enforcer) refresh(ctx context.Context, t turn) time.Duration {
	if ctx.Err() != nil {
		return e.o.PullInterval
	}
	if t.order.accept {
		e.rejected = nil // the operator has it tried again
		e.own.forgive()
	}
	e.judge(t)
	if err := e.putInForce(ctx); err == nil {
		e.suspect(ctx, t.err)
	}
	if ctx.Err() != nil {
		return e.o.PullInterval
	}
	wait := e.nextPull()
	if e.failure != nil || e.unapplied != nil {
		e.tellFailure(min(wait, e.retry.Left()))
	}
	e.publish()
	e.setStatus(func(s *status.Status) { s.NextPullAt = e.clock.After(wait) })
	for _, c := range t.order.askers {
		c <- e.outcome()
	}
	return wait
}

// judge takes what a pull came to as the list that is wanted, or remembers why not.
func (e *Enforcer) judge(t turn) {
	e.setStatus(func(s *status.Status) { s.Pulls = s.Pulls.With(pullResult(t.err)) })
	e.failure = t.err
	refusal, isRefused := errors.AsType[*vet.RefusalError](t.err)
	aside := e.refused.aside
	switch {
	case t.err == nil:
		e.accept(pulled{list: t.verdict.List, at: e.clock.Now()})
		e.tellVerdict(t.verdict)
	case isRefused && refusal.Overrulable() && e.pulledAt != (clock.Moment{}) && refusal.List.Equal(e.pulled):
		e.accept(pulled{list: refusal.List, at: e.clock.Now()}) // it was accepted before, and is in force
	case t.order.accept && aside != nil && (!isRefused || refusal.Overrulable()):
		if isRefused && !refusal.List.Equal(aside.List) {
			e.log.Warn("The API gives another list now, which is judged at the next pull; enforcing the one that was refused and shown",
				zap.String("list", aside.Aside), zap.Error(refusal))
		}
		e.accept(pulled{list: aside.List, at: e.refused.at})
	case isRefused:
		e.refuse(refusal)
		e.failure = fmt.Errorf("vet blacklist: %w", refusal) // which names the list now
	}
	e.remember(e.failure, status.PullError)
}

// accept takes a list as the one that is wanted.
func (e *Enforcer) accept(p pulled) {
	e.fresh, e.failure = &p, nil
	e.unrefuse()
}

func (e *Enforcer) tellVerdict(v vet.Verdict) {
	e.log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()), zap.Int("repeated", v.Repeated),
		zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		e.log.Warn("The pulled list has lines that are no address; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
}

// wanted composes what is to be in force from the newest of everything: the API's list and the operator's, less what is
// whitelisted.
func (e *Enforcer) wanted() desired {
	allow := e.allowed()
	e.own.reconsider(allow)
	return desired{block: e.pulled.Union(e.own.entries()).Without(allow), allow: allow}
}

// covered returns an error if the whitelist covers all that the lists hold, so that nothing is blocked.
func (e *Enforcer) covered() error {
	if listed := e.pulled.Len() + e.own.entries().Len(); e.enforced != nil && listed > 0 && e.enforced.block.Len() == 0 {
		return fmt.Errorf("%s, and all are whitelisted", blocklist.Entries(listed))
	}
	return nil
}

// empty returns an error if rules are in force that block nothing.
func (e *Enforcer) empty() error {
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
func (e *Enforcer) pull(ctx context.Context, o vet.Options) (vet.Verdict, error) {
	body, err := e.feed.Pull(ctx)
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
