package iptables

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/nettest"
)

// TestRules compares the rules in the kernel with testdata, which explains them.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		for _, golden := range []string{"counting", "plain"} {
			t.Run(kind+"/"+golden, func(t *testing.T) {
				t.Parallel()
				h := nettest.NewHost(t)
				f := startKind(t, h, kind)
				f.counting = golden == "counting"
				mustApply(t, h, f, bothFamilies())
				raw, err := os.ReadFile(filepath.Join("testdata", golden+".rules"))
				if err != nil {
					t.Fatal(err)
				}
				lines := func(text string) (rules []string) {
					for line := range strings.Lines(text) {
						if strings.HasPrefix(line, "-A SIKKERGUARD") {
							rules = append(rules, strings.TrimSpace(line))
						}
					}
					slices.SortStableFunc(rules, func(a, b string) int { return cmp.Compare(chainOf(a), chainOf(b)) })
					return rules
				}
				got := h.Run("iptables-"+kind+"-save", "-t", "raw")
				if diff := gocmp.Diff(lines(string(raw)), lines(got)); diff != "" {
					t.Errorf("rules (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// TestHostCannotCount opens where the kernel lacks the sets of keys. The agent blocks and logs, and
// there is a gap.
func TestHostCannotCount(t *testing.T) {
	t.Parallel()
	h := nettest.NewHost(t)
	r := record(t, "legacy", `if grep -q 'hash:ip' $in; then echo "Kernel error received: Unknown error" >&2; exit 1; fi`)
	f := startIn(t, h, Options{Legacy: true}, []string{r.dir})
	if gaps := strings.Join(f.Info().Gaps, "\n"); !strings.Contains(gaps, "a flood hides other sources") ||
		!strings.Contains(gaps, "ip_set_hash_ipport") {
		t.Errorf("gaps: %s", gaps)
	}
	mustApply(t, h, f, bothFamilies())
	h.Check("without counts", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nettest.Addrs("203.0.113.8"))
	h.Do(func() {
		if got, err := f.Hits(); err != nil || got.Supported {
			t.Errorf("hits: %+v, %v", got, err)
		}
	})
	if n := count(t, h, f); n.Packets() != 2 {
		t.Errorf("counted %+v", n)
	}
}

// TestAdmitToRulesWithoutWhitelist admits a source to the rules of a killed agent, which look up no
// whitelist. The next list has its own rules again.
func TestAdmitToRulesWithoutWhitelist(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"legacy", "nft"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := nettest.NewHost(t)
			f := startKind(t, h, kind)
			rs := desired(list("203.0.113.0/24", "2001:db8:f::/64"), list("10.0.0.0/8"))
			mustApply(t, h, f, rs)
			if err := f.Close(); err != nil { // as if it was killed
				t.Fatal(err)
			}
			f = startKind(t, h, kind)
			for range 2 {
				h.Do(func() {
					if err := f.Admit(t.Context(), desired(list(), list("203.0.113.9/32", "2001:db8:f::1/128"))); err != nil {
						t.Error(err)
					}
				})
				h.Check("admitted", nettest.Addrs("203.0.113.8", "2001:db8:f::2"), nettest.Addrs("203.0.113.9", "2001:db8:f::1"))
			}
			if rules := h.Run("iptables-"+kind+"-save", "-t", "raw"); strings.Count(rules, "sikkerguard-whitelist") != 1 {
				t.Errorf("rules:\n%s", rules)
			}
			mustApply(t, h, f, rs)
			h.Check("applied", nettest.Addrs("203.0.113.9", "2001:db8:f::1"), nil)
			if rules := h.Run("iptables-"+kind+"-save", "-t", "raw"); strings.Contains(rules, "sikkerguard-whitelist") {
				t.Errorf("rules:\n%s", rules)
			}
		})
	}
}
