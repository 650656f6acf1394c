package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Other programs may add rules to table raw with nft that iptables cannot translate: notrack, a
// named counter, fib. iptables-nft-save then prints a comment instead of the table, and exits with
// 0. So this file asks the kernel for our chains and the jumps to them. It asks iptables only for
// the rules of our chain, which iptables prints by itself.

// dumpTries is the number of times that a dump is begun if changes interrupt it.
const dumpTries = 10

// tablePrinted reports whether out holds the table.
func tablePrinted(out string) bool {
	return slices.Contains(strings.Split(out, "\n"), "*raw")
}

// readUnprintable returns the state of a table that iptables cannot print. If it cannot print our
// chains either, the error is ErrUnprintable, and the state lacks their rules.
func (f *Firewall) readUnprintable(ctx context.Context, t tables) (state, error) {
	st, err := readNFTOutline(t.proto)
	if err != nil {
		return st, err
	}
	var listed strings.Builder
	for _, c := range st.chains {
		if c == probeChain {
			continue
		}
		out, _, err := f.run.run(ctx, askTime, nil, t.list, "--table", "raw", "--verbose", "--list-rules", c)
		if err != nil {
			if refused(err) {
				err = fmt.Errorf("%w: %w", ErrUnprintable, err)
			}
			return st, fmt.Errorf("read %s chain %s: %w", t.name, c, err)
		}
		listed.WriteString(asSaved(out))
	}
	own := parseState(listed.String())
	st.rules, st.dropped = own.rules, own.dropped
	return st, nil
}

// outline is readState for callers that do not need the rules of our chain.
func (f *Firewall) outline(ctx context.Context, t tables) (state, error) {
	st, err := f.readState(ctx, t)
	if errors.Is(err, ErrUnprintable) {
		err = nil
	}
	return st, err
}

// asSaved converts listed rules to the format of iptables-save, with the counters in front.
func asSaved(listed string) string {
	var b strings.Builder
	for line := range strings.Lines(listed) {
		rule, counted, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " -c ")
		words := strings.SplitN(counted, " ", 3)
		if !ok || len(words) < 2 {
			continue
		}
		fmt.Fprintf(&b, "[%s:%s] %s\n", words[0], words[1], strings.Join(append([]string{rule}, words[2:]...), " "))
	}
	return b.String()
}

// readNFTOutline asks nf_tables for our chains in table raw of the family, and for the jumps to
// them.
func readNFTOutline(proto uint8) (state, error) {
	st := state{foreign: true}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return st, fmt.Errorf("ask for table raw: %w", err)
	}
	defer func() { _ = c.Close() }() // it was only read
	for _, name := range append(ownChains(), probeChain) {
		found, err := hasNFTChain(c, proto, name)
		if err != nil {
			return st, fmt.Errorf("ask for table raw: %w", err)
		}
		if found {
			st.declare(name + " -")
		}
	}
	if st.jumps, st.first, err = countNFTJumps(c, proto); err != nil {
		return st, fmt.Errorf("ask for table raw: %w", err)
	}
	return st, nil
}

// hasNFTChain reports whether table raw has a chain.
func hasNFTChain(c *netlink.Conn, proto uint8, name string) (bool, error) {
	m, err := nftMessage(unix.NFT_MSG_GETCHAIN, netlink.Request, proto, name)
	if err != nil {
		return false, err
	}
	_, err = c.Execute(m)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil, err
}

// countNFTJumps returns the number of rules of PREROUTING that jump to our chain without a
// condition, and whether the first rule is one of them.
func countNFTJumps(c *netlink.Conn, proto uint8) (jumps int, first bool, err error) {
	m, err := nftMessage(unix.NFT_MSG_GETRULE, netlink.Request|netlink.Dump, proto, "PREROUTING")
	if err != nil {
		return 0, false, err
	}
	var rules []netlink.Message
	for range dumpTries {
		if rules, err = c.Execute(m); err != nil {
			return 0, false, err
		}
		interrupted := func(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }
		if !slices.ContainsFunc(rules, interrupted) {
			break
		}
		err = errors.New("its rules change all the time")
	}
	if err != nil {
		return 0, false, err
	}
	before := 0
	for _, r := range rules {
		in, ours, err := decodeRule(r.Data)
		if err != nil {
			return 0, false, err
		}
		if in != "raw PREROUTING" { // old kernels return all rules of the family
			continue
		}
		if ours {
			jumps++
			first = first || before == 0
		}
		before++
	}
	return jumps, first, nil
}

// decodeRule returns the table and the chain of a rule. ours reports whether the rule only counts
// and jumps to our chain.
func decodeRule(data []byte) (in string, ours bool, err error) {
	const header = 4 // struct nfgenmsg
	if len(data) < header {
		return "", false, errors.New("a rule without a header")
	}
	ad, err := netlink.NewAttributeDecoder(data[header:])
	if err != nil {
		return "", false, err
	}
	ad.ByteOrder = binary.BigEndian
	var table, name string
	var steps []string
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			name = ad.String()
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						steps = append(steps, decodeStep(e))
						return nil
					})
				}
				return nil
			})
		}
	}
	steps = slices.DeleteFunc(steps, func(step string) bool { return step == "counter" })
	return table + " " + name, slices.Equal(steps, []string{"jump " + chain}), ad.Err()
}

// decodeStep returns the name of an expression of a rule, and the target if it is a jump.
func decodeStep(e *netlink.AttributeDecoder) string {
	var kind, target string
	var code uint32
	verdict := func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_VERDICT_CODE:
				code = ad.Uint32()
			case unix.NFTA_VERDICT_CHAIN:
				target = ad.String()
			}
		}
		return nil
	}
	within := func(kind uint16, f func(*netlink.AttributeDecoder) error) func(*netlink.AttributeDecoder) error {
		return func(ad *netlink.AttributeDecoder) error {
			for ad.Next() {
				if ad.Type() == kind {
					ad.Nested(f)
				}
			}
			return nil
		}
	}
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			kind = e.String()
		case unix.NFTA_EXPR_DATA:
			if kind == "immediate" { // the kernel sends the name first
				e.Nested(within(unix.NFTA_IMMEDIATE_DATA, within(unix.NFTA_DATA_VERDICT, verdict)))
			}
		}
	}
	if int32(code) == unix.NFT_JUMP {
		return "jump " + target
	}
	return kind
}
