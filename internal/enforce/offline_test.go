package enforce

import (
	"errors"
	"testing"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// TestNetworkEndsTheBackoff: after the network has changed, a pull that fails is repeated soon.
func TestNetworkEndsTheBackoff(t *testing.T) {
	t.Parallel()
	a, _ := newEnforcer(t)
	e := a
	for range 10 {
		e.sikker().wait.NextBackOff()
	}
	next := clock.NewAlarm(a.o.Clock, time.Hour)
	defer next.Stop()
	a.sikker().next = next
	e.sikker().offline.pulled(&sikkerapi.TemporaryError{Err: errors.New("no route to host")}, host.Whitelist{})
	a.surveys.publish(newSurvey(host.New(host.Options{Root: t.TempDir()}).Local()))
	a.pullIfNetwork()
	if left := next.Left(); left > clock.LeastWait {
		t.Errorf("the pull is due in %v", left)
	}
	if wait := e.sikker().wait.NextBackOff(); wait > 2*retryFirst {
		t.Errorf("the next failure is waited out for %v", wait)
	}
	next.Reset(time.Hour)
	a.pullIfNetwork()
	if next.Left() < 59*time.Minute {
		t.Error("a pull is due although nothing new was found")
	}
	e.sikker().offline.pulled(&sikkerapi.TemporaryError{Err: errors.New("no route to host")}, host.Whitelist{})
	e.sikker().offline.pulled(nil, host.Whitelist{})
	a.pullIfNetwork()
	if next.Left() < 59*time.Minute {
		t.Error("a pull is due although the last one reached the API")
	}
}
