package nft

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
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

	mu        sync.Mutex
	conn      *nftables.Conn      // lasting: with it the kernel's ownership ends
	port      uint32              // netlink port of conn
	replace   bool                // a table with other flags is there: it makes way in the first batch
	committed bool                // the Apply under way has changed what is enforced
	enforce   bool                // the kernel has rules of ours
	live      []setPlan           // the sets that those rules look up
	now       blocklist.Blocklist // what those sets hold; empty when a dead agent filled them
	block     []setPlan           // what the last batch put in place
	allow     []setPlan
	rules     map[string][]string // by chain, as read after the last batch; nil before that
	entries   [2]int              // of the list, by family
}

// Open connects to the kernel and finds out what it can do, without changing anything. The connection must be opened
// early in the life of the process: the library panics on a descriptor of 1024 or more. The errors are those that doc.go
// names.
func Open(o Options) (*Table, error) {
	found, err := findTable()
	if err != nil {
		return nil, fmt.Errorf("ask for nf_tables: %w", diagnose(err))
	}
	if found != nil && found.Owner != 0 {
		return nil, fmt.Errorf("%w (its netlink port, mostly its process ID, is %d)", ErrOwned, found.Owner)
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(sockOptions))
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", diagnose(err))
	}
	flags, err := probe(conn, o.Keep)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("try nf_tables: %w", err), conn.CloseLasting())
	}
	port, err := conn.GetPortID()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask for the netlink port: %w", err), conn.CloseLasting())
	}
	// A table without an owner, ours or that of an agent that is told to keep its rules, says of no agent that it runs.
	held, err := claim()
	if err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	t := &Table{conn: conn, port: port, flags: flags, keep: o.Keep, lock: held}
	if found != nil {
		// A table that a dead agent left behind. One with the same flags is taken over as it is; the kernel converts no
		// other, so that one makes way in the transaction that puts the new one in its place.
		// Of a table whose owner is dead the kernel shows the flag persist alone.
		left := found.Flags
		if left&nftables.TableFlagPersist != 0 {
			left |= nftables.TableFlagOwner
		}
		t.enforce = left == flags
		t.replace = !t.enforce
	}
	if t.enforce {
		if err := t.adopt(); err != nil {
			return nil, errors.Join(fmt.Errorf("take over table inet %s: %w", tableName, err), t.Close())
		}
	}
	return t, nil
}

// adopt finds out what the rules of a dead agent look up. What the sets hold is not read: that takes minutes.
func (t *Table) adopt() error {
	have, err := kernelSets()
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
		b := batch{conn: conn, table: scratch}
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
	start := time.Now()
	block, allow := planBlock(rs.Block), planAllow(rs.Allow)
	t.committed = false
	if err := t.write(block, allow, rs); err != nil {
		err = fmt.Errorf("write table inet %s: %w", tableName, t.explain(err))
		if t.committed {
			err = fmt.Errorf("%w: %w", ruleset.ErrMismatch, err)
		}
		return ruleset.Evidence{}, err
	}
	t.block, t.allow, t.rules = block, allow, nil
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
	if errors.Is(err, unix.EPERM) {
		if found, ferr := findTable(); ferr == nil && found != nil && found.Owner != 0 && found.Owner != t.port {
			return fmt.Errorf("%w: %w", ErrOwned, err)
		}
	}
	return classify(err)
}

// write brings the kernel to the wanted sets and rules, so that a source which is on the list before and after is dropped
// all the while. A flush and fill of one set is seamless; three things are not, and get transactions of their own before:
//
//   - a set that the rules are to look up for the first time is filled before a rule does, because a rule and the elements
//     of a new set do not become visible in the same instant;
//   - what moves to a set that is looked up earlier is added there first, and the rules look into old and new sets both,
//     because a packet on its way through the rules may see one set before the change and another one after it;
//   - a set that has become too small is replaced that way by a larger one under another name, and then by one under its
//     own name.
func (t *Table) write(block, allow []setPlan, rs ruleset.Ruleset) error {
	for {
		have, err := t.sets()
		if err != nil {
			return err
		}
		moved := make(map[string][]netip.Prefix, len(block))
		for _, s := range block {
			moved[s.name] = movers(t.now, t.live, s)
		}
		renamed := false
		name := func(sets []setPlan) []setPlan {
			named := slices.Clone(sets)
			for i, s := range named {
				named[i].kernel = freeName(s, have, len(moved[s.name]))
				renamed = renamed || named[i].kernel != s.name
			}
			return named
		}
		nextBlock, nextAllow := name(block), name(allow)
		b := batch{conn: t.conn, table: t.table(), have: have}
		if t.enforce {
			if err := t.bridge(b, nextBlock, nextAllow, moved, rs); err != nil {
				return err
			}
		}
		if err := t.swap(b, nextBlock, nextAllow, rs); err != nil {
			return err
		}
		if !renamed {
			return nil
		}
	}
}

// freeName is what the set is called in the next batch: its own name, unless a set has it that is too small for what is
// to be in it, or for what is in it and what moves to it.
func freeName(s setPlan, have map[string]kernelSet, moved int) string {
	for name := s.name; ; name += "_grown" {
		k, ok := have[name]
		if !ok || s.interval || int(k.size) >= max(s.count, int(k.count)+moved) {
			return name
		}
	}
}

// sets are the table's sets that the next batch finds.
func (t *Table) sets() (map[string]kernelSet, error) {
	if t.replace {
		return nil, nil
	}
	return kernelSets()
}

// bridge prepares the live rules for the next batch: new sets are filled, what moves is added, and the rules look into the
// sets of before and of afterwards. Nothing that is dropped before is let through. Mostly there is nothing to do.
func (t *Table) bridge(b batch, block, allow []setPlan, moved map[string][]netip.Prefix, rs ruleset.Ruleset) error {
	live := func(s setPlan) bool {
		return slices.ContainsFunc(t.live, func(l setPlan) bool { return l.kernel == s.kernel })
	}
	var fresh, added []setPlan
	for _, s := range slices.Concat(allow, block) {
		switch extra := moved[s.name]; {
		case !live(s):
			fresh = append(fresh, s)
		case len(extra) > 0:
			s.elements, s.count = slices.Values(extra), len(extra)
			added = append(added, s)
		}
	}
	if len(fresh) > 0 {
		b.begin(fresh)
		b.fill(fresh)
		if err := b.commit(); err != nil {
			return err
		}
	}
	if len(fresh)+len(added) == 0 {
		return nil
	}
	for _, l := range t.live {
		if slices.ContainsFunc(slices.Concat(allow, block), func(s setPlan) bool { return s.kernel == l.kernel }) {
			continue
		}
		if l.takes == nil {
			allow = append(allow, l)
		} else {
			block = append(block, l)
		}
	}
	b.begin(slices.Concat(allow, block))
	b.rules(rules(block, allow, rs))
	for _, s := range added {
		b.elements(b.sets[s.kernel], s)
	}
	err := b.commit()
	t.committed = t.committed || err == nil
	return err
}

// swap sends the one idempotent batch: everything created if it is absent, chains and sets flushed, rules, elements, and
// the sets that no rule looks up any more deleted.
func (t *Table) swap(b batch, block, allow []setPlan, rs ruleset.Ruleset) error {
	all := slices.Concat(allow, block)
	if t.replace {
		t.conn.DelTable(&nftables.Table{Name: tableName, Family: nftables.TableFamilyINet})
	}
	b.begin(all)
	b.rules(rules(block, allow, rs))
	b.fill(all)
	b.deleteOthers(all)
	if !t.replace {
		if err := b.deleteForeign(); err != nil {
			return err
		}
	}
	if err := b.commit(); err != nil {
		return err
	}
	t.replace, t.enforce, t.committed = false, true, true
	t.live, t.now = all, rs.Block
	return nil
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
	t.conn.FlushChain(&nftables.Chain{Name: baseChain, Table: t.table()})
	if err := t.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("flush chain %s: %w", baseChain, classify(err))
	}
	return nil
}

// Remove deletes the table, if it is there. Nothing else was ever changed.
func (t *Table) Remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, err := findTable()
	if err != nil {
		return err
	}
	t.enforce, t.live, t.now = false, nil, blocklist.Blocklist{}
	if found == nil {
		return nil
	}
	t.conn.DelTable(found)
	if err := t.conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete table inet %s: %w", tableName, classify(err))
	}
	return nil
}

// Close ends the connection, and with it the ownership of the table.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.conn.CloseLasting(), t.lock.Close())
}

// claim takes the lock. Its error is ErrOwned when an agent has it.
func claim() (*lock.Lock, error) {
	l, err := lock.Claim(lockName)
	if held := (*lock.HeldError)(nil); errors.As(err, &held) {
		return nil, fmt.Errorf("%w (%w)", ErrOwned, held)
	}
	return l, err
}
