package enforce

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// firstSurveyMost is how long a start waits for the first survey before it activates the saved lists: a host without network
// must not wait for its protection.
const firstSurveyMost = time.Second

// remote is the state of a feed that is fetched over the network.
type remote struct {
	feed         feed.Feed
	saved        *feed.Saved
	saver        *saver // of the active list
	refusedSaver *saver

	list     accepted  // the last list that was accepted and applied
	fresh    *accepted // a list that was accepted and is not active yet; nil for none
	baseline int       // entries of the last active list, for the guards
	refused  refused

	next    *clock.Alarm // the next pull
	busy    bool         // a turn is under way
	queued  *order       // requests that came meanwhile
	failure error        // of the last pull; nil if it succeeded
	wait    *backoff.ExponentialBackOff
	wasted  int // lists that were downloaded since one became active
	offline offline
}

// accepted is a list that the guards or the operator accepted.
type accepted struct {
	entries blocklist.Blocklist
	at      clock.Moment // when it was fetched; zero if there is none
	saved   bool         // it is of the run before
}

func (e *Enforcer) newRemote(o Remote) *remote {
	r := &remote{feed: o.Feed, saved: o.Saved, wait: clock.NewBackoff(retryFirst, retryMost)}
	r.saver = newSaver(e.reportList)
	r.refusedSaver = newSaver(func(error, bool) {}) // an operator who accepts the list notices
	return r
}

// vetOptions returns the sizes that the next list is measured against.
func (r *remote) vetOptions() vet.Options {
	return vet.Options{Baseline: r.baseline, Largest: r.saved.Largest(), Shrunk: r.refused.shrunk, Grown: r.refused.grown}
}

// quota returns the quota of the feed; it is not Known if the feed has none.
func (r *remote) quota() sikkerapi.Quota {
	if f, ok := r.feed.(interface{ Quota() sikkerapi.Quota }); ok {
		return f.Quota()
	}
	return sikkerapi.Quota{}
}

// errNotPulled is the state between a start and the end of its first pull.
var errNotPulled = errors.New("the first pull since the start has not ended yet")

// restore activates the saved lists and the operator's file before the network is tried: a reboot without the API loses
// nothing.
func (e *Enforcer) restore(ctx context.Context) {
	readC := e.own.reader.ask()
	e.recallNames()
	e.restoreOwn()
	restored := false
	for _, r := range e.remotes {
		if e.restoreList(r) {
			restored = true
		} else {
			r.failure = errNotPulled
		}
	}
	if !restored && e.o.Own == nil {
		return
	}
	if !e.surveys.await(ctx, e.surveys.ask(), firstSurveyMost) {
		return
	}
	e.awaitOwn(ctx, readC)
	e.takeOwn()
	switch {
	case restored && !e.o.DryRun:
		e.o.Log.Info("Enforcing the saved list until the API answers", zap.String("pulled", e.freshTimes()))
	case !restored && e.own.list.Len() == 0:
		return
	}
	if err := e.applyAll(ctx); err != nil && ctx.Err() == nil {
		e.o.Log.Error("The saved list is not enforced", zap.Error(err))
		e.publish()
	}
}

// freshTimes returns when the fresh lists were fetched.
func (e *Enforcer) freshTimes() string {
	var times []string
	for _, r := range e.remotes {
		if r.fresh != nil {
			times = append(times, r.fresh.at.Wall.Format(time.RFC3339))
		}
	}
	return strings.Join(times, ", ")
}

// restoreList makes the saved list of r a fresh one, and reports whether there is one.
func (e *Enforcer) restoreList(r *remote) bool {
	c, err := readDisk(saveMost, "reading of the saved list", r.saved.Load)
	id := r.feed.Identity()
	var damaged *feed.DamagedError
	switch {
	case errors.Is(err, feed.ErrNoCopy):
		return false
	case errors.As(err, &damaged):
		e.o.Log.Warn("The saved list is damaged and was set aside", zap.Error(err), zap.String("aside", damaged.Aside))
		return false
	case err != nil:
		e.warnOfDisk("The saved list cannot be read", err)
		return false
	case c.Request != id.Request && c.Source != id.Source:
		e.o.Log.Info("The saved list is of another API or score, and is not used")
		return false
	}
	// The guards accepted it once. Only a body that is no list is refused now.
	v, err := vetted(bytes.NewReader(c.Body), vet.Options{Overrule: true})
	if err != nil {
		e.o.Log.Warn("The saved list is not used", zap.Error(err))
		return false
	}
	if c.Request == id.Request {
		r.baseline = v.List.Len()
	} else { // it protected the same host and account; the lists of the new key may have other sizes
		e.o.Log.Info("The saved list was pulled with another key; the first list of this key replaces it, whatever its size")
	}
	r.fresh = &accepted{entries: v.List, at: clock.Moment{Wall: c.Fetched}, saved: true}
	return true
}

// judge makes the list of a pull the fresh one, or stores the reason why it is not.
func (e *Enforcer) judge(t turn) {
	r := t.remote
	e.setStatus(func(s *status.Status) { s.Pulls = s.Pulls.With(pullResult(t.err)) })
	r.failure = t.err
	refusal, isRefused := errors.AsType[*vet.RefusalError](t.err)
	aside := r.refused.aside
	switch {
	case t.err == nil:
		e.accept(r, accepted{entries: t.verdict.List, at: e.o.Clock.Now()})
		e.logVerdict(t.verdict)
	case isRefused && refusal.Overrulable() && r.list.at != (clock.Moment{}) && refusal.List.Equal(r.list.entries):
		e.accept(r, accepted{entries: refusal.List, at: e.o.Clock.Now()}) // it was accepted before, and is active
	case t.order.accept && aside != nil && (!isRefused || refusal.Overrulable()):
		if isRefused && !refusal.List.Equal(aside.List) {
			e.o.Log.Warn("The API gives another list now, which is judged at the next pull; enforcing the one that was refused and shown",
				zap.String("list", aside.Aside), zap.Error(refusal))
		}
		e.accept(r, accepted{entries: aside.List, at: r.refused.at})
	case isRefused:
		e.refuse(r, refusal)
		r.failure = fmt.Errorf("vet blacklist: %w", refusal) // which names the list now
	}
	e.remember(r.failure, status.PullError)
}

// accept makes a list the fresh one of r.
func (e *Enforcer) accept(r *remote, a accepted) {
	r.fresh, r.failure = &a, nil
	e.unrefuse(r)
}

func (e *Enforcer) logVerdict(v vet.Verdict) {
	e.o.Log.Debug("List accepted", zap.Int("lines", v.Lines), zap.Int("entries", v.List.Len()), zap.Int("repeated", v.Repeated),
		zap.Int("specialPurpose", v.Special), zap.Int("malformed", v.Bad))
	if v.Bad > 0 {
		e.o.Log.Warn("The pulled list has lines that are no address; they are left out",
			zap.Int("lines", v.Bad), zap.Int("of", v.Lines), zap.Error(v.Malformed[0]))
	}
}

// setList replaces the list of r in what is composed.
func (e *Enforcer) setList(r *remote, a accepted) {
	r.list = a
	if e.o.Listed != nil {
		e.o.Listed(r.feed.Name(), a.entries)
	}
	if r == e.remotes[0] {
		e.setStatus(func(s *status.Status) { s.PulledAt, s.Kept = a.at, a.saved })
	}
}

// saveList makes the active list of r the one that the guards measure the next one against, and has it written to the disk for
// the next start.
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

// reportList makes the status say whether the list is on the disk, and logs each change of that.
func (e *Enforcer) reportList(err error, changed bool) {
	switch {
	case err == nil && changed:
		e.o.Log.Info("The list is saved now")
	case err != nil && changed:
		e.warnOfDisk("The list cannot be saved; a start without the API would not protect", err)
	}
	e.setCondition(status.CondUnkept, err)
}
