package lab

import (
	"context"
	"fmt"
	"math/bits"
	"strings"

	"github.com/sikkerapi/sikkerguard/e2e/bench/lists"
)

// peerSet is the name of the set of a peer.
const peerSet = "bench"

// IPSet is iptables in INPUT with a set of ipset, as most lists are enforced.
type IPSet struct{}

// Load creates the set and the rule.
func (IPSet) Load(ctx context.Context, h *Host, l *lists.List) error {
	if _, err := h.Run(ctx, ipsetText(peerSet, l), "ipset", "restore"); err != nil {
		return err
	}
	program := "iptables"
	if l.V6 {
		program = "ip6tables"
	}
	_, err := h.Run(ctx, "", program, "-A", "INPUT", "-m", "set", "--match-set", peerSet, "src", "-j", "DROP")
	return err
}

// SwapText returns the input of `ipset restore` that replaces the whole set without a gap.
func (IPSet) SwapText(l *lists.List) string {
	const next = peerSet + "_new"
	return ipsetText(next, l) + "swap " + next + " " + peerSet + "\ndestroy " + next + "\n"
}

// ChangeText returns the input of `ipset restore` that makes set a list into another, entry by
// entry. The kernel makes each change for itself.
func (IPSet) ChangeText(from, to *lists.List) string {
	removed, added := difference(from, to)
	var b strings.Builder
	for _, e := range removed {
		b.WriteString("del " + peerSet + " " + e + "\n")
	}
	for _, e := range added {
		b.WriteString("add " + peerSet + " " + e + "\n")
	}
	return b.String()
}

func ipsetText(name string, l *lists.List) string {
	family, kind := "inet", "hash:net"
	if l.V6 {
		family = "inet6"
	}
	size := max(1024, 1<<bits.Len(uint(len(l.Entries))))
	var b strings.Builder
	fmt.Fprintf(&b, "create %s %s family %s hashsize %d maxelem %d\n", name, kind, family, size, 2*size)
	for entry := range strings.Lines(l.Text()) {
		b.WriteString("add " + name + " " + entry)
	}
	return b.String()
}

// NFT is a table for `nft -f` with an interval set in the input hook, as in most examples.
type NFT struct{}

// Load creates the table.
func (NFT) Load(ctx context.Context, h *Host, l *lists.List) error {
	kind, match := "ipv4_addr", "ip"
	if l.V6 {
		kind, match = "ipv6_addr", "ip6"
	}
	head := fmt.Sprintf("table inet filter {\n set %s { type %s; flags interval; }\n"+
		" chain input { type filter hook input priority 0; %s saddr @%s counter drop; }\n}\n",
		peerSet, kind, match, peerSet)
	_, err := h.Run(ctx, head+nftElements(l), "nft", "-f", "-")
	return err
}

// SwapText returns the input of `nft -f` that replaces the elements without a gap.
func (NFT) SwapText(l *lists.List) string {
	return "flush set inet filter " + peerSet + "\n" + nftElements(l)
}

// ChangeText returns the input of `nft -f` that makes the set of a list into that of another.
func (NFT) ChangeText(from, to *lists.List) string {
	removed, added := difference(from, to)
	return "delete element inet filter " + peerSet + " { " + strings.Join(removed, ", ") + " }\n" +
		"add element inet filter " + peerSet + " { " + strings.Join(added, ", ") + " }\n"
}

func nftElements(l *lists.List) string {
	entries := strings.Fields(l.Text())
	return "add element inet filter " + peerSet + " { " + strings.Join(entries, ", ") + " }\n"
}

// difference returns the entries that are in one list only.
func difference(from, to *lists.List) (removed, added []string) {
	a, b := strings.Fields(from.Text()), strings.Fields(to.Text())
	in := func(all []string) map[string]bool {
		m := make(map[string]bool, len(all))
		for _, e := range all {
			m[e] = true
		}
		return m
	}
	old, wanted := in(a), in(b)
	for _, e := range a {
		if !wanted[e] {
			removed = append(removed, e)
		}
	}
	for _, e := range b {
		if !old[e] {
			added = append(added, e)
		}
	}
	return removed, added
}
