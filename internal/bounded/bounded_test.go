package bounded_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/bounded"
	"github.com/sikkerapi/sikkerguard/internal/panics"
)

// TestCall checks that the results of calls that end are returned, and ErrHangs for one that hangs,
// after its time.
func TestCall(t *testing.T) {
	t.Parallel()
	errDisk := errors.New("disk")
	synctest.Test(t, func(t *testing.T) {
		n, err := bounded.Call(time.Second, func() (int, error) { return 7, errDisk })
		if n != 7 || !errors.Is(err, errDisk) {
			t.Errorf("got %d, %v", n, err)
		}
		hangC, began := make(chan struct{}), time.Now()
		n, err = bounded.Call(time.Second, func() (int, error) { <-hangC; return 7, nil })
		if n != 0 || !errors.Is(err, bounded.ErrHangs) {
			t.Errorf("a call that hangs: got %d, %v", n, err)
		}
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
		close(hangC)
	})
	_, err := bounded.Call(time.Minute, func() (int, error) { panic("no such file") })
	if _, ok := errors.AsType[*panics.Error](err); !ok {
		t.Errorf("a panic: got %v, want a *panics.Error", err)
	}
}
