package enforce

import (
	"errors"
	"fmt"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/vet"
)

// refused holds the refusals since a list was accepted. The last list that the operator may accept
// is set aside in memory and on the disk. An operator who accepts it gets the list that was shown.
type refused struct {
	err           *vet.RefusalError // the last refusal; nil if a list was accepted since
	aside         *vet.RefusalError // the last refusal of a list that may be accepted; nil for none
	at            clock.Moment      // when the list in aside was pulled
	shrunk, grown int               // for vet.Options
}

// add records a refusal, and reports whether another list is set aside.
func (r *refused) add(err *vet.RefusalError, now clock.Moment) bool {
	r.err = err
	switch err.Guard {
	case vet.GuardShrink:
		r.shrunk, r.grown = err.Entries, 0
	case vet.GuardGrowth:
		r.shrunk, r.grown = 0, err.Entries
	case vet.GuardEntries, vet.GuardMalformed, vet.GuardEmpty, vet.GuardWidth, vet.GuardCoverage:
	}
	if !err.Overrulable() {
		return false
	}
	r.aside, r.at = err, now
	err.Aside = asideName(err.List, now.Wall)
	return true
}

// asideName returns the name of a list that is set aside, for messages.
func asideName(list blocklist.Blocklist, at time.Time) string {
	pulled := at.UTC().Format(time.RFC3339)
	return fmt.Sprintf("list %.12s of %s, pulled %s", feed.Checksum(list), blocklist.Entries(list.Len()), pulled)
}

// refuse records a refusal, and has the list saved if the operator may accept it.
func (e *Enforcer) refuse(from *remote, err *vet.RefusalError) {
	r := &from.refused
	e.countRefusal(err.Guard)
	if !r.add(err, e.o.Clock.Now()) || e.o.DryRun {
		return
	}
	e.saveRefused(from)
}

// saveRefused has the list that is set aside written to the disk.
func (e *Enforcer) saveRefused(from *remote) {
	r := &from.refused
	list, at := r.aside.List, e.o.Clock.WallOf(r.at)
	what := feed.Refused{Guard: string(r.aside.Guard), Reason: r.aside.Reason, Shrunk: r.shrunk, Grown: r.grown}
	from.refusedSaver.save(func() error { return from.saved.SaveRefused(list, at, what) })
}

// clearRefused forgets the refusals: the guards or the operator accepted a list.
func (e *Enforcer) clearRefused(from *remote) {
	r := &from.refused
	isAside := r.aside != nil
	*r = refused{}
	if isAside && !e.o.DryRun {
		from.refusedSaver.save(from.saved.DropRefused)
	}
}

// restoreRefused loads the list that the last run set aside.
func (e *Enforcer) restoreRefused(from *remote, read func() (refusedList, error)) {
	c, err := read()
	if errors.Is(err, feed.ErrNoCopy) {
		return
	}
	if err != nil {
		e.logDiskFailure("The list that the last run refused cannot be read; "+
			"`sikkerguard pull --accept` cannot use it", err)
		return
	}
	refusal := &vet.RefusalError{
		Guard: vet.Guard(c.Guard), Entries: c.entries.Len(), Reason: c.Reason,
		List: c.entries, Aside: asideName(c.entries, c.Fetched),
	}
	from.refused = refused{
		err: refusal, aside: refusal, at: clock.Moment{Wall: c.Fetched}, shrunk: c.Shrunk, grown: c.Grown,
	}
	e.publishFailures()
}
