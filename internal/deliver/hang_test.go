package deliver

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// sleepy is a Database and a Ledger. Its method with the name in hangs does not return before freeC
// is closed.
type sleepy struct {
	noSums

	hangs atomic.Pointer[string] // nil for none
	freeC chan struct{}
}

func (s *sleepy) use(method string) error {
	if h := s.hangs.Load(); h != nil && *h == method {
		<-s.freeC
	}
	return nil
}

func (s *sleepy) Open(context.Context) error              { return s.use("Open") }
func (s *sleepy) Forget(context.Context) error            { return s.use("Forget") }
func (s *sleepy) Load(context.Context) error              { return s.use("Load") }
func (s *sleepy) Add(context.Context, store.Record) error { return s.use("Add") }
func (s *sleepy) Queued(context.Context) (int, error)     { return 0, s.use("Queued") }
func (s *sleepy) Totals(context.Context) (store.Totals, error) {
	return store.Totals{}, s.use("Totals")
}
func (s *sleepy) Prune(context.Context, time.Time) error { return s.use("Prune") }

// TestHangingDatabaseIsReported checks that the status reports a database that does not return from
// any of its uses, and the end of that.
func TestHangingDatabaseIsReported(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"Open", "Load", "Add", "Queued", "Totals", "Prune"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := &sleepy{freeC: make(chan struct{})}
				r, _, logs := newRecorder(t, db)
				r.o.Ledger = db
				if method == "Open" {
					db.hangs.Store(&method)
				}
				ctx, cancel := context.WithCancel(t.Context())
				doneC := make(chan error, 1)
				go func() { doneC <- r.Run(ctx) }()
				synctest.Wait()
				db.hangs.Store(&method)
				pass := func(d time.Duration) { // with hits in every second
					for range d / time.Second {
						time.Sleep(time.Second)
						r.Add(sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: 1}}}, time.Now())
					}
				}
				pass(storeTimeout + 5*recordEvery)
				if method == "Prune" {
					pass(pruneEvery)
				}
				if !r.o.Board.Latest().Holds(status.CondDatabaseHangs) {
					t.Errorf("a database that hangs is not reported: %v", logs.All())
				}
				close(db.freeC)
				pass(2 * time.Second)
				if r.o.Board.Latest().Holds(status.CondDatabaseHangs) {
					t.Error("a database that answers is reported")
				}
				if n := logs.FilterMessage("The database answers again").Len(); n != 1 {
					t.Errorf("the end is logged %d times", n)
				}
				cancel()
				if err := <-doneC; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
