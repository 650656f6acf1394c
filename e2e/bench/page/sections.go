package page

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/sikkerapi/sikkerguard/e2e/bench/measure"
	"github.com/sikkerapi/sikkerguard/e2e/bench/result"
)

// section is a part of the page. If body returns "", it is left out.
type section struct {
	title         string
	before, after string
	plots         []string
	body          func(*result.Result) string
}

func sections() []section {
	return []section{
		{
			title: "Summary", body: summary,
			after: "\"Before\" is a run when the goals were set, on a machine with two cores.",
		},
		{
			title: "A blocked packet", plots: []string{plotBlocked}, before: packetMethod,
			body: func(r *result.Result) string { return packetTable(r, result.Blocked) }, after: blockedMethod,
		},
		{
			title: "A passing packet", plots: []string{plotPassing},
			body: func(r *result.Result) string { return packetTable(r, result.Passing) }, after: passingMethod,
		},
		{title: "A new list", plots: []string{plotRefresh}, before: refreshMethod, body: refreshTable},
		{title: "At rest", before: restMethod, body: restTable},
		{title: "Start", before: startMethod, body: startTable},
		{title: "Floods", before: floodMethod, body: floodTable},
		{title: "Recording", body: recordText},
		{title: "cs-firewall-bouncer", before: bouncerMethod, body: bouncerTable},
	}
}

const (
	packetMethod = `
**Method.** Each contestant has a network namespace of its own with the list in force. A BPF program in the
kernel's test run for live frames (BPF_PROG_RUN) gives frames to the device of the host as the driver of a
network card does, from 1,000 sources in turn. No other host sends, so the processor time of the thread, in ns a
packet, is that of the receiving host alone: making the packet, the way through the stack, and the verdict. The
time of the kernel thread ksoftirqd of that processor is added; waiting and other processes do not count. The
agent runs on the other processors. Packets are passed up one by one, as when they arrive one by one. In a flood
they come in batches, and the kernel looks the route up once for a batch: the rows "batches of 64". A round
is the median of nine bursts. The spread in the last column is that of SikkerGuard: half of the rounds are
within it of the median.

**Lists.** Mixed lists are 85% addresses and 15% /24 (IPv6: /64). Odd widths are 98% /25 to /31 and 2% /20 to
/23 (IPv6: /52 to /124, and /36 to /44). Entries are spread over networks as unevenly as those of the public
list IPsum.

**Contestants.** iptables and ipset drop in INPUT (` + "`hash:net`" + `), as most lists are enforced. "nft" is
an interval set in the hook input, as in most examples. XDP is a program that does nothing but look
addresses up in a hash
map and drop, in the driver, before there is a packet: the limit. None of these counts by source or logs.
SikkerGuard does both, while its agent listens. There is no connection tracking on these hosts. With it, a rule
in INPUT costs more than here, and one before it does not.`

	blockedMethod = `
A packet that is dropped: a TCP SYN of a listed source.`

	passingMethod = `
A packet that passes: a UDP datagram of a source that is not listed, up to its socket. With a large list half of
the sources are in a /16 that has entries.`

	refreshMethod = `
**Method.** The times run from the order (SIGHUP) to the log line "Blocking": the pull from an API on the same
host, checking every entry, probes of gateway, resolver and API before the change, the kernel, and the evidence
from it. ` + "`ipset restore` and `nft -f`" + ` read an input that is made before, so their times are
those of the program and the kernel alone. "Whole" is a list without an entry in common with the one
before: ipset fills a second set
and swaps, nft flushes and fills the set. In "1% changed", one in a hundred entries is replaced: ipset and nft
get these changes alone. That takes nft seconds at 20,000 entries and minutes at 500,000, so it is measured with
small lists only. "Kernel" is the part of SikkerGuard from the first request to the last answer. Lists are
mixed. Times are in ms, memory in MiB.`

	restMethod = `
Memory and wake-ups (context switches of all threads) some seconds after a refresh, without packets. The lists
are mixed.`

	startMethod = `
From the start of the process, with a saved list, to the log lines "Blocking" and "SikkerGuard running". A
silent gateway answers neither ARP nor a ping.`

	floodMethod = `
Connection requests at 200,000 a second. Afterwards the agent is stopped, and its database is read.`

	bouncerMethod = `
The bouncer of CrowdSec (Debian's package crowdsec-firewall-bouncer, with nftables) takes its decisions from
CrowdSec's local API on the same host, SikkerGuard its list from an API, both without a list of an earlier run.`
)

// packetTable has a row for each list.
func packetTable(r *result.Result, m result.Measure) string {
	peers := []result.Contestant{result.IPSet, result.NFT, result.XDP}
	if m == result.Passing {
		peers = append(peers, result.Open)
	}
	head := []string{"list", "SikkerGuard"}
	for _, p := range peers {
		head = append(head, string(p))
	}
	head = append(head, "SikkerGuard with iptables", "**ratio to iptables + ipset**", "to nft", "spread")
	var rows [][]string
	for _, c := range r.Cases(m) {
		name := fmt.Sprintf("IPv%d, %s", c.Family, listName(c))
		if c.Variant != "" {
			name += ", " + c.Variant
		}
		row := []string{name, median(r, c, result.Agent)}
		for _, p := range peers {
			row = append(row, median(r, c, p))
		}
		row = append(row, median(r, c, result.AgentIPT),
			"**"+ratio(r.Ratio(c, result.Agent, result.IPSet))+"**", ratio(r.Ratio(c, result.Agent, result.NFT)),
			"± "+number(100*result.Spread(r.Values(c, result.Agent)))+"%")
		rows = append(rows, row)
	}
	if rows == nil {
		return ""
	}
	return table(head, rows)
}

func refreshTable(r *result.Result) string {
	var rows [][]string
	for _, m := range []struct {
		measure result.Measure
		name    string
	}{
		{result.Whole, "whole"},
		{result.Changed, "1% changed"},
		{result.ChangedApply, "1% changed, kernel"},
		{result.Peak, "peak memory of whole"},
	} {
		for _, c := range r.Cases(m.measure) {
			if c.Variant != "" {
				continue // figures of a start
			}
			rows = append(rows, []string{
				fmt.Sprintf("%s, %s", m.name, thousands(strconv.Itoa(c.Entries))),
				median(r, c, result.Agent), median(r, c, result.IPSet), median(r, c, result.NFT),
				median(r, c, result.AgentIPT), "**" + ratio(r.Ratio(c, result.Agent, result.IPSet)) + "**",
			})
		}
	}
	if rows == nil {
		return ""
	}
	return table([]string{
		"list", "SikkerGuard", "ipset restore", "nft -f", "SikkerGuard with iptables", "**ratio to ipset**",
	}, rows)
}

func restTable(r *result.Result) string {
	cases := r.Cases(result.WakeUps)
	if cases == nil {
		return ""
	}
	head := []string{""}
	for _, c := range cases {
		head = append(head, thousands(strconv.Itoa(c.Entries))+" entries")
	}
	row := func(name string, c func(result.Case) result.Case) []string {
		cells := []string{name}
		for _, of := range cases {
			cells = append(cells, median(r, c(of), result.Agent))
		}
		return cells
	}
	of := func(m result.Measure, variant string) func(result.Case) result.Case {
		return func(c result.Case) result.Case {
			c.Measure, c.Variant = m, variant
			return c
		}
	}
	rows := [][]string{
		row("wake-ups a second", of(result.WakeUps, "")),
		row("resident memory, MiB", of(result.Resident, "")),
	}
	for _, owner := range []string{
		measure.OwnerProgram, measure.OwnerLive, measure.OwnerIdle, measure.OwnerRuntime,
	} {
		rows = append(rows, row("of that: "+owner, of(result.Owner, owner)))
	}
	return table(head, rows)
}

func startTable(r *result.Result) string {
	var rows [][]string
	for _, c := range r.Cases(result.ToBlocking) {
		running := c
		running.Measure = result.ToRunning
		rows = append(rows, []string{
			fmt.Sprintf("%s entries, %s", thousands(strconv.Itoa(c.Entries)), c.Variant),
			median(r, c, result.Agent), median(r, running, result.Agent),
		})
	}
	if rows == nil {
		return ""
	}
	return table([]string{"saved list", "to \"Blocking\", ms", "to \"SikkerGuard running\", ms"}, rows)
}

func floodTable(r *result.Result) string {
	var rows [][]string
	for _, c := range r.Cases(result.Sources) {
		row := []string{c.Variant}
		for _, m := range []result.Measure{result.Rate, result.Sources, result.Counted, result.CPU} {
			c.Measure = m
			v, ok := r.Median(c, result.Agent)
			switch {
			case !ok:
				row = append(row, none)
			case m == result.Sources || m == result.Counted:
				row = append(row, percent(v)+"%")
			case m == result.CPU:
				row = append(row, number(v)+"%")
			default:
				row = append(row, number(v))
			}
		}
		rows = append(rows, row)
	}
	if rows == nil {
		return ""
	}
	return table([]string{
		"sources", "packets sent a second", "sources in the history", "packets in the history", "agent, of a core",
	}, rows)
}

func recordText(r *result.Result) string {
	v, ok := r.Median(result.Case{Measure: result.Record}, result.Agent)
	if !ok {
		return ""
	}
	return fmt.Sprintf("To record the packets of one source and port in the database takes %s µs, in windows of\n"+
		"5,000 of 50,000 sources (`BenchmarkAdd` in internal/store).", number(v))
}

func bouncerTable(r *result.Result) string {
	var rows [][]string
	for _, c := range r.Cases(result.Load) {
		for _, who := range []result.Contestant{result.Agent, result.Bouncer, result.BouncerAPI} {
			row := []string{string(who), thousands(strconv.Itoa(c.Entries))}
			for _, m := range []result.Measure{result.Load, result.CPU, result.Resident, result.Peak} {
				of := c
				of.Measure = m
				row = append(row, median(r, of, who))
			}
			rows = append(rows, row)
		}
	}
	if rows == nil {
		return ""
	}
	return table([]string{
		"", "entries", "until all are in force, ms", "processor time, ms", "resident, MiB", "peak, MiB",
	}, rows)
}

// only returns the cases for which keep is true.
func only(cases []result.Case, keep func(result.Case) bool) []result.Case {
	return slices.DeleteFunc(slices.Clone(cases), func(c result.Case) bool { return !keep(c) })
}
