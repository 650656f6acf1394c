package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/lock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// ownerTimeout is the time that Open waits until the table has no owner. The kernel ends the
	// ownership when the last copy of the owner's socket is closed. A killed agent takes a moment
	// to exit, and a process between fork and exec has copies of its parent's sockets.
	ownerTimeout      = time.Second
	ownerPollInterval = 20 * time.Millisecond
)

// lockName is the name of this backend's lock.
const lockName = "sikkerguard-nftables"

// Features that Info returns.
const (
	// featureOwner means that no other program can change the table, and that nft flush ruleset
	// skips it (Linux 5.12).
	featureOwner = "table owner"
	// featurePersist means that an owned table outlives its owner (Linux 6.9).
	featurePersist = "table persist"
)

// Options configures a Table.
type Options struct {
	// Keep leaves the rules in the kernel if the process dies without removing them, so that the
	// next agent adopts them. Otherwise the kernel deletes them with the process, if it supports
	// table owners.
	Keep bool
}

// Table is the table inet sikkerguard. Its methods are safe for concurrent use. Those that change
// the table exclude each other.
type Table struct {
	flags nftables.TableFlags // flags that the kernel accepted
	keep  bool                // Options.Keep
	lock  *lock.Lock

	// countAttr is the attribute of a set's element count. Tests change it to simulate a kernel
	// before 6.16, which has none.
	countAttr    uint16
	steady       bool                   // see steadyIntervals
	foreignTable bool                   // the table existed at the start, and no agent made it
	foreignGap   atomic.Pointer[string] // text of the gap about foreign parts; nil once they are deleted
	uncounted    atomic.Bool            // the kernel did not return the element count of a set
	counting     bool                   // the kernel counts dropped packets by key, see countingRules
	countRefusal error                  // see probeCounting; nil if counting, or if the kernel is too old
	hits         hitCounts
	spare        bool // the table has the spare set, see makeSpare; guarded by mu

	mu      sync.Mutex
	conn    *socket // the kernel ends the ownership when it is closed
	reads   *reader // has a lock of its own
	active  active
	applied applied
	drift   drift
}

// Open connects to the kernel and probes its features without changing anything. It must be called
// early in the life of the process: the library panics if the socket's descriptor is 1024 or more.
// The errors are listed in the package documentation.
func Open(o Options) (*Table, error) {
	t := &Table{
		keep: o.Keep, countAttr: nftaSetCount, steady: steadyIntervals(release()),
		active: active{held: map[string]int{}},
	}
	// A table without an owner does not show whether its agent still runs, so a lock does.
	var err error
	if t.lock, err = lock.Claim(lockName, ErrOwned); err != nil {
		return nil, err
	}
	if t.reads, err = openReader(); err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink socket: %w", diagnose(err)), t.Close())
	}
	found, err := t.unowned()
	if err == nil {
		err = t.connect()
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.inspectForeign(); err != nil {
		return nil, errors.Join(fmt.Errorf("inspect table inet %s: %w", tableName, err), t.Close())
	}
	// The table of a dead agent keeps enforcing until the first Apply, which adopts it or, if it
	// cannot be adopted, replaces it.
	if t.active.enforced = found != nil && adoptable(found.Flags, t.flags); t.active.enforced {
		if err := t.adopt(); err != nil {
			return nil, errors.Join(fmt.Errorf("adopt table inet %s: %w", tableName, err), t.Close())
		}
	}
	return t, nil
}

// unowned returns the kernel's table, or nil if there is none. It returns ErrOwned if the table
// still has an owner after ownerTimeout.
func (t *Table) unowned() (*nftables.Table, error) {
	for start := time.Now(); ; time.Sleep(ownerPollInterval) {
		found, err := t.reads.findTable()
		switch {
		case err != nil:
			return nil, fmt.Errorf("query nf_tables: %w", diagnose(err))
		case found == nil || found.Owner == 0:
			return found, nil
		case time.Since(start) >= ownerTimeout:
			return nil, fmt.Errorf("%w (its netlink port, usually its process ID, is %d)", ErrOwned, found.Owner)
		}
	}
}

// connect opens the connections and probes which table flags the kernel accepts.
func (t *Table) connect() (err error) {
	if t.conn, err = dial(); err != nil {
		return fmt.Errorf("open netlink socket: %w", diagnose(err))
	}
	if t.flags, err = probe(t.conn, t.keep); err != nil {
		return fmt.Errorf("probe nf_tables: %w", err)
	}
	if countsOnLookup(release()) {
		t.countRefusal = probeCounting(t.conn)
		t.counting = t.countRefusal == nil
	}
	return nil
}

// adopt records the sets that the rules of a dead agent look up. It does not read their elements,
// which takes minutes.
func (t *Table) adopt() error {
	have, err := t.reads.kernelSets(t.countAttr)
	if err != nil {
		return err
	}
	for _, s := range allSets() {
		if _, ok := have[s.name]; ok {
			t.active.sets = append(t.active.sets, s)
		}
	}
	if t.counting {
		return t.hits.adopt(have)
	}
	return nil
}

// probe sends the rules that the agent needs, on a scratch table that the same transaction deletes:
// first with the wanted table flags, then without flags. It returns the flags that the kernel
// accepts.
func probe(conn *socket, keep bool) (nftables.TableFlags, error) {
	wanted := nftables.TableFlagOwner
	if keep {
		wanted |= nftables.TableFlagPersist
	}
	var err error
	// If the kernel does not support persist, keep needs a table without an owner, because the
	// kernel would delete an owned table with its owner.
	for _, flags := range []nftables.TableFlags{wanted, 0} {
		scratch := &nftables.Table{Name: probeName, Family: nftables.TableFamilyINet, Flags: flags}
		b := newBatch(conn, scratch, nil)
		sets := probeSets()
		b.begin(sets)
		block, allow := sets[:len(sets)-2], sets[len(sets)-2:]
		b.rules(rules(block, allow, ruleset.Ruleset{LogGroup: 1, LogRate: 1}, false))
		b.conn.DelTable(scratch)
		if err = b.commit(); err == nil {
			return flags, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			break // only an unknown flag justifies another attempt
		}
	}
	return 0, diagnose(err)
}

// probeCounting sends the rules that count by key, on a scratch table, and returns the kernel's
// refusal. The rules block without them, so that a refusal is no reason to block nothing.
func probeCounting(conn *socket) error {
	scratch := &nftables.Table{Name: probeName, Family: nftables.TableFamilyINet}
	b := newBatch(conn, scratch, nil)
	b.begin(nil)
	b.rules(rules(nil, nil, ruleset.Ruleset{LogGroup: 1, LogRate: 1}, true))
	b.conn.DelTable(scratch)
	return diagnose(b.commit())
}

// countDetour returns the sentence of Info about a kernel that does not count by key.
func (t *Table) countDetour() string {
	const instead = "counts by source come from the logged packets and are exact up to the log rate"
	err := t.countRefusal
	if err == nil || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrIncomplete) {
		return "this kernel does not count dropped packets by source (Linux 5.7): " + instead
	}
	return ruleset.Gap("the kernel refused to count dropped packets by source when the agent started, so that "+
		instead+" (restart the agent to try again)", err)
}

// probeSets returns one set of each type that a list may need, the allow sets last.
func probeSets() []setPlan {
	var block, allow []setPlan
	for _, f := range families() {
		block = append(block,
			setPlan{kernel: "hash" + f.name, family: f, bits: f.hash[1], count: 1},
			setPlan{kernel: "any" + f.name, family: f, interval: true, count: 1})
		allow = append(allow, setPlan{kernel: "whitelist" + f.name, family: f, interval: true, count: 1})
	}
	return append(block, allow...)
}

// Info returns the table flags that the kernel accepted as features, and the consequences of those
// it did not as gaps and detours.
func (t *Table) Info() ruleset.Info {
	i := ruleset.Info{Name: "nftables"}
	if t.flags&nftables.TableFlagOwner != 0 {
		i.Features = append(i.Features, featureOwner)
	} else if t.keep {
		i.Gaps = append(i.Gaps, "this kernel cannot keep an owned table (Linux 6.9): "+
			"other programs can change the rules, and the agent restores them")
	} else {
		i.Gaps = append(i.Gaps, "this kernel has no table owners (Linux 5.12): "+
			"other programs can change the rules, and the agent restores them; "+
			"the rules of a killed agent stay until `sikkerguard cleanup` or the next start")
	}
	if t.flags&nftables.TableFlagOwner == 0 && !t.lock.Real() {
		i.Gaps = append(i.Gaps, lock.Gap)
	}
	if t.flags&nftables.TableFlagPersist != 0 {
		i.Features = append(i.Features, featurePersist)
	}
	if gap := t.foreignGap.Load(); gap != nil {
		i.Gaps = append(i.Gaps, *gap)
	}
	if t.uncounted.Load() {
		i.Detours = append(i.Detours, "this kernel returns no element counts (Linux 6.16): "+
			"a list is verified by samples and by its rules")
	}
	if !t.counting {
		i.Detours = append(i.Detours, t.countDetour())
	}
	if !t.steady {
		i.Detours = append(i.Detours, "interval sets of this kernel miss elements while they are filled "+
			"(Linux 6.17): each refresh fills new sets and takes longer")
	}
	return i
}

// Apply makes the table enforce rs and verifies it. After an error the previous ruleset is still
// active, except for ruleset.ErrMismatch: then the kernel enforces other rules than rs, or
// verification failed. A transaction that has begun is finished even if ctx ends.
func (t *Table) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ruleset.Evidence{}, err
	}
	return t.apply(rs)
}

// applyOnce writes the sets and rules of rs, and verifies them.
func (t *Table) applyOnce(rs ruleset.Ruleset) (ruleset.Evidence, error) {
	start := time.Now()
	block, allow := planBlock(rs.Block), planAllow(effective(rs.Block, rs.Allow))
	t.active.changed, t.active.rebuilt, t.active.altered = false, false, nil
	if err := t.write(block, allow, rs); err != nil {
		err = fmt.Errorf("write table inet %s: %w", tableName, t.explain(err))
		if t.active.changed || errors.Is(err, errUnsure) {
			err = fmt.Errorf("%w: %w", ruleset.ErrMismatch, err)
		}
		return ruleset.Evidence{}, err
	}
	t.foreignGap.Store(nil)
	known := t.applied.rules
	if t.active.rebuilt {
		known = nil
	}
	t.applied = applied{ruleset: rs, block: block, allow: allow, rules: known}
	e, err := t.verify()
	if err == nil {
		err = t.verifyAltered(&e)
	}
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	t.active.exact, t.active.altered = t.active.exact && err == nil, nil
	e.Took = time.Since(start)
	return e, err
}

// explain classifies an error of a transaction on the table. EPERM is ErrOwned if another process
// owns the table.
func (t *Table) explain(err error) error {
	if errors.Is(err, errUnsure) {
		return err
	}
	if errors.Is(err, unix.EPERM) {
		found, ferr := t.reads.findTable()
		if ferr == nil && found != nil && found.Owner != 0 && found.Owner != t.conn.port() {
			return fmt.Errorf("%w: %w", ErrOwned, err)
		}
	}
	return classify(err)
}

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet, Flags: t.flags}
}

// Verify asks the kernel whether the table still enforces the ruleset of the last Apply.
func (t *Table) Verify() (ruleset.Evidence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	start := time.Now()
	e, err := t.verify()
	e.Took = time.Since(start)
	return e, err
}

// Disarm deletes the rules of the base chain, if it exists. Nothing is dropped after that, and the
// counters no longer change.
func (t *Table) Disarm() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active.enforced, t.active.exact = false, false // Watch reports no loss from now on
	if t.untouched() {
		return nil
	}
	b := newBatch(t.conn, t.table(), nil)
	b.conn.FlushChain(&nftables.Chain{Name: baseChain, Table: b.table})
	if err := b.commit(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("flush chain %s: %w", baseChain, classify(err))
	}
	return nil
}

// Remove deletes the table if it exists. It leaves a table that belongs to another program and that
// this agent has not changed.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.untouched() {
		return nil
	}
	return t.remove()
}

// remove deletes the table if it exists.
func (t *Table) remove() error {
	found, err := t.reads.findTable()
	if err != nil {
		return err
	}
	t.active = active{held: map[string]int{}}
	if found == nil {
		return nil
	}
	t.spare = false
	return t.hits.renew(func() error {
		b := newBatch(t.conn, found, nil)
		b.conn.DelTable(found)
		if err := b.commit(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete table inet %s: %w", tableName, classify(err))
		}
		return nil
	})
}

// Close closes the connections, which ends the ownership of the table, and releases the lock.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	if t.conn != nil {
		errs = append(errs, t.conn.close())
	}
	if t.reads != nil {
		errs = append(errs, t.reads.Close())
	}
	t.hits.close()
	return errors.Join(append(errs, t.lock.Close())...)
}
