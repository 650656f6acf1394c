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

// harmed is a kernel that reports err for its rules.
type harmed struct {
	*toyKernel

	err error
}

func (h *harmed) Verify() (ruleset.Evidence, error) { return ruleset.Evidence{}, h.err }

// withActive returns an Enforcer with active rules in a kernel in memory.
func withActive(t *testing.T) (*Enforcer, *harmed) {
	t.Helper()
	a, _ := newEnforcer(t)
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

// TestRepairsAreLimited: repairs of rules that another program changes repeatedly do not become a
// loop. After a quiet time the next repair is immediate.
func TestRepairsAreLimited(t *testing.T) {
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
			t.Errorf("%d repairs are counted, want 22", n)
		}
	})
}

// TestEarlierLossIsNotRepaired: the watch may report a change that newer rules have undone.
func TestEarlierLossIsNotRepaired(t *testing.T) {
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

// TestRepairsSlowDown: the first repair of rules that another program changes is immediate. If two
// programs fight over them, repairs slow down to one a minute. After a quiet time the next repair
// is immediate.
func TestRepairsSlowDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r repairer
		repair := func() time.Duration {
			began := time.Now()
			r.schedule(errors.New("changed"))
			<-r.due()
			r.cancel()
			r.last = time.Now()
			return time.Since(began)
		}
		if wait := repair(); wait > 0 {
			t.Errorf("the first waits %v", wait)
		}
		repairs, began := 0, time.Now()
		for ; time.Since(began) < time.Hour; repairs++ {
			if wait := repair(); wait > repairMost {
				t.Errorf("repair %d waits %v", repairs, wait)
			}
		}
		if repairs > 66 || repairs < 60 {
			t.Errorf("%d repairs in an hour", repairs)
		}
		time.Sleep(3 * repairMost)
		if wait := repair(); wait > 0 {
			t.Errorf("after a time of peace it waits %v", wait)
		}
	})
}
