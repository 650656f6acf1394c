package enforce

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestAcceptEnforcesTheListThatWasShown: --accept enforces the list that was refused, whatever the
// API returns then, also after a restart. It enforces nothing if the API returns no list at all.
func TestAcceptEnforcesTheListThatWasShown(t *testing.T) {
	t.Parallel()
	shown := hosts("203.0", 9)
	for name, tt := range map[string]struct {
		now     string // the list of the API when the operator accepts
		status  int
		restart bool
		ok      bool
		text    string
		blocks  string // an address that is blocked then
	}{
		"OK the same list": {now: shown, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"OK the same list, after a restart": {
			now: shown, restart: true, ok: true, text: "Blocking 9 IPs",
			blocks: "203.0.0.8",
		},
		"OK another list that would be refused": {
			now: hosts("198.51", 9000), ok: true, text: "Blocking 9 IPs",
			blocks: "203.0.0.8",
		},
		"OK that, after a restart": {
			now: hosts("198.51", 9000), restart: true, ok: true,
			text: "Blocking 9 IPs", blocks: "203.0.0.8",
		},
		"OK another list that passes": {
			now: hosts("198.51", 5), ok: true, text: "Blocking 5 IPs",
			blocks: "198.51.0.4",
		},
		"OK nothing, because the API is down": {status: 503, ok: true, text: "Blocking 9 IPs", blocks: "203.0.0.8"},
		"bad no list":                         {now: "no list\n", text: "this is not a list", blocks: "192.1.0.77"},
		"bad a list of the Internet":          {now: "0.0.0.0/0\n", text: "cannot be accepted", blocks: "192.1.0.77"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "192.1.0.77\n203.0.0.1\n203.0.0.2\n203.0.0.3\n")
			l.want(false, true, "Blocking 4 IPs")
			l.list = shown
			l.want(false, false, "it is set aside as list ")
			l.wantConditions(status.CondRefused)
			if tt.restart {
				l.restart()
				l.wantConditions(status.CondRefused)
			}
			l.list, l.status = tt.now, tt.status
			l.want(true, tt.ok, tt.text)
			if !l.kernel.listOf(tt.blocks) || l.kernel.listOf("198.51.9.9") || l.kernel.listOf("8.8.8.8") {
				t.Errorf("active: %d entries", l.kernel.rules.Block.Len())
			}
			settle(l.a)
			if _, err := os.Stat(filepath.Join(l.dir, "blacklist.refused.txt")); tt.ok != errors.Is(err,
				os.ErrNotExist) {
				t.Errorf("the refused list on the disk: %v", err)
			}
			if !tt.ok {
				l.wantConditions(status.CondRefused)
				return
			}
			l.wantConditions()
			l.status = 0
			l.list = shown
			if tt.blocks == "203.0.0.8" { // it is not refused again
				l.want(false, true, "Blocking 9 IPs")
			}
		})
	}
}

// TestNothingToAccept: without a list that was refused and shown, --accept only judges the list of
// the pull.
func TestNothingToAccept(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(true, true, "Blocking 4 IPs")
	l.list = "62.0.0.0/7\n203.0.0.1\n203.0.0.2\n"
	l.want(true, false, "width guard")
	if l.kernel.listOf("62.1.2.3") {
		t.Error("a list that was never shown is enforced")
	}
	l.want(true, true, "Blocking 3 IPs")
	l.want(false, true, "Blocking 3 IPs") // one equal to the list that was accepted is not refused again
	for _, vast := range []string{"0.0.0.0/0\n", "0.0.0.0/1\n128.0.0.0/1\n", "::/0\n"} {
		l.list = vast
		for range 2 {
			if o := l.pull(true); o.OK || strings.Contains(o.Text, "--accept") || !l.kernel.listOf("62.1.2.3") ||
				l.kernel.listOf("8.8.8.8") {
				t.Errorf("%q: %+v", vast, o)
			}
		}
	}
}
