package enforce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
)

// ownRejection records that the operator's list was proven to cut this host off. It ends after
// rejectedFor, or when the list or the allowlist changes.
type ownRejection struct {
	list  blocklist.Blocklist // less the allowlist
	err   *RollbackError
	again *time.Timer
}

// due returns a channel that is ready when the list may be tried again. It is nil for a nil
// rejection.
func (r *ownRejection) due() <-chan time.Time {
	if r == nil {
		return nil
	}
	return r.again.C
}

// entries returns the wanted entries: those of the file, or while they are rejected the ones that
// were active before.
func (o *ownList) entries() blocklist.Blocklist {
	if o.rejected != nil {
		return o.active
	}
	return o.list
}

// reject records that list was rolled back. entries returns the previously active entries until
// that ends.
func (o *ownList) reject(err *RollbackError, allow blocklist.Blocklist) {
	o.clearRejection()
	o.rejected = &ownRejection{list: o.list.Without(allow), err: err, again: time.NewTimer(rejectedFor)}
}

// clearRejection ends the rejection: entries returns the list again.
func (o *ownList) clearRejection() {
	if o.rejected != nil {
		o.rejected.again.Stop()
	}
	o.rejected = nil
}

// clearIfChanged ends the rejection if the list less allow differs from the rejected entries.
func (o *ownList) clearIfChanged(allow blocklist.Blocklist) {
	if o.rejected != nil && !o.rejected.list.Equal(o.list.Without(allow)) {
		o.clearRejection()
	}
}

// applyWanted applies the wanted rules. If they are rolled back and the operator's list is new, it
// applies the rules with the operator's previous entries instead. If those rules pass, only the
// operator's list is rejected, and the lists of the feeds become active without it.
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
			o.clearRejection() // the operator's list is not the only cause
			return errors.Join(err, others)
		}
	}
	previous := blocklist.Entries(o.active.Len())
	e.o.Log.Warn(fmt.Sprintf("Custom blacklist is not active; its previous entries stay (%s)", previous),
		zap.String("file", e.o.Own.Path), zap.Error(o.rejected.err))
	e.publish()
	e.publishOwn()
	return nil
}
