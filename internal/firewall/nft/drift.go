package nft

import (
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// refillInterval is the least time between two refills.
	refillInterval = 5 * time.Second
	// refillShare is how many times longer than a refill the pause after it is, at least: refills
	// take at most 1 % of a core.
	refillShare = 100
)

// drift notices that another program may have changed the elements of a table that has no owner.
// Each transaction on any table of the host moves the generation by one. Moves beyond our own
// transactions are another program's, which may have exchanged elements: neither counts nor
// samples show that, and reading them back takes minutes.
type drift struct {
	sent    uint32 // transactions of ours
	settled bool   // the sets held the applied list when others was as follows
	others  uint32 // the generation less sent
	due     time.Time
}

// foreign returns a number that each transaction of another program changes, and none of ours does.
func (d *drift) foreign() (uint32, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("open netlink socket: %w", err)
	}
	defer func() { _ = c.Close() }() // it was only asked
	gen, err := generation(c)
	return gen - d.sent, err
}

// during runs f, which fills all sets, and notes whether another program made a transaction
// meanwhile.
func (d *drift) during(f func() error) error {
	d.settled = false
	before, berr := d.foreign()
	if err := f(); err != nil {
		return err
	}
	after, aerr := d.foreign()
	d.settled, d.others = berr == nil && aerr == nil && before == after, after
	return nil
}

// drifted reports whether another program may have changed elements since they were filled.
func (t *Table) drifted() bool {
	if t.flags&nftables.TableFlagOwner != 0 {
		return false
	}
	now, err := t.drift.foreign()
	return err != nil || !t.drift.settled || now != t.drift.others
}

// refill puts the list that was applied last in place once more, if another program may have
// changed elements of it and it is time to. It reports whether it is still to be done. Nothing that is
// dropped gets through meanwhile, as in any Apply.
func (t *Table) refill() (pending bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.enforce || t.rules == nil || !t.drifted() {
		return false, nil
	}
	start := time.Now()
	if start.Before(t.drift.due) {
		return true, nil
	}
	defer func() { t.drift.due = time.Now().Add(max(refillInterval, refillShare*time.Since(start))) }()
	if _, err := t.apply(t.last); err != nil {
		return true, fmt.Errorf("fill the sets again: %w", err)
	}
	return t.drifted(), nil
}

// apply is Apply for who holds the lock.
func (t *Table) apply(rs ruleset.Ruleset) (e ruleset.Evidence, err error) {
	err = t.drift.during(func() error {
		e, err = t.applyOnce(rs)
		return err
	})
	return e, err
}
