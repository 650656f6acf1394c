package ruleset_test

import (
	"errors"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
)

func TestGapIsOneLine(t *testing.T) {
	t.Parallel()
	cause := errors.Join(errors.New("no ipset"), errors.New("no iptables"))
	const want = "only IPv4 is enforced: no ipset; no iptables"
	if got := ruleset.Gap("only IPv4 is enforced", cause); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
