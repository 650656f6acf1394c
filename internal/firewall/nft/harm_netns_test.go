package nft

// harm is a change that another program makes to the table when its owner is dead, or on a kernel
// without table owners. Each line of the script is one transaction. TABLE stands for the agent's
// table.
type harm struct {
	name    string
	script  string
	broken  bool // the rules drop too little or too much until the next Apply
	replace bool // Apply needs a new table
	partial bool // the broken rules still drop 203.0.113.9 and nothing unlisted
}

// harms returns the harms, grouped by the part of the table that they change.
func harms() []harm {
	// base replaces the base chain by one with a rule that looks up a set of the agent.
	base := func(spec string) string {
		return "flush chain TABLE prerouting; delete chain TABLE prerouting; add chain TABLE prerouting " +
			spec + "; add rule TABLE prerouting ip saddr @blocklist4_32 jump blocked4"
	}
	// set replaces a set of the agent by another one.
	set := func(name, spec string) string {
		return "flush chain TABLE prerouting; flush chain TABLE blocked4; delete set TABLE " + name +
			"; add " + spec
	}
	return []harm{
		{
			name: "set used by a chain",
			script: "add set TABLE theirs { type ipv4_addr; }; " +
				"add chain TABLE evil { type filter hook input priority 0; }; " +
				"add rule TABLE evil ip saddr @theirs drop",
		},
		{
			name: "set of the agent used by a chain",
			script: "add chain TABLE evil { type filter hook output priority 0; }; " +
				"add rule TABLE evil ip daddr @blocklist4_any drop; " +
				"add rule TABLE evil ip daddr @blocklist4_32 jump blocked4",
		},
		{
			name: "chains that jump to each other",
			script: "add chain TABLE a; " +
				"add chain TABLE b; " +
				"add chain TABLE c; " +
				"add rule TABLE c jump a; " +
				"add rule TABLE a jump b; " +
				"add rule TABLE prerouting jump c",
		},
		{
			name: "map to chains",
			script: "add chain TABLE evil; " +
				"add map TABLE m { type ipv4_addr : verdict; }; " +
				"add element TABLE m { 192.0.2.9 : jump evil, 192.0.2.10 : jump blocked4 }; " +
				"add chain TABLE other; " +
				"add rule TABLE other ip saddr vmap @m; " +
				"add rule TABLE prerouting jump other",
		},
		{
			name: "anonymous map in a chain of the agent",
			script: "add chain TABLE evil; " +
				"insert rule TABLE prerouting tcp dport vmap { 22 : jump evil, 80 : jump blocked4 }",
		},
		{
			name: "chain that is part of a rule",
			script: "add chain TABLE evil { type filter hook input priority 0; }; " +
				"add rule TABLE evil tcp dport 22 jump { counter; ip saddr @blocklist4_32 accept; }",
		},
		{
			name:   "chain that is part of a rule in a chain of the agent",
			script: "insert rule TABLE prerouting tcp dport 22 jump { ip saddr @blocklist4_32 accept; }",
		},
		{
			name:   "chain on a device",
			script: "add chain TABLE evil { type filter hook ingress device lo priority 0; policy drop; }",
		},
		{
			name: "set of networks and ports",
			script: "add set TABLE theirs { type ipv4_addr . inet_service; flags interval; }; " +
				"add element TABLE theirs { 192.0.2.0/24 . 1-1000 }; " +
				"add chain TABLE evil { type filter hook input priority 0; }; " +
				"add rule TABLE evil ip saddr . udp dport @theirs drop",
		},
		{
			name: "dynamic set",
			script: "add set TABLE seen { type ipv4_addr; size 128; flags dynamic, timeout; timeout 1m; }; " +
				"add chain TABLE evil { type filter hook prerouting priority -301; }; " +
				"add rule TABLE evil update @seen { ip saddr }",
		},

		{name: "base chain without hook", script: base(""), broken: true, replace: true},
		{
			name: "base chain with another priority", broken: true, partial: true, replace: true,
			script: base("{ type filter hook prerouting priority -299; }"),
		},
		{
			name: "base chain with another hook", broken: true, partial: true, replace: true,
			script: base("{ type filter hook input priority -300; }"),
		},
		{
			name: "base chain of another type", broken: true, replace: true,
			script: base("{ type nat hook prerouting priority -100; }"),
		},
		{name: "base chain of another policy", script: "add chain TABLE prerouting { policy drop; }", broken: true},
		{
			name: "drop chain with a hook", broken: true, replace: true,
			script: "flush chain TABLE prerouting; " +
				"flush chain TABLE blocked6; " +
				"delete chain TABLE blocked6; " +
				"add chain TABLE blocked6 { type filter hook forward priority 0; }",
		},
		{name: "chains renamed", script: "rename chain TABLE blocked4 evil"},
		{name: "rule in a chain of the agent", script: "insert rule TABLE prerouting accept", broken: true},

		{
			name: "set of another type", broken: true, replace: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type inet_service; size 4096; }"),
		},
		{
			name: "set of another key length", broken: true, replace: true,
			script: set("blocklist4_24", "set TABLE blocklist4_24 { type ipv6_addr; size 4096; }"),
		},
		{
			name: "set of two fields", broken: true, replace: true,
			script: set("blocklist4_any",
				"set TABLE blocklist4_any { type ipv4_addr . inet_service; flags interval; }"),
		},
		{
			name: "set with intervals", broken: true, replace: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; flags interval; }"),
		},
		{
			name: "set without intervals", broken: true, replace: true,
			script: set("whitelist4", "set TABLE whitelist4 { type ipv4_addr; }"),
		},
		{
			name: "set with a timeout", broken: true, replace: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; size 4096; timeout 1s; }"),
		},
		{
			name: "set with counters", broken: true, replace: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; size 4096; counter; }"),
		},
		{
			name: "set of another policy", broken: true, replace: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; size 4096; policy memory; }"),
		},
		{
			name: "set that is too small", broken: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; size 2; }"),
		},
		{
			name: "set without a size", broken: true,
			script: set("blocklist4_32", "set TABLE blocklist4_32 { type ipv4_addr; }"),
		},
		{
			name: "interval set with a size", broken: true, replace: true,
			script: set("whitelist4", "set TABLE whitelist4 { type ipv4_addr; flags interval; size 1; }"),
		},
		{
			name: "constant set", broken: true, replace: true,
			script: set("blocklist4_32",
				"set TABLE blocklist4_32 { type ipv4_addr; flags constant; elements = { 192.0.2.9 }; }"),
		},
		{
			name: "set that is a map", broken: true, replace: true,
			script: set("blocklist4_32", "map TABLE blocklist4_32 { type ipv4_addr : verdict; size 4096; }"),
		},
		{
			name: "hit set of another type", replace: true, broken: true,
			script: "flush chain TABLE blocked4; flush chain TABLE new4; delete set TABLE hits4; " +
				"add set TABLE hits4 { type ipv4_addr; flags dynamic; size 10; counter; }",
		},
		{
			name: "hit set without counters", replace: true, broken: true,
			script: "flush chain TABLE blocked4; flush chain TABLE new4; delete set TABLE hits4; " +
				"add set TABLE hits4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 10; }",
		},
		{
			name: "hit set deleted", broken: true,
			script: "flush chain TABLE blocked4; flush chain TABLE new4; delete set TABLE hits4",
		},
		{name: "hit sets flushed", script: "flush set TABLE hits4; flush set TABLE others4; flush set TABLE noisy4"},
		{name: "chain of new keys flushed", script: "flush chain TABLE new4"},
		{
			name: "chain of new keys on a hook", replace: true, broken: true,
			script: "flush chain TABLE blocked4; flush chain TABLE new4; add rule TABLE blocked4 drop; " +
				"delete chain TABLE new4; add chain TABLE new4 { type filter hook input priority 0; }",
		},
		{
			name: "set with the temporary name", replace: true,
			script: "add set TABLE blocklist4_32_grown { type ipv6_addr; size 8; }",
		},

		{
			name: "object",
			script: "add limit TABLE l { rate 1/second; }; " +
				"add counter TABLE c",
		},
		{
			name: "counter of the agent in a map",
			script: "add map TABLE m { type ipv4_addr : counter; }; " +
				"add element TABLE m { 192.0.2.9 : \"blocked4\" }; " +
				"add chain TABLE evil; " +
				"add rule TABLE evil counter name ip saddr map @m",
		},
		{
			name: "objects in a map",
			script: "add quota TABLE q { over 1 mbytes; }; " +
				"add map TABLE m { type ipv4_addr : quota; }; " +
				"add element TABLE m { 192.0.2.9 : \"q\" }; " +
				"add chain TABLE evil; " +
				"add rule TABLE evil quota name ip saddr map @m",
		},
		{
			name: "quota named like the counter", broken: true,
			script: "flush chain TABLE blocked4; " +
				"flush chain TABLE new4; " +
				"delete counter TABLE blocked4; " +
				"add quota TABLE blocked4 { over 1 mbytes; }; " +
				"add rule TABLE blocked4 drop",
		},
		{
			name: "conntrack objects",
			script: "add ct helper TABLE h { type \"ftp\" protocol tcp; }; " +
				"add ct timeout TABLE t { protocol tcp; policy = { established: 100 }; }",
		},
		{
			name: "flowtable",
			script: "add flowtable TABLE f { hook ingress priority 0; devices = { lo }; }; " +
				"add chain TABLE evil { type filter hook forward priority 0; }; " +
				"add rule TABLE evil flow add @f",
		},

		{name: "dormant table", broken: true, replace: true},
		{
			name: "table made by another program", broken: true,
			script: "delete table TABLE; " +
				"add table TABLE; " +
				"add chain TABLE prerouting",
		},
		{name: "table deleted", script: "delete table TABLE", broken: true},
		{
			name: "emptied", broken: true, replace: true,
			script: "flush table TABLE; " +
				"delete chain TABLE prerouting",
		},
		{
			name: "layout of a later version", broken: true, replace: true, partial: true,
			script: "flush table TABLE; " +
				"delete chain TABLE prerouting; " +
				"flush chain TABLE new4; " +
				"delete chain TABLE blocked4; " +
				"delete chain TABLE blocked6; " +
				"delete set TABLE blocklist4_32; " +
				"delete set TABLE blocklist4_24; " +
				"delete counter TABLE blocked4\n" +
				"add set TABLE blocklist4_32 { type ipv4_addr . ipv4_addr; flags interval; }; " +
				"add map TABLE verdicts { type ipv4_addr : verdict; flags interval; }; " +
				"add set TABLE leases { type ipv4_addr; flags timeout; }; " +
				"add counter TABLE dropped; " +
				"add quota TABLE blocked4 { over 9000 mbytes; }\n" +
				"add chain TABLE blocked4 { type filter hook input priority -10; }; " +
				"add chain TABLE sink; " +
				"add rule TABLE sink counter name dropped drop; " +
				"add chain TABLE prerouting { type filter hook prerouting priority -310; }\n" +
				"add element TABLE verdicts " +
				"{ 203.0.113.8/29 : goto sink, 45.9.20.0/24 : goto sink, 62.0.0.0/7 : goto sink }; " +
				"add rule TABLE prerouting ip saddr vmap @verdicts; " +
				"add rule TABLE prerouting ip6 saddr 2001:db8:f::/64 goto sink",
		},
	}
}
