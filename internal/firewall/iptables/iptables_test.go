package iptables

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

// FuzzScript makes scripts of any prefixes. A script has one line for each set and each element,
// made of our names and of numbers, and the elements cover exactly the prefixes.
func FuzzScript(f *testing.F) {
	f.Add("203.0.113.9/32 45.9.20.0/24 0.0.0.0/0 ::/0")
	f.Add("2001:db8::1/128 fe80::1%eth0/64 ::ffff:1.2.3.4/128 1.2.3.4/33 example.com;rm")
	f.Add("128.0.0.0/1 0.0.0.0/1")
	f.Fuzz(func(t *testing.T, text string) {
		var ps []netip.Prefix
		for word := range strings.FieldsSeq(text) {
			if p, err := netip.ParsePrefix(word); err == nil {
				ps = append(ps, p)
			}
		}
		l := blocklist.New(ps)
		for _, fam := range []family{ipv4(), ipv6()} {
			set := nextName(fam.blocklist())
			var b strings.Builder
			if _, err := fillScript(newSetSpec(set, fam, l)).WriteTo(&b); err != nil {
				t.Fatal(err)
			}
			out := b.String()
			var got []netip.Prefix
			for i, line := range strings.Split(strings.TrimSuffix(out, "\n"), "\n") {
				words := strings.Split(line, " ")
				if i == 0 {
					if len(words) != 9 || words[0] != "create" || words[1] != set {
						t.Fatalf("first line %q", line)
					}
					continue
				}
				p, err := netip.ParsePrefix(words[len(words)-1])
				if len(words) != 3 || words[0] != "add" || words[1] != set || err != nil ||
					p.Bits() == 0 || p.Addr().BitLen() != fam.width ||
					p.String() != words[2] {
					t.Fatalf("line %q", line)
				}
				got = append(got, p)
			}
			want := slices.Collect(fam.prefixes(l))
			if len(want) == 1 && want[0].Bits() == 0 {
				if len(got) != 2 || got[0].Bits() != 1 || got[1].Bits() != 1 || got[0].Overlaps(got[1]) {
					t.Fatalf("/0 became %v", got)
				}
			} else if !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, fam := range []family{ipv4(), ipv6()} {
		for _, name := range fam.allSets() {
			if o, ok := familyOf(name); len(name) > 31 || !ok || o.proto != fam.proto {
				t.Errorf("set %s: %d characters, owner %v", name, len(name), o.name)
			}
			for info, want := range map[setInfo]bool{
				{kind: fam.kindOf(name), family: fam.ipset}: true, {kind: "hash:mac", family: fam.ipset}: false,
				{kind: fam.kindOf(name), family: "inet9"}: false, {}: false,
			} {
				if info.isOurs(name) != want {
					t.Errorf("set %s, %+v: own %v", name, info, !want)
				}
			}
		}
	}
	for _, name := range []string{"sikkerguard-mine", "f2b-sshd", "", "sikkerguard-"} {
		if _, ok := familyOf(name); ok {
			t.Errorf("set %q is not ours", name)
		}
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	for rate, want := range map[uint32]string{
		1:         "limit --limit 1/sec --limit-burst 1",
		5:         "limit --limit 5/sec",
		10_000:    "limit --limit 10000/sec --limit-burst 10000",
		7_000:     "hashlimit --hashlimit-upto 7000/sec --hashlimit-burst 7000 --hashlimit-name sikker6-7000",
		1_000_000: "hashlimit --hashlimit-upto 1000000/sec --hashlimit-burst 10000 --hashlimit-name sikker6-1000000",
	} {
		got := limit("sikker6", rate)
		if got != want {
			t.Errorf("%d: got %q, want %q", rate, got, want)
		}
		if _, name, ok := strings.Cut(got, "--hashlimit-name "); ok && len(name) > 15 {
			t.Errorf("%d: the name has %d characters", rate, len(name))
		}
	}
}

func TestParseState(t *testing.T) {
	t.Parallel()
	rr := rules(ipv4(), ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}, true)
	ours := ""
	for i, r := range rr {
		ours += fmt.Sprintf("[%d:7] %s\n", i, r)
	}
	head := "*raw\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:SIKKERGUARD - [0:0]\n"
	jumps := "[9:9] " + jump + "\n"
	tests := []struct {
		name, text     string
		right, foreign bool
	}{
		{"OK", head + jumps + ours + "COMMIT\n", true, false},
		{"OK another behind ours", head + jumps + "[0:0] -A PREROUTING -j DROP\n" + ours, true, true},
		{"bad not first", head + "[0:0] -A PREROUTING -j ACCEPT\n" + jumps + ours, false, true},
		{"bad twice", head + jumps + jumps + ours, false, false},
		{"bad no jump", head + ours, false, false},
		{
			"bad jump with a condition", head + strings.Replace(jumps, "PREROUTING", "PREROUTING -i eth0", 1) + ours,
			false, true,
		},
		{"bad rule missing", head + jumps + strings.Replace(ours, rr[1], "-A "+chain+" -j ACCEPT", 1), false, false},
		{"bad policy", strings.Replace(head, "PREROUTING ACCEPT", "PREROUTING DROP", 1) + jumps + ours, true, true},
		{"bad nothing", "", false, false},
	}
	for _, tt := range tests {
		st := parseState(tt.text)
		if st.matches(rr) != tt.right || st.foreign != tt.foreign {
			t.Errorf("%s: got right %v, foreign %v", tt.name, st.matches(rr), st.foreign)
		}
	}
	if st := parseState(head + jumps + ours); st.dropped == nil || *st.dropped != (counter{uint64(len(rr) - 1), 7}) {
		t.Errorf("dropped: got %v", st.dropped)
	}
}

// TestEditKeepsTheCounter edits rules in the ways of a refresh and of an earlier version, which
// dropped in another chain. The counter of the drop rule stays, or continues.
func TestEditKeepsTheCounter(t *testing.T) {
	t.Parallel()
	head := "*raw\n:PREROUTING ACCEPT [0:0]\n:SIKKERGUARD - [0:0]\n:SIKKERGUARD-DROP - [0:0]\n[9:9] " + jump + "\n"
	const dropped = "[5:50] " + dropRule
	want := rules(ipv4(), ruleset.Ruleset{LogGroup: 100, LogRate: 10_000}, true)
	for name, tt := range map[string]struct {
		rules   string
		rebuilt bool
	}{
		"other rules":        {"[1:1] -A SIKKERGUARD -j ACCEPT\n" + dropped, false},
		"no rules":           {"", true},
		"two drop rules":     {dropped + "\n" + dropped, true},
		"an earlier version": {"[5:50] -A SIKKERGUARD -j DROP", true},
		"a rule before it":   {"[1:1] -A SIKKERGUARD-DROP -j ACCEPT\n" + dropped, true},
	} {
		st := parseState(head + tt.rules + "\nCOMMIT\n")
		lines, rebuilt := st.edit(want, want, counter{5, 50})
		if flushed := slices.Contains(lines, ":SIKKERGUARD-DROP - [0:0]"); rebuilt != tt.rebuilt || flushed != tt.rebuilt {
			t.Errorf("%s: rebuilt %v, flushed %v, want %v", name, rebuilt, flushed, tt.rebuilt)
		}
		if slices.Contains(lines, dropped) != tt.rebuilt || slices.Contains(lines, "[0:0] "+dropRule) {
			t.Errorf("%s: %q", name, lines)
		}
	}
}

// TestParseAnswers parses answers of ipset, in any order and of each form of an element.
func TestParseAnswers(t *testing.T) {
	t.Parallel()
	got := parseAnswers("ipset> ipset> Warning: 1.2.3.0/24 is in set s.\nWarning: 0.0.0.0/1 is in set s.\n" +
		"9.9.9.9 is NOT in set s.\nWarning: 2001:db8::/32 is in set s6.\n2001:db9::1 is NOT in set s6.\n" +
		" is in set s.\nwhat is in set s.\n\n")
	want := map[lookup]bool{}
	for _, l := range []lookup{
		{"s", netip.MustParsePrefix("1.2.3.0/24"), true},
		{"s", netip.MustParsePrefix("0.0.0.0/1"), true},
		{"s", netip.MustParsePrefix("9.9.9.9/32"), false},
		{"s6", netip.MustParsePrefix("2001:db8::/32"), true},
		{"s6", netip.MustParsePrefix("2001:db9::1/128"), false},
	} {
		want[l] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseSets(t *testing.T) {
	t.Parallel()
	got := parseSets("Name: a\nType: hash:net\nRevision: 7\nHeader: family inet hashsize 1024 maxelem 65536\n" +
		"References: 0\nNumber of entries: 3\n\n" +
		"Name: b\nType: hash:net\nHeader: family inet\nReferences: 2\nNumber of entries: 0\n\n" +
		"Name: old\nType: hash:ip\nHeader: family inet6 hashsize 1024\n")
	want := map[string]setInfo{
		"a":   {kind: "hash:net", family: "inet", entries: 3, counted: true},
		"b":   {kind: "hash:net", family: "inet", counted: true, used: true},
		"old": {kind: "hash:ip", family: "inet6"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(setInfo{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
