package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/lock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// writeBuffer is the send buffer of the socket, in bytes. A batch is one message to the kernel, and must fit: 500,000
	// IPv4 intervals take 20 MB. It costs nothing until it is used.
	writeBuffer = 64 << 20
	// ownerPatience is how long Open waits for a table that has an owner. The kernel ends the ownership when the last copy of the
	// owner's socket is closed. An agent that was killed is not gone at once, and a process that is being started has copies
	// of its parent's sockets until it becomes another program.
	ownerPatience = time.Second
	ownerPause    = 20 * time.Millisecond
	// readBuffer takes the acknowledgements of a batch, in bytes.
	readBuffer = 4 << 20
)

// lockName is the lock of this backend.
const lockName = "sikkerguard-nftables"

// The features that Info names.
const (
	featureOwner   = "table owner"   // nobody else can change the table, and flushing the ruleset passes it by (Linux 5.12)
	featurePersist = "table persist" // an owned table outlives its owner (Linux 6.9)
)

// Options say how the table is kept.
type Options struct {
	// Keep leaves the rules in the kernel when the process dies without removing them, so that the next one adopts them.
	// Otherwise the kernel takes them away with the process, where it can.
	Keep bool
}

// Table is the table inet sikkerguard. Its methods may be called from several goroutines; those that change the table
// wait for each other.
type Table struct {
	flags nftables.TableFlags // what the kernel gave
	keep  bool                // of Options
	lock  *lock.Lock

	// countAttr is the attribute by which the kernel tells how many elements a set has. Tests hide it, as kernels before
	// 6.16 do.
	countAttr uint16
	steady    bool                   // see steadyIntervals
	met       bool                   // the table was there at the start, and no agent made it
	stranger  atomic.Pointer[string] // the gap that parts of another program are, until they are deleted; nil for none
	uncounted atomic.Bool            // the kernel did not tell the number of elements of a set

	mu        sync.Mutex
	conn      *nftables.Conn      // lasting: with it the kernel's ownership ends
	asks      *nftables.Conn      // lasting, to ask with
	port      uint32              // netlink port of conn
	committed bool                // the Apply under way has changed what is enforced
	enforce   bool                // the kernel has rules of ours
	live      []setPlan           // the sets that those rules look up
	now       blocklist.Blocklist // what those sets hold; empty when a dead agent filled them
	held      map[string]int      // at most so many elements each set has, by its name in the kernel; absent: unknown
	last      ruleset.Ruleset     // what the last batch put in place
	block     []setPlan           // likewise, as sets
	allow     []setPlan
	rules     map[string][]string // by chain, as read after the last batch; nil before that
	counts    map[string]uint32   // elements by set, as told after the last batch; nil before that
	entries   [2]int              // of the list, by family
	drift     drift
}

// Open connects to the kernel and finds out what it can do, without changing anything. The connection must be opened
// early in the life of the process: the library panics on a descriptor of 1024 or more. The errors are those that doc.go
// names.
func Open(o Options) (*Table, error) {
	t := &Table{keep: o.Keep, countAttr: nftaSetCount, steady: steadyIntervals(release()), held: map[string]int{}}
	// A table without an owner, ours or that of an agent that is told to keep its rules, says of no agent that it runs.
	var err error
	if t.lock, err = claim(); err != nil {
		return nil, err
	}
	found, err := unowned()
	if err == nil {
		err = t.connect()
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if err := t.meet(); err != nil {
		return nil, errors.Join(fmt.Errorf("look into table inet %s: %w", tableName, err), t.Close())
	}
	// A table that a dead agent left behind enforces what it did until the first Apply. That one takes it over, or, where it
	// cannot be, puts the new one in its place.
	if t.enforce = found != nil && adoptable(found.Flags, t.flags); t.enforce {
		if err := t.adopt(); err != nil {
			return nil, errors.Join(fmt.Errorf("take over table inet %s: %w", tableName, err), t.Close())
		}
	}
	return t, nil
}

// unowned returns the table as the kernel has it, nil when there is none, and ErrOwned if it still has an owner after
// ownerPatience.
func unowned() (*nftables.Table, error) {
	for start := time.Now(); ; time.Sleep(ownerPause) {
		found, err := findTable()
		switch {
		case err != nil:
			return nil, fmt.Errorf("ask for nf_tables: %w", diagnose(err))
		case found == nil || found.Owner == 0:
			return found, nil
		case time.Since(start) >= ownerPatience:
			return nil, fmt.Errorf("%w (its netlink port, mostly its process ID, is %d)", ErrOwned, found.Owner)
		}
	}
}

// connect opens the connections and finds out which flags the kernel takes.
func (t *Table) connect() (err error) {
	if t.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(sockOptions)); err != nil {
		return fmt.Errorf("open netlink socket: %w", diagnose(err))
	}
	if t.asks, err = nftables.New(nftables.AsLasting()); err != nil {
		return fmt.Errorf("open netlink socket: %w", diagnose(err))
	}
	if t.flags, err = probe(t.conn, t.keep); err != nil {
		return fmt.Errorf("try nf_tables: %w", err)
	}
	if t.port, err = t.conn.GetPortID(); err != nil {
		return fmt.Errorf("ask for the netlink port: %w", err)
	}
	return nil
}

// adopt finds out what the rules of a dead agent look up. What the sets hold is not read: that takes minutes.
func (t *Table) adopt() error {
	have, err := kernelSets(t.countAttr)
	if err != nil {
		return err
	}
	for _, s := range shapes() {
		if _, ok := have[s.name]; ok {
			t.live = append(t.live, s)
		}
	}
	return nil
}

// sockOptions sets up the lasting socket. Acknowledgements are capped because the kernel otherwise sends every failing
// message back, and the buffer runs over before the error that matters.
func sockOptions(c *netlink.Conn) error {
	if err := c.SetWriteBuffer(writeBuffer); err != nil {
		return err
	}
	if err := c.SetReadBuffer(readBuffer); err != nil {
		return err
	}
	return c.SetOption(netlink.CapAcknowledge, true)
}

// probe tries the wanted table flags, from the most to none, with everything the rules need, on a scratch table that the
// same transaction deletes. It returns the flags that the kernel takes.
func probe(conn *nftables.Conn, keep bool) (nftables.TableFlags, error) {
	wanted := nftables.TableFlagOwner
	if keep {
		wanted |= nftables.TableFlagPersist
	}
	var err error
	// Without persist an owned table would go with its owner, which is not what keep asks for: then no flag at all.
	for _, flags := range []nftables.TableFlags{wanted, 0} {
		scratch := &nftables.Table{Name: probeName, Family: nftables.TableFamilyINet, Flags: flags}
		b := newBatch(conn, scratch, nil)
		sets := probeSets()
		b.begin(sets)
		b.rules(rules(sets[:len(sets)-2], sets[len(sets)-2:], ruleset.Ruleset{LogGroup: 1, LogRate: 1}))
		conn.DelTable(scratch)
		if err = b.commit(); err == nil {
			return flags, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
			break // only an unknown flag is worth another try
		}
	}
	return 0, diagnose(err)
}

// probeSets is one set of each shape that a list may need.
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

// Info says which table flags the kernel gave, and what it means that it did not give the others.
func (t *Table) Info() ruleset.Info {
	i := ruleset.Info{Name: "nftables"}
	if t.flags&nftables.TableFlagOwner != 0 {
		i.Features = append(i.Features, featureOwner)
	} else if t.keep {
		i.Gaps = append(i.Gaps, "this kernel cannot keep an owned table (Linux 6.9): other programs can change the rules, and the agent puts them back")
	} else {
		i.Gaps = append(i.Gaps, "this kernel has no table owners (Linux 5.12): other programs can change the rules, and the agent puts them back; "+
			"the rules of an agent that was killed stay until `sikkerguard cleanup` or the next start")
	}
	if t.flags&nftables.TableFlagOwner == 0 && !t.lock.Real() {
		i.Gaps = append(i.Gaps, lock.Gap)
	}
	if t.flags&nftables.TableFlagPersist != 0 {
		i.Features = append(i.Features, featurePersist)
	}
	if gap := t.stranger.Load(); gap != nil {
		i.Gaps = append(i.Gaps, *gap)
	}
	if t.uncounted.Load() {
		i.Detours = append(i.Detours, "this kernel tells no element counts (Linux 6.16): a list is verified by samples and by its rules")
	}
	if !t.steady {
		i.Detours = append(i.Detours, "interval sets of this kernel miss elements while they are filled (Linux 6.17): each refresh fills new ones, and takes longer")
	}
	return i
}

// Apply makes the table enforce rs, and asks the kernel whether it does. On an error what was enforced before still is,
// but for ruleset.ErrMismatch: then the kernel holds something else than it was told, or could not be asked what. A transaction that has begun is finished
// even when ctx ends.
func (t *Table) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return ruleset.Evidence{}, err
	}
	return t.apply(rs)
}

// applyOnce writes what rs comes to, and verifies it.
func (t *Table) applyOnce(rs ruleset.Ruleset) (ruleset.Evidence, error) {
	start := time.Now()
	block, allow := planBlock(rs.Block), planAllow(rs.Allow)
	t.committed = false
	if err := t.write(block, allow, rs); err != nil {
		err = fmt.Errorf("write table inet %s: %w", tableName, t.explain(err))
		if t.committed || errors.Is(err, errUnsure) {
			err = fmt.Errorf("%w: %w", ruleset.ErrMismatch, err)
		}
		return ruleset.Evidence{}, err
	}
	t.stranger.Store(nil)
	t.last, t.block, t.allow, t.rules, t.counts = rs, block, allow, nil, nil
	t.entries = [2]int{rs.Block.Len4(), rs.Block.Len6()}
	e, err := t.verify()
	if err != nil && !errors.Is(err, ruleset.ErrMismatch) {
		err = fmt.Errorf("%w, or could not be asked: %w", ruleset.ErrMismatch, err)
	}
	e.Took = time.Since(start)
	return e, err
}

// explain says what an error of a transaction on the table means.
func (t *Table) explain(err error) error {
	if errors.Is(err, errUnsure) {
		return err
	}
	if errors.Is(err, unix.EPERM) {
		if found, ferr := findTable(); ferr == nil && found != nil && found.Owner != 0 && found.Owner != t.port {
			return fmt.Errorf("%w: %w", ErrOwned, err)
		}
	}
	return classify(err)
}

func (t *Table) table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet, Flags: t.flags}
}

// Verify asks the kernel whether the table still enforces what the last Apply put in place.
func (t *Table) Verify() (ruleset.Evidence, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	start := time.Now()
	e, err := t.verify()
	e.Took = time.Since(start)
	return e, err
}

// Disarm takes the rules out of the base chain, if there is one: nothing is dropped any more, and the counters stand still.
func (t *Table) Disarm() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enforce = false // what the watch sees from now on is no loss
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

// Remove deletes the table, if it is there and not another program's that was never changed. Nothing else was ever changed.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.untouched() {
		return nil
	}
	return t.remove()
}

// remove deletes the table, if it is there.
func (t *Table) remove() error {
	found, err := findTable()
	if err != nil {
		return err
	}
	t.enforce, t.live, t.now, t.held = false, nil, blocklist.Blocklist{}, map[string]int{}
	if found == nil {
		return nil
	}
	b := newBatch(t.conn, found, nil)
	b.conn.DelTable(found)
	if err := b.commit(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table inet %s: %w", tableName, classify(err))
	}
	return nil
}

// Close ends the connections, and with them the ownership of the table.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, c := range []*nftables.Conn{t.conn, t.asks} {
		if c != nil {
			errs = append(errs, c.CloseLasting())
		}
	}
	return errors.Join(append(errs, t.lock.Close())...)
}

// claim takes the lock. Its error is ErrOwned when an agent has it.
func claim() (*lock.Lock, error) {
	l, err := lock.Claim(lockName)
	if held := (*lock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w (%w)", ErrOwned, held)
	}
	return l, err
}
