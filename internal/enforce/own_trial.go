package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// ownRejection is the operator's list, after it was proven to cut this host off. It ends with
// rejectedFor, or when the list or the allowlist differs.
type ownRejection struct {
	list  blocklist.Blocklist // less the allowlist
	err   *RollbackError
	again *time.Timer
}

// due is ready when the list may be tried again; never for a nil rejection.
func (r *ownRejection) due() <-chan time.Time {
	if r == nil {
		return nil
	}
	return r.again.C
}

// entries returns the operator's entries that are wanted in force: those of the file. While those
// are rejected, it returns the ones that were in force before.
func (o *ownList) entries() blocklist.Blocklist {
	if o.rejected != nil {
		return o.active
	}
	return o.list
}

// reject has the entries that were in force before wanted again.
func (o *ownList) reject(err *RollbackError, allow blocklist.Blocklist) {
	o.clearRejection()
	o.rejected = &ownRejection{list: o.list.Without(allow), err: err, again: time.NewTimer(rejectedFor)}
}

// forgive forgets the rejection: the list is wanted in force.
func (o *ownList) clearRejection() {
	if o.rejected != nil {
		o.rejected.again.Stop()
	}
	o.rejected = nil
}

// reconsider forgives the list if it would block other addresses than those that were rejected.
func (o *ownList) clearIfChanged(allow blocklist.Blocklist) {
	if o.rejected != nil && !o.rejected.list.Equal(o.list.Without(allow)) {
		o.clearRejection()
	}
}

// applyWanted puts in force what is wanted. If the operator's list is new and the rules are rolled
// back, they are tried with the operator's entries that were in force before. If those rules hold,
// the operator's list alone is rejected: it keeps no list of the API from coming in force.
func (e *Enforcer) applyWanted(ctx context.Context) error {
	o := &e.own
	err := e.apply(ctx, e.wanted())
	rollback, rolledBack := errors.AsType[*RollbackError](err)
	switch {
	case err == nil:
		o.active = o.entries()
		e.publishOwn()
		return nil
	case !rolledBack || ctx.Err() != nil || o.entries().Equal(o.active):
		return err
	}
	o.reject(&RollbackError{Own: true, Broken: rollback.Broken, Entries: o.list.Len()}, e.allowed())
	if want := e.wanted(); e.active.rules != nil || want.block.Len() > 0 {
		if others := e.apply(ctx, want); others != nil {
			o.clearRejection() // it is not the operator's list, or not that alone
			return errors.Join(err, others)
		}
	}
	e.o.Log.Warn(fmt.Sprintf("Custom blacklist is not in force, what was before stays (%s)", blocklist.Entries(o.active.Len())),
		zap.String("file", e.o.Own.Path), zap.Error(o.rejected.err))
	e.publish()
	e.publishOwn()
	return nil
}
