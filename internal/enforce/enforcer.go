package enforce

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/memory"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// Enforcer keeps the kernel's rules equal to the lists less the allowlist. Run is its loop. The
// other exported methods may be called by any goroutine, except Open and Close.
type Enforcer struct {
	o       Options
	surveys *surveyor
	allow   allowlist
	remotes []*remote
	own     ownList
	names   names
	unsaved unsaved

	backend  backend
	active   active
	trials   trials
	attempts attempts
	repair   repairer
	loop     loop
	pulse    pulse
	counts   counts
}

// Host is the part of host.Host that the Enforcer depends on.
type Host interface {
	Local() host.Whitelist                                  // surveys the kernel and the files
	Names(ctx context.Context) host.Whitelist               // resolves names, and returns the whole survey
	Probe(ctx context.Context, names ...string) host.Checks // makes the named checks, or all
	CheckNames() []string                                   // names the checks that Probe makes
	AnsweredFrom(port uint16) bool                          // reports whether the host depends on replies from a port
	Surroundings() (contained, bridged error)
	Watch(ctx context.Context, changed func()) error
	WatchFiles(ctx context.Context, changed func()) error
	Recall(n host.Names, now time.Time)
	Resolved(now time.Time) host.Names
}

// Remote is a feed that is fetched over the network, with its saved lists.
type Remote struct {
	Feed  feed.Feed
	Saved *feed.Saved
}

// Own is the operator's file, with its saved list.
type Own struct {
	File  *feed.File
	Saved *feed.Saved
	Path  string // for messages
}

// Settings are the configured values of an Enforcer.
type Settings struct {
	DryRun       bool
	PullInterval time.Duration
	Allow        []netip.Prefix // the configured allowlist
	LogGroup     uint16
	LogRate      uint32 // packets a second
}

// Options are the settings and the dependencies of an Enforcer.
type Options struct {
	Settings

	HangupC   <-chan os.Signal // each value requests a pull; nil for never
	Host      Host
	Remotes   []Remote // at least one; the status shows the times and the quota of the first
	Own       *Own     // nil for none
	StateDir  *feed.Dir
	Open      func() (firewall.Backend, error)               // opens the firewall; not called in a dry run
	Leftovers func() ([]string, error)                       // names the rules of other runs
	RestC     <-chan struct{}                                // closed once the rest of the agent runs; nil for none
	Counters  func(context.Context) (store.Counters, error)  // reads the sums of earlier runs
	Listed    func(feed string, entries blocklist.Blocklist) // receives each list that is applied; nil for none
	Memory    *memory.Reclaimer                              // returns the memory of starts and refreshes; nil for none

	Board *status.Board
	Clock clock.Clock
	Log   *zap.Logger
}

// New returns an Enforcer. Nothing is opened yet.
func New(o Options) *Enforcer {
	if o.RestC == nil {
		c := make(chan struct{})
		close(c)
		o.RestC = c
	}
	e := &Enforcer{
		o:        o,
		backend:  backend{leftovers: leftovers{names: o.Leftovers}, lostC: make(chan error, 1)},
		trials:   newTrials(),
		attempts: attempts{retry: clock.NewRetry(retryFirst, retryMost)},
		loop:     newLoop(),
	}
	for _, r := range o.Remotes {
		e.remotes = append(e.remotes, e.newRemote(r))
	}
	e.own.saver, e.names.saver = newSaver(e.reportOwn), newSaver(e.reportNames)
	e.surveys = newSurveyor(
		func(context.Context) host.Whitelist {
			defer e.publishSurroundings()
			return e.o.Host.Local()
		},
		func(ctx context.Context) host.Whitelist { return e.o.Host.Names(ctx) })
	if o.Own != nil {
		e.own.reader = newOwnReader(o.Own.File.Open, o.Memory)
	}
	e.backend.ledger = e.newLedger()
	return e
}

// loop is the state of Run.
type loop struct {
	pullC  chan order     // requests for a pull of every feed
	lostC  chan lostFiles // capacity 1: saved files to write again
	readyC chan struct{}  // closed once the lists of the start are active
	pulseC chan struct{}  // unbuffered: a receive shows that Run is alive
	turnC  chan turn      // the end of each turn

	isReady sync.Once // closes readyC

	begun   bool  // Run was called before
	pulls   bool  // the first pulls have begun or are scheduled
	running bool  // the start was logged
	current *turn // the turn whose result is being applied; nil for none
}

func newLoop() loop {
	return loop{
		pullC: make(chan order), lostC: make(chan lostFiles, 1), readyC: make(chan struct{}),
		pulseC: make(chan struct{}),
	}
}

// ready closes ReadyC.
func (l *loop) ready() { l.isReady.Do(func() { close(l.readyC) }) }

// Run activates the saved lists and then pulls, at once and at every interval, sooner after a
// failure or when asked, until ctx ends. Then it returns nil. Meanwhile it follows the host and
// repairs the rules. After a panic it can be called again: the rules are still active, and it
// resumes.
func (e *Enforcer) Run(ctx context.Context) error {
	l := &e.loop
	if l.begun {
		e.resume(ctx)
	} else {
		e.start(ctx)
	}
	restC := e.o.RestC
	for {
		soonest := e.soonest()
		select {
		case <-ctx.Done():
			e.stop()
			return nil
		case t := <-l.turnC:
			e.finish(ctx, t)
		case <-e.surveys.newsC:
			e.applySurvey(ctx)
			e.pullIfNetwork()
		case <-e.own.reader.news():
			e.updateOwn()
			e.reconcile(ctx, "Custom blacklist changed")
		case <-soonest.tickC():
			if soonest.next.Due() {
				e.begin(ctx, soonest, order{})
			}
		case <-e.o.HangupC:
			e.o.Log.Info("SIGHUP: pulling now")
			e.beginAll(ctx, order{})
		case o := <-l.pullC:
			e.o.Log.Info("Pull requested", zap.Bool("accept", o.accept))
			e.beginAll(ctx, o)
		case err := <-e.backend.lostC:
			e.checkLoss(err)
		case <-e.repair.due():
			e.repairRules(ctx)
		case <-e.attempts.retry.DueC():
			e.retryApply(ctx)
		case <-e.trials.recheck.due():
			e.recheckFailed(ctx)
		case lost := <-l.lostC:
			e.rewriteLost(lost)
		case <-e.own.rejected.due():
			e.own.clearRejection()
			e.reconcile(ctx, "Trying the custom blacklist again")
		case <-restC:
			restC = nil
			if e.hasList() {
				e.logRunning()
			}
		case failing := <-e.trials.late.failedC:
			e.testLate(ctx, failing)
		case <-e.trials.repliedC:
			e.testUpstreams(ctx)
		case <-l.pulseC: // Run is alive
		}
	}
}

// start activates the saved lists and begins the first pulls.
func (e *Enforcer) start(ctx context.Context) {
	defer e.o.Memory.Begin()()
	l := &e.loop
	l.turnC, l.begun = make(chan turn), true
	for _, r := range e.remotes {
		r.next = clock.NewAlarm(e.o.Clock, e.o.PullInterval)
	}
	saved := e.readSaved()
	e.restore(ctx, saved)
	e.publishFailures()
	l.ready()
	for i, r := range e.remotes {
		e.restoreRefused(r, saved.refused[i])
	}
	l.pulls = true
	for _, r := range e.remotes {
		first := e.firstPull(r)
		if first == 0 {
			e.begin(ctx, r, order{})
			continue
		}
		r.next.Reset(first)
		e.o.Log.Info("The first pull waits: most of the quota is spent, and the saved list is active",
			zap.Duration("in", first.Round(time.Second)))
		e.setNextPull(r, first)
	}
}

// errFault is the failure of a pull that ended with a panic.
var errFault = errors.New("a fault of SikkerGuard itself ended this pull: see the log")

// resume continues after a panic of the loop. The kernel may have other rules than the Enforcer
// assumes, so the rules are applied and verified again. A turn that was being applied is lost: its
// askers receive an error, and the next pull of its feed is delayed, because its list may be the
// cause.
func (e *Enforcer) resume(ctx context.Context) {
	l := &e.loop
	l.ready()
	if t := l.current; t != nil {
		l.current = nil
		t.remote.failure = errFault
		for _, c := range t.order.askers {
			select {
			case c <- e.outcome():
			default: // it has received its outcome
			}
		}
		t.remote.next.Reset(max(retryRefused, t.remote.spareQuota()))
	}
	for _, r := range e.remotes {
		switch {
		case !l.pulls: // a saved or a refused list is the cause
			e.begin(ctx, r, order{})
		case !r.busy:
			e.end(ctx, r) // begins the pull that was requested meanwhile
		}
	}
	l.pulls = true
	if !e.o.DryRun && e.active.rules != nil {
		if _, err := e.applyRules(ctx, *e.active.rules); err != nil && ctx.Err() == nil {
			e.repair.schedule(err)
		}
	}
	e.publish()
}

// stop waits for the turns under way and for the savers. A turn ends with the context unless a disk
// hangs.
func (e *Enforcer) stop() {
	for _, r := range e.remotes {
		if r.busy {
			<-e.loop.turnC
		}
		r.next.Stop()
	}
	e.endSavers()
}

// endSavers waits until the newest values are written, but not longer than saveMost.
func (e *Enforcer) endSavers() {
	most, cancel := context.WithTimeout(context.Background(), saveMost)
	defer cancel()
	for _, s := range e.savers() {
		s.end(most.Done())
	}
}

// savers returns every saver.
func (e *Enforcer) savers() []*saver {
	all := []*saver{e.own.saver, e.names.saver}
	for _, r := range e.remotes {
		all = append(all, r.saver, r.refusedSaver)
	}
	return all
}

// soonest returns the feed whose next pull comes first; nil if a pull of every feed is under way.
// The end of a pull sets the time of the next.
func (e *Enforcer) soonest() *remote {
	var first *remote
	for _, r := range e.remotes {
		if !r.busy && (first == nil || r.next.Left() < first.next.Left()) {
			first = r
		}
	}
	return first
}

// tickC is ready when it may be time for the next pull of r; never for a nil remote.
func (r *remote) tickC() <-chan time.Time {
	if r == nil {
		return nil
	}
	return r.next.TickC()
}

// ReadyC returns a channel that is closed once the rules of the start are active, or there are none.
func (e *Enforcer) ReadyC() <-chan struct{} { return e.loop.readyC }

// offer sends v to a channel of capacity 1 that a loop receives from. If a value is waiting
// already, v is dropped.
func offer[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}
