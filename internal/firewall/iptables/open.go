package iptables

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/sikkerapi/sikkerguard/internal/firewall/lock"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// Options select the programs, and say how the rules are kept.
type Options struct {
	// Legacy asks for the iptables that uses ip_tables, because the kernel has no nf_tables.
	Legacy bool
	// Keep asks for the rules of a killed agent to stay. They always stay, so without Keep that is
	// a gap.
	Keep bool
	// LogRate is the rate of the rulesets to come. Open also probes the match for it. Any kernel
	// supports the match for 0.
	LogRate uint32
}

// Firewall is the sets and rules of this host. Any goroutine may call its methods. The methods that
// change the host wait for each other, and Verify waits for them. Hits, Counters, Present and Info
// do not wait.
type Firewall struct {
	run      runner
	ipset    string   // path of the program
	rate     uint32   // Options.LogRate
	families []tables // the enforced families: IPv4, and IPv6 if the host has it
	info     ruleset.Info
	lock     *lock.Lock       // nil in Left
	tallies  map[uint8]*tally // by family

	counting bool      // the rules count dropped packets by key
	hits     hitCounts // of those rules

	mu        sync.Mutex // held during a change of the host
	applied   *plan      // nil before the first Apply and after Remove
	printings map[uint8]printing
	unsure    bool     // the sets may hold other elements than those of applied, with the same counts
	leftover  bool     // temporary sets could not be destroyed
	contents  contents // digests of the sets
	changes   int      // number of changes by this Firewall
	// madeTable has the families whose table raw the agent made. Another program may destroy the
	// set that marks it.
	madeTable map[uint8]bool

	aside  asideGap
	others otherKinds
}

// Open finds the programs and probes the kernel for the features that the rules need. The probe is
// in sets and a chain that no packet reaches, and Open removes both. The rules of a dead agent
// stay active until Apply takes them over. The errors are those of the package comment.
func Open(o Options) (*Firewall, error) { return open(o, strings.Split(path, ":")) }

func open(o Options, dirs []string) (*Firewall, error) {
	f, err := newFirewall(dirs)
	if err != nil {
		return nil, err
	}
	f.rate, f.counting = o.LogRate, true
	v4, err := f.choose(ipv4(), o.Legacy)
	if err != nil {
		return nil, err
	}
	if ok, err := permitted(v4.legacy); err != nil {
		return nil, err
	} else if !ok {
		return nil, ErrPermission
	}
	if f.lock, err = claim(); err != nil {
		return nil, err
	}
	f.info = ruleset.Info{Name: "iptables", Features: []string{v4.kind()}, Gaps: gaps(o)}
	if !f.lock.Real() {
		f.info.Gaps = append(f.info.Gaps, lock.Gap)
	}
	if err := f.openFamilies(v4, o.Legacy); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// newFirewall finds ipset. If ipset is missing, the error is ErrMissing, and the Firewall can only
// read rules.
func newFirewall(dirs []string) (*Firewall, error) {
	f := &Firewall{
		run: runner{dirs: dirs}, printings: map[uint8]printing{}, madeTable: map[uint8]bool{},
		contents: contents{seed: maphash.MakeSeed()}, tallies: map[uint8]*tally{ipv4().proto: {}, ipv6().proto: {}},
	}
	if f.ipset = f.run.find("ipset"); f.ipset == "" {
		return f, fmt.Errorf("%w; ipset is not in %s", ErrMissing, strings.Join(dirs, ", "))
	}
	return f, nil
}

// gaps returns the limitations of iptables compared with nft.
func gaps(o Options) []string {
	gg := []string{"iptables rules can be changed by other programs; the agent restores them"}
	if !o.Keep {
		gg = append(gg, "iptables keeps the rules of an agent that was killed, until `sikkerguard cleanup` "+
			"or the next start: SIKKER_ON_CRASH=release is not possible with iptables")
	}
	return gg
}

// openFamilies probes both families. Without IPv4 the backend cannot be used; without IPv6 there is
// a gap.
func (f *Firewall) openFamilies(v4 tables, legacy bool) error {
	ctx := context.Background()
	if err := f.probe(ctx, v4); err != nil {
		return err
	}
	f.families = []tables{v4}
	if _, err := os.Stat("/proc/thread-self/net/if_inet6"); errors.Is(err, fs.ErrNotExist) {
		f.info.Gaps = append(f.info.Gaps, "this kernel has no IPv6: only IPv4 is enforced")
		return nil
	}
	v6, err := f.choose(ipv6(), legacy)
	if err == nil {
		err = f.probe(ctx, v6)
	}
	switch {
	case err == nil:
		f.families = append(f.families, v6)
	case errors.Is(err, ErrMissing), errors.Is(err, ErrIncomplete), broken(err):
		f.info.Gaps = append(f.info.Gaps, ruleset.Gap("only IPv4 is enforced, IPv6 sources get through", err))
	default:
		return err
	}
	return nil
}

// kind returns the kind of iptables.
func (t tables) kind() string {
	if t.legacy {
		return "iptables legacy"
	}
	return "iptables nf_tables"
}

// choose returns the programs of a family: the legacy ones if legacy is set, and otherwise the ones
// named iptables. If one is broken, another is used.
func (f *Firewall) choose(fam family, legacy bool) (tables, error) {
	var errs []error
	for t, err := range f.installed(fam) {
		if err != nil {
			errs = append(errs, err)
		} else if t.legacy || !legacy {
			return t, nil
		}
	}
	if len(errs) > 0 {
		return tables{}, errors.Join(errs...)
	}
	return tables{}, fmt.Errorf("%w; %s is not in %s", ErrMissing, fam.program(), strings.Join(f.run.dirs, ", "))
}

func (f family) program() string {
	if f.width == ipv6().width {
		return "ip6tables"
	}
	return "iptables"
}

// workingPrograms returns the programs of a family that work, one of each kind, and the errors of
// the others.
func (f *Firewall) workingPrograms(fam family) ([]tables, error) {
	var all []tables
	var errs []error
	for t, err := range f.installed(fam) {
		if err != nil {
			errs = append(errs, err)
		} else if !slices.ContainsFunc(all, t.same) {
			all = append(all, t)
		}
	}
	return all, errors.Join(errs...)
}

// same reports whether both are of the same kind and family.
func (t tables) same(o tables) bool { return t.proto == o.proto && t.legacy == o.legacy }

// installed yields the installed programs of a family with their kind. The ones named iptables come
// first. With an error, only the paths are set.
func (f *Firewall) installed(fam family) iter.Seq2[tables, error] {
	return func(yield func(tables, error) bool) {
		for _, suffix := range []string{"", "-legacy", "-nft"} {
			name := fam.program() + suffix
			t := tables{
				family: fam, list: f.run.find(name),
				save: f.run.find(name + "-save"), restore: f.run.find(name + "-restore"),
			}
			if t.list == "" || t.save == "" || t.restore == "" {
				continue
			}
			// Since 1.8 the version ends with the kind. Before that there was one kind.
			out, _, err := f.run.run(context.Background(), askTime, nil, t.list, "--version")
			t.legacy = err == nil && !strings.Contains(out, "(nf_tables)")
			if !yield(t, err) {
				return
			}
		}
	}
}

// probe checks whether the kernel supports the sets and the rules, and leaves nothing behind. If the
// kernel cannot count by key, that is a gap.
func (f *Firewall) probe(ctx context.Context, t tables) error {
	err := f.tryRules(ctx, t)
	if !f.counting || !errors.Is(err, ErrIncomplete) {
		return err
	}
	f.counting = false
	perr := f.tryRules(ctx, t)
	if perr == nil {
		f.info.Gaps = append(f.info.Gaps, ruleset.Gap("a flood hides other sources from the log and the history: "+
			"this kernel cannot count dropped packets by source (modprobe -a ip_set_hash_ip ip_set_hash_ipport)", err))
	}
	return perr
}

// tryRules puts the rules into a chain that no packet reaches. It marks a table raw that it makes.
// So if the agent is killed here, the next agent or cleanup deletes the table.
func (f *Firewall) tryRules(ctx context.Context, t tables) error {
	have, err := f.listSets(ctx)
	if err != nil {
		return err
	}
	if err := checkForeign(have, t.family, append(t.probeSets(), t.markSet())...); err != nil {
		return err
	}
	_, marked := have[t.markSet()]
	fresh, err := f.tableIsNew(ctx, t, marked)
	if err != nil {
		return err
	}
	if err := f.removeProbe(ctx, t); err != nil { // of an agent that was killed here
		return err
	}
	text := empty(t.probeSet(), t.family)
	if fresh && !marked && !t.legacy {
		text = empty(t.markSet(), t.family) + text
	}
	if f.counting {
		for _, s := range t.hitSets() {
			text += s.probe().create()
		}
	}
	err = f.restore(ctx, askTime, script(text))
	if err == nil {
		want := rules(t.family, ruleset.Ruleset{LogGroup: 1, LogRate: f.rate}, f.counting)
		err = f.change(ctx, t, append([]string{":" + probeChain + " - [0:0]"}, t.probeRules(want)...)...)
	}
	if err != nil {
		err = fmt.Errorf("probe %s: %w", t.program(), f.diagnose(err))
	}
	if uerr := f.removeProbe(ctx, t); uerr != nil {
		return errors.Join(err, uerr) // the mark stays, so that the rest can be found
	}
	switch {
	case !fresh:
		return err
	case t.legacy:
		f.info.Gaps = append(f.info.Gaps, t.program()+" had no table raw: "+
			"it stays, empty, when the agent stops, because it cannot be unloaded")
		return err
	}
	if derr := f.deleteTable(ctx, t); derr != nil {
		return errors.Join(err, derr)
	}
	return errors.Join(err, f.destroy(ctx, t.markSet()))
}

// tableIsNew reports whether there is no table raw. A marked table without our chain also counts:
// an agent made it and was killed before it wrote rules.
func (f *Firewall) tableIsNew(ctx context.Context, t tables, marked bool) (bool, error) {
	loaded, err := t.loaded()
	if err != nil || !loaded || t.legacy || !marked {
		return !loaded, err
	}
	st, err := f.outline(ctx, t)
	return !st.chain, err
}

// removeProbe removes the sets and the chain of probe.
func (f *Firewall) removeProbe(ctx context.Context, t tables) error {
	st, err := f.outline(ctx, t)
	if err != nil {
		return err
	}
	if slices.Contains(st.chains, probeChain) {
		if err := f.change(ctx, t, "-F "+probeChain, "-X "+probeChain); err != nil {
			return fmt.Errorf("remove %s chain %s: %w", t.name, probeChain, err)
		}
	}
	return f.destroy(ctx, t.probeSets()...)
}

// diagnose returns the meaning of an error of the probe, with the modules that the rules need. An
// error that may pass does not mean that the kernel lacks something.
func (f *Firewall) diagnose(err error) error {
	if refused(err) {
		match, _, _ := strings.Cut(limit("", max(f.rate, 1)), " ")
		return fmt.Errorf("%w (modprobe -a iptable_raw ip6table_raw xt_set xt_%s xt_NFLOG ip_set_hash_net "+
			"nfnetlink_log on the host): %w", ErrIncomplete, match, err)
	}
	return err
}

// Info returns the programs in use and the limitations compared with nft.
func (f *Firewall) Info() ruleset.Info {
	i := f.info
	for _, gap := range []*string{f.others.gap.Load(), f.aside.Load()} {
		if gap != nil {
			i.Gaps = append(slices.Clip(i.Gaps), *gap)
		}
	}
	return i
}

// Close releases the lock. Sets and rules that were not removed stay.
func (f *Firewall) Close() error {
	f.hits.close()
	return f.lock.Close()
}

// lockName is the lock of this backend.
const lockName = "sikkerguard-iptables"

// claim takes the lock. The error is ErrRunning if another agent has it.
func claim() (*lock.Lock, error) { return lock.Claim(lockName, ErrRunning) }
