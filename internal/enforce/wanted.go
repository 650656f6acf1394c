package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/feed"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// desired is a ruleset that is active or wanted.
type desired struct {
	block, allow blocklist.Blocklist
}

func (d desired) equal(e *desired) bool {
	return e != nil && d.block.Equal(e.block) && d.allow.Equal(e.allow)
}

// active is the ruleset that the kernel has, as far as the Enforcer knows.
type active struct {
	rules    *desired // nil while none is active, but for adopted rules
	adopted  bool     // rules of a killed agent are active
	entries4 int      // entries that the kernel last confirmed, by family
	entries6 int      // 0 on a host that does not filter IPv6
	logged   bool     // the number of entries was logged, and no failure since
	listed   string   // the last log line about allowlisted entries of the lists

	lists atomic.Pointer[blocklist.Lists] // that rules was composed of; nil for none
}

// blocks reports whether the active rules block these entries and no others.
func (a *active) blocks(entries blocklist.Blocklist) bool {
	if a.rules == nil {
		return entries.Len() == 0
	}
	return entries.Equal(a.rules.block)
}

// blocked returns the number of entries that the active rules block.
func (a *active) blocked() int {
	if a.rules == nil {
		return 0
	}
	return a.entries4 + a.entries6
}

// Sources returns the names of the feeds whose lists contain addr, in the order of the feeds. The
// lists are those of the last rules that became active. It may be called by any goroutine.
func (e *Enforcer) Sources(addr netip.Addr) []string {
	lists := e.active.lists.Load()
	if lists == nil {
		return nil
	}
	return lists.Sources(addr)
}

// attempts is the state of applying rules that are not active yet.
type attempts struct {
	err       error        // why the wanted rules are not active; nil if they are
	retry     *clock.Retry // of applyAll, without a pull
	stale     error        // why the rules lack the newest allowlist or custom list; nil if they do not
	reconcile *time.Timer  // calls reconcile after a failure; nil before the first
}

// lists returns the lists of all feeds.
func (e *Enforcer) lists() blocklist.Lists {
	var all blocklist.Lists
	for _, r := range e.remotes {
		all = append(all, blocklist.List{Name: r.feed.Name(), Entries: r.list.entries})
	}
	return append(all, blocklist.List{Name: feed.FileName, Entries: e.own.entries()})
}

// wanted composes the ruleset of the newest lists and the newest allowlist.
func (e *Enforcer) wanted() desired {
	allow := e.allowed()
	e.own.clearIfChanged(allow)
	want := desired{block: e.lists().Merge().Without(allow), allow: allow}
	active := e.active.rules
	if active != nil && want.block.Equal(active.block) && want.block.Len() == active.block.Len() {
		want.block = active.block // one copy in memory
	}
	return want
}

// covered returns an error if every entry of the lists is allowlisted, so that nothing is blocked.
func (e *Enforcer) covered() error {
	if listed := e.lists().Len(); e.active.rules != nil && listed > 0 && e.active.rules.block.Len() == 0 {
		return fmt.Errorf("%s, and all are allowlisted", blocklist.Entries(listed))
	}
	return nil
}

// empty returns an error if the active rules block nothing.
func (e *Enforcer) empty() error {
	switch {
	case e.active.rules == nil || e.active.entries4+e.active.entries6 > 0:
		return nil
	case e.active.rules.block.Len() > 0:
		return errors.New("this host filters no address family that the list has entries of")
	}
	return errors.New("it has no entries")
}

// applyAll applies the wanted rules with the fresh lists. If those are proven to cut this host off,
// it applies the rules with the previous lists. After an error, the next attempt is scheduled.
func (e *Enforcer) applyAll(ctx context.Context) error {
	e.attempts.err = nil // the new result is published after the attempt
	err := e.applyFresh(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	e.recordAttempt(err)
	return err
}

// recordAttempt stores the result of an attempt to apply the wanted rules, and schedules the next.
func (e *Enforcer) recordAttempt(err error) {
	e.attempts.err = err
	e.setError(err, status.ApplyError)
	switch _, others := splitRollbacks(err); {
	case err == nil:
		e.attempts.retry.Reset()
	case others == nil:
		e.attempts.retry.In(e.rejectedLeft() + clock.LeastWait)
	default:
		e.attempts.retry.Schedule()
	}
}

// applyFresh applies the wanted rules with the fresh lists, except those that are rejected. If they
// are rolled back, it applies each list by itself. After a failure it restores the previous lists.
func (e *Enforcer) applyFresh(ctx context.Context) error {
	var (
		fresh []*remote
		errs  []error
	)
	allow := e.allowed()
	for _, r := range e.remotes {
		if err := r.rejectedFresh(allow); err != nil {
			errs = append(errs, err)
		} else if r.fresh != nil {
			fresh = append(fresh, r)
		}
	}
	if len(fresh) > 1 {
		if err := e.applyLists(ctx, fresh); !isRollback(err) || ctx.Err() != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	for _, r := range fresh {
		err := e.applyLists(ctx, []*remote{r})
		if isRollback(err) {
			e.rejectFresh(r)
		}
		errs = append(errs, err)
	}
	err := errors.Join(errs...)
	if ctx.Err() == nil && (len(fresh) == 0 || isRollback(err)) {
		err = errors.Join(err, e.applyChanged(ctx))
	}
	return err
}

// applyChanged applies the wanted rules with the previous lists, if the allowlist or the operator's
// list has changed them.
func (e *Enforcer) applyChanged(ctx context.Context) error {
	want := e.wanted()
	if want.equal(e.active.rules) || e.active.rules == nil && want.block.Len() == 0 {
		return nil
	}
	return e.applyWanted(ctx)
}

// applyLists applies the wanted rules with the fresh lists of some feeds. If that fails or panics,
// the lists before them are composed again, and the status is about these.
func (e *Enforcer) applyLists(ctx context.Context, fresh []*remote) error {
	before := make([]accepted, len(fresh))
	for i, r := range fresh {
		before[i] = r.list
		e.setList(r, *r.fresh)
	}
	applied := false
	defer func() {
		for i, r := range fresh {
			if !applied {
				e.setList(r, before[i])
			}
		}
	}()
	err := e.applyWanted(ctx)
	if applied = err == nil; !applied || ctx.Err() != nil {
		return err
	}
	for _, r := range fresh {
		r.fresh, r.rejected, r.wasted = nil, nil, 0
		e.saveList(r)
	}
	return nil
}

// retryApply applies the wanted rules again after a failure, without a pull.
func (e *Enforcer) retryApply(ctx context.Context) {
	e.attempts.retry.Stop()
	if err := e.applyAll(ctx); err != nil && ctx.Err() == nil {
		e.logFailure(e.attempts.retry.Left())
	}
	e.publish()
}
