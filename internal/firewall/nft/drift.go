package nft

import (
	"fmt"
	"time"

	"github.com/google/nftables"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// refillInterval is the least time between two refills.
	refillInterval = 5 * time.Second
	// refillPauseFactor times the duration of a refill is the least pause after it, so that refills
	// take at most 1 % of a core.
	refillPauseFactor = 100
)

// drift detects that another program may have changed the elements of a table that has no owner.
// Each transaction on any table of the host increments the generation. Increments beyond this
// agent's own transactions belong to another program, which may have exchanged elements: neither
// counts nor samples show that, and reading the elements back takes minutes.
type drift struct {
	sent    uint32    // transactions of this agent
	settled bool      // the sets held the applied list when foreign returned others
	others  uint32    // value of foreign after the last fill
	due     time.Time // earliest time of the next refill
}

// foreign returns the generation minus this agent's transactions: each transaction of another
// program changes it, and none of this agent does.
func (d *drift) foreign(r *reader) (uint32, error) {
	gen, err := r.generation()
	return gen - d.sent, err
}

// track runs change, which makes the sets hold a list, and records whether another program made a
// transaction meanwhile. It passes to change whether the sets hold the list before. After an error,
// kept is whether they still hold it.
func (d *drift) track(r *reader, change func(settled bool) (kept bool, err error)) error {
	before, berr := d.foreign(r)
	settled := berr == nil && d.settled && before == d.others
	d.settled = false
	if kept, err := change(settled); err != nil {
		d.settled = settled && kept
		return err
	}
	after, aerr := d.foreign(r)
	d.settled, d.others = berr == nil && aerr == nil && before == after, after
	return nil
}

// drifted reports whether another program may have changed elements since they were filled.
func (t *Table) drifted() bool {
	if t.flags&nftables.TableFlagOwner != 0 {
		return false
	}
	now, err := t.drift.foreign(t.reads)
	return err != nil || !t.drift.settled || now != t.drift.others
}

// refill applies the last ruleset again if another program may have changed elements and a refill
// is due. It reports whether a refill is still pending. As in any Apply, a dropped source stays
// dropped meanwhile.
func (t *Table) refill() (pending bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.active.enforced || t.applied.rules == nil || !t.drifted() {
		return false, nil
	}
	start := time.Now()
	if start.Before(t.drift.due) {
		return true, nil
	}
	defer func() {
		t.drift.due = time.Now().Add(max(refillInterval, refillPauseFactor*time.Since(start)))
	}()
	if _, err := t.apply(t.applied.ruleset); err != nil {
		return true, fmt.Errorf("fill the sets again: %w", err)
	}
	return t.drifted(), nil
}

// apply is Apply for a caller that holds the lock.
func (t *Table) apply(rs ruleset.Ruleset) (e ruleset.Evidence, err error) {
	err = t.drift.track(t.reads, func(settled bool) (kept bool, err error) {
		owned := t.flags&nftables.TableFlagOwner != 0
		t.active.exact = t.active.exact && (owned || settled)
		e, err = t.applyOnce(rs)
		return t.active.exact, err
	})
	return e, err
}
