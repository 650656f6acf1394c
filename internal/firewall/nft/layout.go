package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes that x/sys/unix does not define (linux/netfilter/nf_tables.h).
const (
	// nftaSetCount is NFTA_SET_COUNT (since Linux 6.16): the number of elements of a set. Reading
	// the elements back to count them takes minutes.
	nftaSetCount       = 20
	nftaSetExpr        = 17 // NFTA_SET_EXPR
	nftaSetExpressions = 18 // NFTA_SET_EXPRESSIONS
	nftaChainFlags     = 10 // NFTA_CHAIN_FLAGS
	nftaObjName        = 2  // NFTA_OBJ_NAME and NFTA_FLOWTABLE_NAME

	// chainBase is NFT_CHAIN_BASE: the chain is on a hook.
	chainBase = 1
	// chainBound is NFT_CHAIN_BINDING (since Linux 5.9): the chain is part of a rule, written jump
	// { … }, and is deleted with it.
	chainBound = 4
)

// layout is the kernel's state of the table, without elements and the contents of rules.
type layout struct {
	flags  nftables.TableFlags
	chains map[string]kernelChain
	sets   map[string]kernelSet // sets and maps
	objs   []kernelObject       // foreign objects: all but the agent's counters
	flows  []string             // flowtables
}

// kernelChain is a chain as the kernel describes it.
type kernelChain struct {
	flags, hook, policy uint32
	priority            int32
	kind                string // filter, nat or route; "" if it is no base chain
}

// kernelSet is a set or map as the kernel describes it, without its elements.
type kernelSet struct {
	flags, keyType, keyLen uint32
	special                bool   // has a timeout, data or a policy that sets of the agent lack
	exprs                  bool   // each element has expressions, as a counter
	size                   uint32 // 0: none
	count                  uint32 // elements, or an upper bound if not counted (see boundCounts)
	counted                bool   // the kernel returned the count
}

// kernelObject is a named object. packets and bytes are set for a counter.
type kernelObject struct {
	name           string
	kind           nftables.ObjType
	packets, bytes uint64
}

// layout reads the table, and returns nil if there is none.
func (t *Table) layout() (*layout, error) {
	found, err := t.reads.findTable()
	if err != nil || found == nil {
		return nil, err
	}
	l := &layout{flags: found.Flags}
	if l.chains, err = t.reads.kernelChains(); err != nil {
		return nil, err
	}
	if l.sets, err = t.reads.kernelSets(t.countAttr); err != nil {
		return nil, err
	}
	objs, err := t.reads.kernelObjects()
	if err != nil {
		return nil, err
	}
	for _, o := range objs {
		own := slices.ContainsFunc(families(), func(f family) bool { return o.name == dropPrefix+f.name })
		if !own || o.kind != nftables.ObjTypeCounter {
			l.objs = append(l.objs, o)
		}
	}
	l.flows, err = t.reads.kernelFlowtables()
	return l, err
}

// incompatible returns the reason why additions and deletions cannot turn the table into the
// agent's, or "". Another program may have changed the table, or another version of the agent made
// it.
func (l *layout) incompatible(flags nftables.TableFlags) string {
	if !adoptable(l.flags, flags) {
		return "it has other flags"
	}
	for _, c := range append(chains(nil), newChains(nil)...) {
		switch k, ok := l.chains[c.Name]; {
		case ok && !k.like(c):
			return fmt.Sprintf("chain %s has another type", c.Name)
		case !ok && c.Hooknum != nil: // the kernel adds no base chain in the transaction that adopts the table
			return fmt.Sprintf("chain %s is missing", c.Name)
		}
	}
	for _, s := range allSets() {
		for name, k := range l.sets {
			if plainName(name) == s.name && !k.like(s) {
				return fmt.Sprintf("set %s has another type", name)
			}
		}
	}
	for _, s := range allHitSets() {
		if k, ok := l.sets[s.name]; ok && !s.like(k) {
			return fmt.Sprintf("set %s has another type", s.name)
		}
	}
	return ""
}

// adoptable reports whether a table with the flags have can be adopted with the flags want. The
// kernel converts only an orphaned table: of a table whose owner is dead it returns the flag
// persist alone.
func adoptable(have, want nftables.TableFlags) bool {
	if have&nftables.TableFlagPersist != 0 {
		have |= nftables.TableFlagOwner
	}
	return have == want
}

// deletableChains returns the foreign chains that are not part of a rule. The kernel lets no
// transaction flush or delete a chain that is.
func (l *layout) deletableChains() []string {
	return slices.DeleteFunc(l.foreignChains(), func(name string) bool {
		return l.chains[name].flags&chainBound != 0
	})
}

// foreignChains returns the chains that the agent does not make, in the order of their names.
func (l *layout) foreignChains() []string {
	own := map[string]bool{}
	for _, c := range append(chains(nil), newChains(nil)...) {
		own[c.Name] = true
	}
	names := slices.Sorted(maps.Keys(l.chains))
	return slices.DeleteFunc(names, func(name string) bool { return own[name] })
}

// like reports whether AddChain with c makes the chain equal to c. The policy may differ, because
// the kernel changes it in place.
func (k kernelChain) like(c *nftables.Chain) bool {
	if c.Hooknum == nil {
		return k.flags == 0
	}
	// Kernels before 5.7 return no flags of a chain.
	return k.flags&^chainBase == 0 && k.kind == string(c.Type) &&
		k.hook == uint32(*c.Hooknum) && k.priority == int32(*c.Priority)
}

// like reports whether the set has the type of s. The sizes may differ, but an interval set must
// have none: only the agent's hash sets have a size.
func (k kernelSet) like(s setPlan) bool {
	want := s.set(nil)
	flags := uint32(0)
	if s.interval {
		flags = unix.NFT_SET_INTERVAL
	}
	return k.flags == flags && !k.special && !k.exprs && (!s.interval || k.size == 0) &&
		k.keyType == want.KeyType.GetNFTMagic() && k.keyLen == want.KeyType.Bytes
}

// kernelChains returns the chains of the table, by name.
func (r *reader) kernelChains() (map[string]kernelChain, error) {
	all := map[string]kernelChain{}
	err := r.dump(unix.NFT_MSG_GETCHAIN, func(ad *netlink.AttributeDecoder) {
		var table, name string
		var k kernelChain
		for ad.Next() {
			switch ad.Type() {
			case nftaTable:
				table = ad.String()
			case unix.NFTA_CHAIN_NAME:
				name = ad.String()
			case unix.NFTA_CHAIN_TYPE:
				k.kind = ad.String()
			case unix.NFTA_CHAIN_POLICY:
				k.policy = ad.Uint32()
			case nftaChainFlags:
				k.flags = ad.Uint32()
			case unix.NFTA_CHAIN_HOOK:
				nested(ad, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_HOOK_HOOKNUM:
						k.hook = ad.Uint32()
					case unix.NFTA_HOOK_PRIORITY:
						k.priority = int32(ad.Uint32())
					}
				})
				k.flags |= chainBase
			}
		}
		if table == tableName { // the kernel returns the chains of every table of the family
			all[name] = k
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	return all, nil
}

// kernelSets returns the sets and maps of the table, by name, without their elements. countAttr is
// the attribute that holds the number of elements.
func (r *reader) kernelSets(countAttr uint16) (map[string]kernelSet, error) {
	sets := map[string]kernelSet{}
	err := r.dump(unix.NFT_MSG_GETSET, func(ad *netlink.AttributeDecoder) {
		table, name, s := decodeSet(ad, countAttr)
		if table == tableName {
			sets[name] = s
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	return sets, nil
}

// decodeSet decodes the answer to GETSET.
func decodeSet(ad *netlink.AttributeDecoder, countAttr uint16) (table, name string, s kernelSet) {
	for ad.Next() {
		switch ad.Type() {
		case nftaTable:
			table = ad.String()
		case unix.NFTA_SET_NAME:
			name = ad.String()
		case unix.NFTA_SET_FLAGS:
			s.flags = ad.Uint32()
		case unix.NFTA_SET_KEY_TYPE:
			s.keyType = ad.Uint32()
		case unix.NFTA_SET_KEY_LEN:
			s.keyLen = ad.Uint32()
		case unix.NFTA_SET_POLICY:
			s.special = s.special || ad.Uint32() != unix.NFT_SET_POL_PERFORMANCE
		case unix.NFTA_SET_TIMEOUT, unix.NFTA_SET_GC_INTERVAL, unix.NFTA_SET_DATA_TYPE, unix.NFTA_SET_OBJ_TYPE:
			s.special = true
		case nftaSetExpr, nftaSetExpressions:
			s.exprs = true
		case countAttr:
			s.count, s.counted = ad.Uint32(), true
		case unix.NFTA_SET_DESC:
			nested(ad, func(ad *netlink.AttributeDecoder) {
				if ad.Type() == unix.NFTA_SET_DESC_SIZE {
					s.size = ad.Uint32()
				}
			})
		}
	}
	return table, name, s
}

// kernelObjects returns the named objects of the table.
func (r *reader) kernelObjects() ([]kernelObject, error) {
	var objs []kernelObject
	err := r.dump(unix.NFT_MSG_GETOBJ, func(ad *netlink.AttributeDecoder) {
		if table, o := decodeObject(ad); table == tableName {
			objs = append(objs, o)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list objects: %w", err)
	}
	return objs, nil
}

// decodeObject returns a named object, and its table.
func decodeObject(ad *netlink.AttributeDecoder) (table string, o kernelObject) {
	for ad.Next() {
		switch ad.Type() {
		case nftaTable:
			table = ad.String()
		case nftaObjName:
			o.name = ad.String()
		case unix.NFTA_OBJ_TYPE: // the kernel sends it before the data
			o.kind = nftables.ObjType(ad.Uint32())
		case unix.NFTA_OBJ_DATA:
			if o.kind == nftables.ObjTypeCounter {
				nested(ad, func(ad *netlink.AttributeDecoder) {
					switch ad.Type() {
					case unix.NFTA_COUNTER_PACKETS:
						o.packets = ad.Uint64()
					case unix.NFTA_COUNTER_BYTES:
						o.bytes = ad.Uint64()
					}
				})
			}
		}
	}
	return table, o
}

// kernelFlowtables returns the names of the table's flowtables.
func (r *reader) kernelFlowtables() ([]string, error) {
	var names []string
	err := r.dump(unix.NFT_MSG_GETFLOWTABLE, func(ad *netlink.AttributeDecoder) {
		if table, name := tableAndName(ad); table == tableName {
			names = append(names, name)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list flowtables: %w", err)
	}
	return names, nil
}

// tableAndName returns the table and the name of a flowtable.
func tableAndName(ad *netlink.AttributeDecoder) (table, name string) {
	for ad.Next() {
		switch ad.Type() {
		case nftaTable:
			table = ad.String()
		case nftaObjName:
			name = ad.String()
		}
	}
	return table, name
}

// nested passes each attribute nested in the current one to decode.
func nested(ad *netlink.AttributeDecoder, decode func(*netlink.AttributeDecoder)) {
	ad.Nested(func(ad *netlink.AttributeDecoder) error {
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			decode(ad)
		}
		return nil
	})
}

// grownSuffix ends the temporary name of a set that replaces another one.
const grownSuffix = "_grown"

// plainName returns the regular name of a set: name without every grownSuffix at its end.
func plainName(name string) string {
	for {
		short, ok := strings.CutSuffix(name, grownSuffix)
		if !ok {
			return name
		}
		name = short
	}
}
