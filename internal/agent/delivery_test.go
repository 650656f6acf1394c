package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// TestDatabaseWaitsForTheFirstRules checks that the database is opened once the rules of the start
// are active, or after recordAfter if they never are, and that the start ends with that.
func TestDatabaseWaitsForTheFirstRules(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ rules, want time.Duration }{
		"OK":          {3 * time.Second, 3 * time.Second},
		"bad no rule": {time.Hour, recordAfter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, _ := logged(t)
				startedC := make(chan struct{})
				timer := time.AfterFunc(tt.rules, func() { close(startedC) })
				defer timer.Stop()
				ctx, cancel := context.WithCancel(t.Context())
				doneC := make(chan error)
				began := time.Now()
				go func() { doneC <- a.delivery.record(startedC)(ctx) }()
				time.Sleep(tt.want - time.Millisecond)
				synctest.Wait()
				if _, err := os.Stat(filepath.Join(a.cfg.StateDir, "sikkerguard.db")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("before the rules: %v", err)
				}
				<-a.restC
				if took := time.Since(began); took != tt.want {
					t.Errorf("it is open after %v, want %v", took, tt.want)
				}
				cancel()
				if err := errors.Join(<-doneC, a.close()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
