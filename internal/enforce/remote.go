package enforce

import (
	"errors"
	"fmt"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// remote is the state of a feed that is fetched over the network.
type remote struct {
	feed         feed.Feed
	saved        *feed.Saved
	saver        *saver // of the active list
	refusedSaver *saver

	list     accepted  // the last list that was accepted and applied
	fresh    *accepted // a list that was accepted and is not active yet; nil for none
	baseline int       // entries of the last active list; the guards compare the next list with it
	refused  refused
	rejected *rejection // of a list that was fresh and was rolled back; nil for none

	next    *clock.Alarm // the next pull
	busy    bool         // a turn is under way
	queued  *order       // a request that arrived meanwhile; nil for none
	failure error        // of the last pull; nil if it succeeded
	wait    *backoff.ExponentialBackOff
	wasted  int // downloads since one became active
	offline offline
}

// accepted is a list that the guards or the operator accepted.
type accepted struct {
	entries blocklist.Blocklist
	at      clock.Moment // when it was fetched; zero if there is none
	saved   bool         // it is the saved list of an earlier run
}

func (e *Enforcer) newRemote(o Remote) *remote {
	r := &remote{feed: o.Feed, saved: o.Saved, wait: clock.NewBackoff(retryFirst, retryMost)}
	r.saver = newSaver(func(err error, changed bool) { e.reportList(r, err, changed) })
	r.refusedSaver = newSaver(func(error, bool) {}) // a failure shows when an operator accepts the list
	return r
}

// vetOptions returns the sizes that the next list is measured against.
func (r *remote) vetOptions() vet.Options {
	return vet.Options{
		Baseline: r.baseline, Largest: r.saved.Largest(), Shrunk: r.refused.shrunk, Grown: r.refused.grown,
	}
}

// quota returns the quota of the feed; it is not Known if the feed has none.
func (r *remote) quota() sikkerapi.Quota {
	if f, ok := r.feed.(interface{ Quota() sikkerapi.Quota }); ok {
		return f.Quota()
	}
	return sikkerapi.Quota{}
}

// judge makes the list of a pull the fresh one, or stores the reason for its refusal.
func (e *Enforcer) judge(t turn) {
	r := t.remote
	e.countPull(t.err)
	r.failure = t.err
	refusal, isRefused := errors.AsType[*vet.RefusalError](t.err)
	aside := r.refused.aside
	switch {
	case t.err == nil:
		e.accept(r, accepted{entries: t.verdict.List, at: e.o.Clock.Now()})
		e.logVerdict(t.verdict)
	case isRefused && refusal.Overrulable() && r.list.at != (clock.Moment{}) && refusal.List.Equal(r.list.entries):
		e.accept(r, accepted{entries: refusal.List, at: e.o.Clock.Now()}) // it was accepted before and is active
	case t.order.accept && aside != nil && (!isRefused || refusal.Overrulable()):
		if isRefused && !refusal.List.Equal(aside.List) {
			e.o.Log.Warn("The API returned a different list, which is judged at the next pull; "+
				"enforcing the refused list that was shown",
				zap.String("list", aside.Aside), zap.Error(refusal))
		}
		e.accept(r, accepted{entries: aside.List, at: r.refused.at})
	case isRefused:
		e.refuse(r, refusal)
		r.failure = fmt.Errorf("vet blacklist: %w", refusal) // refuse has added the list's name
	}
	e.setError(r.failure, status.PullError)
}

// accept makes a list the fresh one of r.
func (e *Enforcer) accept(r *remote, a accepted) {
	if a.entries.Equal(r.list.entries) {
		a.entries = r.list.entries // one copy in memory
	}
	r.fresh, r.failure = &a, nil
	e.clearRefused(r)
}

func (e *Enforcer) logVerdict(v vet.Verdict) {
	e.o.Log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()),
		zap.Int("repeated", v.Repeated), zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		e.o.Log.Warn("The pulled list has lines that are not addresses; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
}

// setList replaces the list of r. The change is composed into the next wanted rules.
func (e *Enforcer) setList(r *remote, a accepted) {
	r.list = a
	if e.o.Listed != nil {
		e.o.Listed(r.feed.Name(), a.entries)
	}
	if r == e.remotes[0] {
		e.setStatus(func(s *status.Status) { s.PulledAt, s.Kept = a.at, a.saved })
	}
}

// saveList makes the active list of r the baseline of the guards, and has it written to the disk
// for the next start.
func (e *Enforcer) saveList(r *remote) {
	if r.list.saved { // it is on the disk, and restoreList has set the baseline
		return
	}
	r.baseline = r.list.entries.Len()
	r.saved.RecordActive(r.baseline, e.o.Clock.Now().Wall)
	if !e.o.DryRun {
		e.writeList(r)
	}
}

// writeList has the active list of r written to the disk.
func (e *Enforcer) writeList(r *remote) {
	list, at := r.list.entries, e.o.Clock.WallOf(r.list.at)
	r.saver.save(func() error { return r.saved.Save(list, at) })
}

// reportList publishes whether the list is on the disk, and logs each change of that.
func (e *Enforcer) reportList(r *remote, err error, changed bool) {
	switch {
	case err == nil && changed:
		e.o.Log.Info("The list is saved now")
	case err != nil && changed:
		e.logDiskFailure("The list cannot be saved; a start without the API would use an older list, or none", err)
	}
	e.unsaved.set(r, err, func(of func(*remote) error) { e.setCondition(status.CondUnkept, e.eachRemote(of)) })
}

// eachRemote joins the errors that get returns for the feeds. If there are several feeds, each
// error has the name of its feed.
func (e *Enforcer) eachRemote(get func(*remote) error) error {
	if len(e.remotes) == 1 {
		return get(e.remotes[0])
	}
	var all []error
	for _, r := range e.remotes {
		if err := get(r); err != nil {
			all = append(all, fmt.Errorf("%s: %w", r.feed.Name(), err))
		}
	}
	return errors.Join(all...)
}
