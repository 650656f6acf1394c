package enforce

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// TestNoSizeIsRefusedForEver: a list that shrinks and returns is accepted at once. A list that
// grows permanently is accepted when another pull confirms it, also over restarts.
func TestNoSizeIsRefusedForEver(t *testing.T) {
	t.Parallel()
	for _, restarts := range []bool{false, true} {
		l := newLab(t, hosts("203.0", 5000))
		step := func(n int, ok bool, text string) {
			t.Helper()
			if restarts {
				l.restart()
			}
			l.list = hosts("203.0", n)
			l.want(false, ok, text)
		}
		step(5000, true, "Blocking 5000 IPs")
		step(20, false, "shrink guard")
		step(20, true, "Blocking 20 IPs")
		step(5000, true, "Blocking 5000 IPs")
		step(20000, false, "growth guard")
		l.wantConditions(status.CondRefused)
		step(19990, true, "Blocking 19990 IPs")
		l.wantConditions()
	}
}

// TestAnotherSizeConfirmsNothing: only the next pull confirms a much smaller list, not one after a
// list that was refused for being much larger.
func TestAnotherSizeConfirmsNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	for range 2 {
		l.list = hosts("203.0", 20)
		l.want(false, false, "shrink guard")
		l.list = hosts("203.0", 20000)
		l.want(false, false, "growth guard")
	}
}

// TestGuardsCompareWithTheSavedList: the first pull after a restart is compared with the saved
// list, and with no list if the score or the key is another.
func TestGuardsCompareWithTheSavedList(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 10))
	l.want(false, true, "Blocking 10 IPs")
	l.restart()
	l.list = hosts("203.0", 21)
	l.want(false, false, "21 entries, 10 before")
	l.restart()
	l.list = hosts("203.0", 4)
	l.want(false, false, "4 entries, 10 before")
	l.list = hosts("203.0", 1000)
	for _, change := range []string{"SIKKER_SCORE_MIN=60", "SIKKER_API_KEY=sk_test_rotated"} {
		l.restart(change)
		l.wantConditions()
		if active := l.kernel.listOf("203.0.0.1"); active != (change == "SIKKER_API_KEY=sk_test_rotated") {
			t.Errorf("%s: the saved list is active before the pull: %v", change, active)
		}
		l.want(false, true, "Blocking 1000 IPs")
		l.restart() // back: the saved list is of the other request
		l.want(false, true, "Blocking 1000 IPs")
	}
}

// moody is a kernel that returns its errors, one for each Apply, and has no rules after an error.
type moody struct {
	*toyKernel

	errs []error
}

func (m *moody) Apply(ctx context.Context, rs ruleset.Ruleset) (ruleset.Evidence, error) {
	if len(m.errs) == 0 {
		return m.toyKernel.Apply(ctx, rs)
	}
	err := m.errs[0]
	m.errs, m.rules = m.errs[1:], ruleset.Ruleset{}
	return ruleset.Evidence{}, err
}

// TestFailedRollbackIsRepaired: if the kernel has other rules than it was given, and also refuses
// the previous list, that list is restored as soon as the kernel accepts it.
func TestFailedRollbackIsRepaired(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	l.a.backend.fw = &moody{l.kernel, []error{firewall.ErrMismatch, errors.New("no buffer space available")}}
	l.list = hosts("203.0", 6)
	l.want(false, false, "roll back: no buffer space available")
	select {
	case <-l.a.repair.due():
		l.a.repairRules(t.Context())
	case <-time.After(30 * time.Second):
		t.Fatal("nothing puts the list back")
	}
	if !l.kernel.listOf("203.0.0.3") || l.kernel.listOf("203.0.0.5") {
		t.Errorf("the kernel has %v", l.kernel.rules.Block)
	}
}

// TestKernelFailureNeedsNoPull: a list that the kernel refuses is applied again until the kernel
// accepts it, and then saved. The API is not asked.
func TestKernelFailureNeedsNoPull(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	for name, refusal := range map[string]error{
		"refuses":         errors.New("no buffer space available"),
		"answers wrongly": firewall.ErrMismatch,
	} {
		l.list = hosts("203.0", 4)
		l.want(false, true, "Blocking 4 IPs")
		l.list, l.kernel.err = hosts("203.0", 5), refusal
		l.want(false, false, refusal.Error())
		l.wantConditions(status.CondKernel)
		if l.wait != l.a.o.PullInterval {
			t.Errorf("%s: the next pull comes after %v", name, l.wait)
		}
		pulls := l.pulls
		select {
		case <-l.a.attempts.retry.DueC():
		case <-time.After(time.Minute):
			t.Fatalf("%s: the list at hand is not tried again", name)
		}
		l.a.retryApply(t.Context())
		l.wantConditions(status.CondKernel)
		l.kernel.err = nil
		l.a.retryApply(t.Context())
		if s := l.a.o.Board.Latest(); s.State != status.StateActive || s.BlockedIPs != 5 || l.pulls != pulls {
			t.Errorf("%s: %s, blocking %d, %d more pulls", name, s.State, s.BlockedIPs, l.pulls-pulls)
		}
		l.wantConditions()
		settle(l.a)
		if c, err := l.a.sikker().saved.Load(nil); err != nil || c.Entries != 5 {
			t.Errorf("%s: saved: %d entries, %v", name, c.Entries, err)
		}
		if l.a.attempts.retry.DueC() != nil {
			t.Errorf("%s: it is tried again although it is active", name)
		}
	}
}

// TestSavedListIsAppliedLater: a kernel that refuses the saved list at the start receives it again
// later, without the API.
func TestSavedListIsAppliedLater(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	l.want(false, true, "Blocking 4 IPs")
	l.refusing = errors.New("no buffer space available")
	l.restart()
	if l.a.active.rules != nil || l.a.attempts.retry.DueC() == nil {
		t.Fatal("the kernel took it, or it is not tried again")
	}
	l.status = http.StatusServiceUnavailable
	l.kernel.err = nil
	l.a.retryApply(t.Context())
	if s := l.a.o.Board.Latest(); s.BlockedIPs != 4 || !s.Kept || s.State != status.StateActive {
		t.Errorf("%s, blocking %d, saved %v", s.State, s.BlockedIPs, s.Kept)
	}
}

// TestADryRunWritesNothing: a dry run leaves the state directory as it is, whatever it pulls,
// refuses and accepts.
func TestADryRunWritesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	l.list = hosts("203.0", 20)
	l.want(false, false, "shrink guard")
	settle(l.a)
	state := func() (files []string) {
		entries, err := os.ReadDir(l.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range entries {
			info, err := f.Info()
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, fmt.Sprint(f.Name(), info.Size(), info.ModTime()))
		}
		return files
	}
	before := state()
	l.restart("SIKKER_DRY_RUN=true")
	l.want(true, true, "Would block 20 IPs") // the list that was refused
	l.list = hosts("203.0", 30)
	l.want(false, true, "Would block 30 IPs")
	l.list = hosts("203.0", 1)
	l.want(false, false, "shrink guard")
	l.a.rewriteLost(lostFiles{lists: l.a.remotes, refused: l.a.remotes, names: true})
	settle(l.a)
	if after := state(); !slices.Equal(before, after) {
		t.Errorf("the state directory has %q, had %q", after, before)
	}
}

// TestAnotherKeyHasListsOfAnotherSize: the saved list of another key of the same API is active at
// the start, and the first list of the new key replaces it, whatever its size.
func TestAnotherKeyHasListsOfAnotherSize(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	l.restart("SIKKER_API_KEY=sk_test_rotated")
	if n := l.a.o.Board.Latest().BlockedIPs; n != 5000 {
		t.Errorf("%d entries are active after the start", n)
	}
	l.list = hosts("203.0", 20)
	l.want(false, true, "Blocking 20 IPs")
	l.list = hosts("203.0", 5000)
	l.want(false, false, "growth guard")
}

// TestAnEmptyFirstListIsRefused: a list without entries is not taken for the one that is active
// while none is.
func TestAnEmptyFirstListIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t, "")
	l.want(false, false, "empty guard")
	l.wantConditions(status.CondRefused)
}

// TestAnActiveListEndsTheSpreading: pulls of refused lists slow down. After a list has become
// active, they are as frequent as at first.
func TestAnActiveListEndsTheSpreading(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 5000))
	l.want(false, true, "Blocking 5000 IPs")
	refuse := func(want time.Duration) {
		t.Helper()
		l.list = hosts("203.0", 20)
		if l.a.sikker().refused.shrunk > 0 {
			l.list = hosts("203.0", 20000)
		}
		if l.want(false, false, " guard"); l.wait != want {
			t.Errorf("the next pull waits %v, want %v", l.wait, want)
		}
	}
	refuse(retryRefused)
	refuse(2 * retryRefused)
	refuse(4 * retryRefused)
	l.list = hosts("203.0", 5001)
	l.want(false, true, "Blocking 5001 IPs")
	refuse(retryRefused)
}

// TestASuccessEndsTheBackoff: pulls that fail wait longer and longer, and after one that succeeds
// as short as at first.
func TestASuccessEndsTheBackoff(t *testing.T) {
	t.Parallel()
	l := newLab(t, hosts("203.0", 4))
	for range 8 {
		l.status = http.StatusServiceUnavailable
		l.want(false, false, "503")
	}
	if l.wait < 4*retryFirst {
		t.Errorf("the eighth wait is %v", l.wait)
	}
	l.status = 0
	l.want(false, true, "Blocking 4 IPs")
	l.status = http.StatusServiceUnavailable
	if l.want(false, false, "503"); l.wait > 2*retryFirst {
		t.Errorf("after a success the wait is %v", l.wait)
	}
}
