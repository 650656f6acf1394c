package status

// Drops are the figures of dropped packets.
type Drops struct {
	Dropped    *Dropped          `json:"dropped"` // null while the kernel has no counters of the agent
	Events     Events            `json:"events"`
	Unrecorded uint64            `json:"unrecorded"` // packets seen that the database never took
	Undecided  uint64            `json:"undecided"`  // datagrams seen and not reported, because they may be replies
	Hits       map[string]uint64 `json:"hits"`       // packets seen, by service: its name in SIKKER_PORT_MAP, or other

	Unattributed uint64 `json:"-"` // packets not attributed to a source, except those on their way; never decreases
}

// Dropped sums the packets dropped since the database was created. The kernel is asked for each
// reader. The sums never decrease.
type Dropped struct {
	Packets4 uint64 `json:"packetsIpv4"`
	Bytes4   uint64 `json:"bytesIpv4"`
	Packets6 uint64 `json:"packetsIpv6"`
	Bytes6   uint64 `json:"bytesIpv6"`
	Exact    bool   `json:"exact"` // false if the last packets of a killed run are missing, or the database was lost
}

// Events counts the packets dropped since this process began. Dropped is the sum of Seen, Lost and
// Unattributed.
type Events struct {
	Dropped uint64 `json:"dropped"`
	Seen    uint64 `json:"seen"` // counted by source in the kernel, or received by NFLOG if the kernel cannot
	Lost    uint64 `json:"lost"` // sent to NFLOG, not received, and not counted by source
	// with no source: beyond the sources that the kernel counts, or beyond the log rate if it cannot;
	// or on their way: the kernel's counts are read every second, in a flood every few seconds
	Unattributed uint64 `json:"unattributed"`

	Unparsed uint64 `json:"unparsed"` // of those seen, with unreadable headers
	Overflow uint64 `json:"overflow"` // of those seen, from more sources and ports at a time than are kept
}

// dropMetrics returns the metrics of dropped packets. A dry run has none.
func dropMetrics() []metric {
	dropped := func(read func(d *Dropped) (n4, n6 uint64)) func(*Status, put) {
		return func(s *Status, out put) {
			if s.Dropped != nil {
				n4, n6 := read(s.Dropped)
				out(float64(n4), "4")
				out(float64(n6), "6")
			}
		}
	}
	events := func(read func(s *Status) uint64) func(*Status, put) {
		return func(s *Status, out put) {
			if !s.DryRun {
				out(float64(read(s)))
			}
		}
	}
	return []metric{
		{
			"dropped_packets_total", counter, "family",
			"Packets dropped, by family, 4 or 6, as the kernel counted them. It continues after a restart.",
			`sum by (instance) (rate(sikkerguard_dropped_packets_total[5m]))`,
			dropped(func(d *Dropped) (uint64, uint64) { return d.Packets4, d.Packets6 }),
		},
		{
			"dropped_bytes_total", counter, "family",
			"Bytes of the dropped packets, by family, 4 or 6, as the kernel counted them. It continues after a " +
				"restart.",
			`sum by (instance) (rate(sikkerguard_dropped_bytes_total[5m])) * 8`,
			dropped(func(d *Dropped) (uint64, uint64) { return d.Bytes4, d.Bytes6 }),
		},
		{
			"events_seen_total", counter, "",
			"Dropped packets attributed to a source since the agent started: counted by source in the kernel or, if " +
				"it cannot, received by NFLOG.",
			`rate(sikkerguard_events_seen_total[5m])`,
			events(func(s *Status) uint64 { return s.Events.Seen }),
		},
		{
			"events_lost_total", counter, "",
			"Dropped packets whose NFLOG event the kernel sent and the agent did not receive, and whose source the " +
				"kernel does not count, since it started.",
			`increase(sikkerguard_events_lost_total[5m]) > 0`,
			events(func(s *Status) uint64 { return s.Events.Lost }),
		},
		{
			"events_unattributed_total", counter, "",
			"Dropped packets not attributed to a source, because there were more sources than the kernel counts; if " +
				"it cannot count by source, mostly because they came faster than SIKKER_LOG_RATE. Up to ten seconds " +
				"late.",
			`increase(sikkerguard_events_unattributed_total[5m]) > 0`,
			events(func(s *Status) uint64 { return s.Unattributed }),
		},
		{
			"events_unparsed_total", counter, "", "Of the packets seen, those whose headers could not be read.",
			`increase(sikkerguard_events_unparsed_total[1h]) > 0`,
			events(func(s *Status) uint64 { return s.Events.Unparsed }),
		},
		{
			"events_overflow_total", counter, "",
			"Of the packets seen, those from more sources and ports at a time than the agent keeps.",
			`increase(sikkerguard_events_overflow_total[1h]) > 0`,
			events(func(s *Status) uint64 { return s.Events.Overflow }),
		},
		{
			"events_unrecorded_total", counter, "",
			"Of the packets seen, those that are in no report, because the database could not be used for too " +
				"long.",
			`increase(sikkerguard_events_unrecorded_total[1h]) > 0`,
			events(func(s *Status) uint64 { return s.Unrecorded }),
		},
		{
			"events_undecided_total", counter, "",
			"Of the packets seen, datagrams to services that are in no report, because the sockets or tracked " +
				"connections of this host could not be read in time to show that they are no replies.",
			`increase(sikkerguard_events_undecided_total[1h]) > 0`,
			events(func(s *Status) uint64 { return s.Undecided }),
		},
		{
			"hits_total", counter, "protocol",
			"Dropped packets seen, by protocol: the name of their port in SIKKER_PORT_MAP, or other. Answers to" +
				" this host count as other. A name appears with its first packet.",
			`topk(5, sum by (protocol) (rate(sikkerguard_hits_total[1h])))`,
			func(s *Status, out put) {
				for name, packets := range s.Hits {
					out(float64(packets), name)
				}
			},
		},
	}
}
