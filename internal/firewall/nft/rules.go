package nft

import (
	"fmt"
	"net"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

const (
	// tableName is the one table that is ours, in family inet.
	tableName = "sikkerguard"
	// probeName is the scratch table that lives inside one transaction (see probe).
	probeName = "sikkerguard-probe"

	baseChain  = "prerouting"
	dropPrefix = "blocked" // with the family's digit: the name of the drop chain and of its counter

	// snapLen is how many bytes of a dropped packet are copied to the sensor: an IPv6 header, a few extension headers and
	// the ports.
	snapLen = 128
)

// rule is one rule of a chain: what it does, and the nft text that `nft list table` prints for it.
type rule struct {
	chain string
	text  string
	exprs []expr.Any
}

// logs reports whether the rule is the one of logRule.
func (r rule) logs() bool {
	return slices.ContainsFunc(r.exprs, func(e expr.Any) bool { _, ok := e.(*expr.Log); return ok })
}

// chains are the chains of the table: the base chain first, then a drop chain a family.
func chains(t *nftables.Table) []*nftables.Chain {
	policy := nftables.ChainPolicyAccept
	cs := []*nftables.Chain{{
		// type filter hook prerouting priority raw; policy accept;
		Name: baseChain, Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting,
		// Before connection tracking (-200) and address translation (-100), so that neither sees what is dropped and the
		// ports that Docker publishes are covered.
		Priority: nftables.ChainPriorityRaw, Policy: &policy,
	}}
	for _, f := range families() {
		cs = append(cs, &nftables.Chain{Name: dropPrefix + f.name, Table: t})
	}
	return cs
}

// rules are the rules for these sets, in the order in which they stand.
func rules(block, allow []setPlan, rs ruleset.Ruleset) []rule {
	return rulesBy(block, allow, rs, func(s setPlan) []rule { return []rule{returnRule(s)} })
}

// spelled are the same rules without a lookup of allow: each of its elements is a rule. They are in
// force in the instant in which the kernel takes them, which an interval set is not.
func spelled(block, allow []setPlan, rs ruleset.Ruleset) []rule {
	return rulesBy(block, allow, rs, returnRules)
}

func rulesBy(block, allow []setPlan, rs ruleset.Ruleset, back func(setPlan) []rule) []rule {
	var rr []rule
	for _, s := range block {
		rr = append(rr, lookupRule(s))
	}
	for _, f := range families() {
		for _, s := range allow {
			if s.family.name == f.name {
				rr = append(rr, back(s)...)
			}
		}
		rr = append(rr, logRule(f, rs), dropRule(f))
	}
	return rr
}

// lookupRule sends a listed source to the drop chain of its family.
func lookupRule(s setPlan) rule {
	text := s.family.saddrText()
	exprs := s.family.loadSource()
	if !s.interval && s.bits < s.family.width {
		// The source's network, in the register that the lookup reads.
		mask := net.CIDRMask(s.bits, s.family.width)
		text += " & " + net.IP(mask).String()
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
		})
	}
	return rule{
		// ip saddr & 255.255.255.0 @blocklist4_24 jump blocked4
		chain: baseChain,
		text:  text + " @" + s.kernel + " jump " + dropPrefix + s.family.name,
		exprs: append(exprs,
			&expr.Lookup{SourceRegister: 1, SetName: s.kernel},
			&expr.Verdict{Kind: expr.VerdictJump, Chain: dropPrefix + s.family.name}),
	}
}

// returnRule lets a whitelisted source go on as if it were not listed.
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

// returnRules do the same as returnRule, by one rule for each element.
func returnRules(s setPlan) []rule {
	var rr []rule
	for p := range s.elements {
		mask := net.CIDRMask(p.Bits(), s.family.width)
		rr = append(rr, rule{
			// ip saddr 203.0.113.0/24 return
			chain: dropPrefix + s.family.name,
			text:  s.family.saddrText() + " " + p.String() + " return",
			exprs: append(s.family.loadSource(),
				&expr.Bitwise{
					SourceRegister: 1, DestRegister: 1, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask)),
				},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Masked().Addr().AsSlice()},
				&expr.Verdict{Kind: expr.VerdictReturn}),
		})
	}
	return rr
}

// logRule copies a dropped packet to the sensor. The limit comes first, because a limit after log limits nothing, and is
// here alone, because a limit beside the drop would limit the drop.
func logRule(f family, rs ruleset.Ruleset) rule {
	return rule{
		// limit rate 10000/second burst 10000 packets log group 100 snaplen 128
		chain: dropPrefix + f.name,
		text:  fmt.Sprintf("limit rate %d/second burst %d packets log group %d snaplen %d", rs.LogRate, rs.LogRate, rs.LogGroup, snapLen),
		exprs: []expr.Any{
			&expr.Limit{
				Type: expr.LimitTypePkts, Rate: uint64(rs.LogRate), Unit: expr.LimitTimeSecond, Burst: rs.LogRate,
			},
			&expr.Log{
				Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_SNAPLEN,
				Group: rs.LogGroup, Snaplen: snapLen,
			},
		},
	}
}

// dropRule counts and drops. The counter has a name, so that it survives every refresh.
func dropRule(f family) rule {
	return rule{
		// counter name "blocked4" drop
		chain: dropPrefix + f.name,
		text:  fmt.Sprintf("counter name %q drop", dropPrefix+f.name),
		exprs: []expr.Any{
			&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: dropPrefix + f.name},
			&expr.Verdict{Kind: expr.VerdictDrop},
		},
	}
}

// saddrText is how nft writes the source address of the family.
func (f family) saddrText() string {
	if f.width == 32 {
		return "ip saddr"
	}
	return "ip6 saddr"
}

// loadSource puts the source address of a packet of the family into register 1, and passes over other packets. In an inet
// table the family must be matched before its header is read: offset 12 of an IPv6 header is part of the address too.
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
