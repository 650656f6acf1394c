package nft

import (
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// tableName is the name of the agent's table, in family inet.
	tableName = "sikkerguard"
	// probeName is the name of the scratch table, which exists inside one transaction only (see
	// probe).
	probeName = "sikkerguard-probe"

	baseChain  = "prerouting"
	dropPrefix = "blocked" // followed by the family's digit: name of the drop chain and its counter

	// snapLen is the number of bytes of a dropped packet that are copied to the sensor: an IPv6
	// header, a few extension headers and the ports.
	snapLen = 128
)

// rule is one rule of a chain: its expressions, and the nft text that `nft list table` prints for
// it.
type rule struct {
	chain string
	text  string
	exprs []expr.Any
}

// logs reports whether the rule is a log rule (see logRule).
func (r rule) logs() bool {
	return slices.ContainsFunc(r.exprs, func(e expr.Any) bool { _, ok := e.(*expr.Log); return ok })
}

// chains returns the chains of the table: the base chain first, then one drop chain per family.
func chains(t *nftables.Table) []*nftables.Chain {
	policy := nftables.ChainPolicyAccept
	cs := []*nftables.Chain{{
		// type filter hook prerouting priority raw; policy accept;
		Name: baseChain, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		// The priority is before connection tracking (-200) and address translation (-100), so that
		// neither processes a dropped packet and ports published by Docker are covered.
		Priority: nftables.ChainPriorityRaw, Policy: &policy,
	}}
	for _, f := range families() {
		cs = append(cs, &nftables.Chain{Name: dropPrefix + f.name, Table: t})
	}
	return cs
}

// newChains returns the chains for packets of new keys, one per family. They exist if the kernel
// counts by key.
func newChains(t *nftables.Table) []*nftables.Chain {
	var cs []*nftables.Chain
	for _, f := range families() {
		cs = append(cs, &nftables.Chain{Name: newPrefix + f.name, Table: t})
	}
	return cs
}

// rules returns the rules that look up these sets, in their order in the chains. counting is
// whether they count the dropped packets by key.
func rules(block, allow []setPlan, rs ruleset.Ruleset, counting bool) []rule {
	return rulesBy(block, allow, rs, counting, func(s setPlan) []rule { return []rule{returnRule(s)} })
}

// expandedRules returns the same rules without a lookup of allow: each of its elements has a rule
// instead. Rules take effect when the kernel commits the transaction, while the elements of an
// interval set become visible later.
func expandedRules(block, allow []setPlan, rs ruleset.Ruleset, counting bool) []rule {
	return rulesBy(block, allow, rs, counting, returnRules)
}

func rulesBy(block, allow []setPlan, rs ruleset.Ruleset, counting bool, returns func(setPlan) []rule) []rule {
	var rr []rule
	for _, s := range block {
		rr = append(rr, lookupRules(s, block)...)
	}
	for _, f := range families() {
		for _, s := range allow {
			if s.family.name == f.name {
				rr = append(rr, returns(s)...)
			}
		}
		if counting {
			rr = append(rr, countingRules(f, rs)...)
		} else {
			rr = append(rr, logRule(f, rs), dropRule(f))
		}
	}
	return rr
}

// lookupRules returns the rules that send a source in s to the drop chain of its family: one, or for
// a gated set one for each gate among block. Only during a change are there two gates.
func lookupRules(s setPlan, block []setPlan) []rule {
	if s.gate {
		return nil
	}
	to := jump(dropPrefix + s.family.name)
	var rr []rule
	for _, g := range block {
		if s.gated && g.gate && g.family.name == s.family.name {
			// ip saddr & 255.255.0.0 @gate4 ip saddr @blocklist4_any jump blocked4
			rr = append(rr, newRule(baseChain, sourceIn(g), sourceIn(s), to))
		}
	}
	if len(rr) == 0 {
		// ip saddr & 255.255.255.0 @blocklist4_24 jump blocked4
		rr = append(rr, newRule(baseChain, sourceIn(s), to))
	}
	return rr
}

// sourceIn returns the part that looks up the source, reduced to the prefix length of the elements.
func sourceIn(s setPlan) part {
	p := part{
		text:  s.family.saddrText(),
		exprs: append([]expr.Any{familyMatch{family: s.family}}, s.family.loadSource()[2:]...),
	}
	if !s.interval && s.bits < s.family.width {
		mask := net.CIDRMask(s.bits, s.family.width)
		p.text += " & " + net.IP(mask).String()
		p.exprs = append(p.exprs, maskSource(mask))
	}
	p.text += " @" + s.kernel
	p.exprs = append(p.exprs, &expr.Lookup{SourceRegister: 1, SetName: s.kernel})
	return p
}

// returnRule returns the rule that lets an allowlisted source pass as if it were not listed.
func returnRule(s setPlan) rule {
	return rule{
		// ip saddr @whitelist4 return
		chain: dropPrefix + s.family.name,
		text:  s.family.saddrText() + " @" + s.kernel + " return",
		exprs: append(s.family.loadSource(),
			&expr.Lookup{SourceRegister: 1, SetName: s.kernel},
			&expr.Verdict{Kind: expr.VerdictReturn}),
	}
}

// returnRules returns one rule for each element of s, which together do the same as returnRule.
func returnRules(s setPlan) []rule {
	var rr []rule
	for p := range s.elements {
		mask := net.CIDRMask(p.Bits(), s.family.width)
		rr = append(rr, rule{
			// ip saddr 203.0.113.0/24 return
			chain: dropPrefix + s.family.name,
			text:  s.family.saddrText() + " " + p.String() + " return",
			exprs: append(s.family.loadSource(),
				maskSource(mask),
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
				&expr.Verdict{Kind: expr.VerdictReturn}),
		})
	}
	return rr
}

// logRule returns the rule that copies dropped packets to the sensor, where the kernel does not count
// by key. Its limit comes first, because a limit after log limits nothing. The rule is separate from
// the drop rule, because a limit in that rule would limit the drop.
func logRule(f family, rs ruleset.Ruleset) rule {
	// limit rate 10000/second burst 10000 packets log group 100 snaplen 128
	return newRule(dropPrefix+f.name, limited(rs), logged(rs))
}

// dropRule returns the rule that counts and drops.
func dropRule(f family) rule {
	// counter name "blocked4" drop
	return newRule(dropPrefix+f.name, counted(f))
}

// maskSource returns the expression that masks the address in register 1.
func maskSource(mask net.IPMask) expr.Any {
	return &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
	}
}

// saddrText returns the nft expression for the source address of the family.
func (f family) saddrText() string {
	if f.width == 32 {
		return "ip saddr"
	}
	return "ip6 saddr"
}

// loadSource returns the expressions that match packets of the family and load their source address
// into register 1. In an inet table the family must be matched before its header is read: offset 12
// of an IPv6 header is also part of the source address.
func (f family) loadSource() []expr.Any {
	proto, offset := byte(unix.NFPROTO_IPV4), uint32(12) // RFC 791, 3.1
	if f.width == 128 {
		proto, offset = unix.NFPROTO_IPV6, 8 // RFC 8200, 3
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(f.width / 8)},
	}
}
