package enforce

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/firewall"
	"github.com/sikkerapi/sikkerguard/internal/firewall/ruleset"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

// harmed is a kernel whose rules are not what they should be, while it says so.
type harmed struct {
	*toyKernel

	err error
}

func (h *harmed) Verify() (ruleset.Evidence, error) { return ruleset.Evidence{}, h.err }

// withActive returns an agent that has put a active list in a kernel in memory.
func withActive(t *testing.T) (*Enforcer, *harmed) {
	t.Helper()
	a, _ := logged(t)
	a.o.Host = host.New(host.Options{Root: t.TempDir()})
	fw := &harmed{toyKernel: &toyKernel{}}
	a.backend.fw = fw
	a.sikker().list.entries = listOf("198.51.100.1/32")
	a.surveys.publish(survey{})
	if err := a.apply(t.Context(), a.wanted()); err != nil {
		t.Fatal(err)
	}
	return a, fw
}

// TestRepairsArePaced: another program that changes the rules over and over does not make the agent
// repair them in a loop. After a time without harm the next repair is made at once again.
func TestRepairsArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, _ := withActive(t)
		repair := func() time.Duration {
			began := time.Now()
			a.repair.schedule(errors.New("the table was deleted"))
			<-a.repair.due()
			a.repairRules(t.Context())
			return time.Since(began)
		}
		if wait := repair(); wait != 0 {
			t.Errorf("the first repair waits %v", wait)
		}
		last := time.Duration(0)
		for i := range 20 {
			wait := repair()
			if wait <= last && wait != repairMost || wait > repairMost {
				t.Errorf("repair %d waits %v after %v", i, wait, last)
			}
			last = wait
		}
		time.Sleep(3 * repairMost)
		if wait := repair(); wait != 0 {
			t.Errorf("after a quiet time the repair waits %v", wait)
		}
		if n := a.o.Board.Latest().Repairs; n != 22 {
			t.Errorf("%d repairs are told, want 22", n)
		}
	})
}

// TestALossOfBeforeIsNoLoss: the watch may report harm that the rules of a moment later have
// undone.
func TestALossOfBeforeIsNoLoss(t *testing.T) {
	t.Parallel()
	a, fw := withActive(t)
	a.checkLoss(errors.New("the table was deleted"))
	if a.repair.due() != nil || a.o.Board.Latest().Holds(status.CondRules) {
		t.Error("rules that the kernel has are repaired")
	}
	fw.err = firewall.ErrMismatch
	a.checkLoss(errors.New("the table was deleted"))
	if a.repair.due() == nil || !a.o.Board.Latest().Holds(status.CondRules) {
		t.Error("rules that the kernel does not have are not repaired")
	}
}
