package deliver

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

// counted is a Database and a Ledger that lists its uses.
type counted struct {
	mu      sync.Mutex
	uses    []string
	changed bool          // there are sums to save
	failure error         // of Add
	takes   time.Duration // of Add
}

func (c *counted) use(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses = append(c.uses, name)
}

// take returns the uses since the previous call, and sets failure.
func (c *counted) take(failure error) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	uses := c.uses
	c.uses, c.failure = nil, failure
	return uses
}

func (c *counted) Open(context.Context) error             { return nil }
func (c *counted) Forget(context.Context) error           { return nil }
func (c *counted) Prune(context.Context, time.Time) error { return nil }

func (c *counted) Load(context.Context) error {
	c.use("load")
	return nil
}

func (c *counted) Queued(context.Context) (int, error) {
	c.use("queued")
	return 0, nil
}

func (c *counted) Totals(context.Context) (store.Totals, error) {
	c.use("totals")
	return store.Totals{}, nil
}

func (c *counted) Add(_ context.Context, r store.Record) error {
	c.use("add")
	time.Sleep(c.takes)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Counters != nil && c.failure == nil {
		c.changed = false
	}
	return c.failure
}

func (c *counted) Changed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *counted) Unsaved(bool) *store.Counters {
	if c.Changed() {
		return &store.Counters{Packets4: 1}
	}
	return nil
}

func (c *counted) Saved(*store.Counters) {}

// TestNothingIsRecordedAtRest checks that the database is not used while nothing came, that hits and
// sums are recorded in the second in which they came, once, and that a database that failed is tried
// again each second.
func TestNothingIsRecordedAtRest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := &counted{}
		r, _, _ := newRecorder(t, db)
		r.o.Ledger = db
		ctx, cancel := context.WithCancel(t.Context())
		doneC := make(chan error, 1)
		go func() { doneC <- r.Run(ctx) }()
		pass := func(seconds int, hits ...sensor.Hit) {
			for range seconds {
				time.Sleep(time.Second)
				r.Add(sensor.Window{Hits: hits}, time.Now())
				hits = nil
				synctest.Wait()
			}
		}
		pass(1)
		db.take(nil)
		recording := []string{"load", "add", "queued", "totals"}
		check := func(name string, want []string, failure error) {
			t.Helper()
			if diff := cmp.Diff(want, db.take(failure)); diff != "" {
				t.Errorf("%s: uses of the database (-want +got):\n%s", name, diff)
			}
		}
		pass(60)
		check("a minute without a packet", nil, nil)
		pass(60, sensor.Hit{Key: key(sensor.Attempt), Packets: 1})
		check("a hit and a minute", recording, nil)
		db.mu.Lock()
		db.changed = true
		db.mu.Unlock()
		pass(60)
		check("a sum and a minute", recording, errors.New("no space left on device"))
		pass(3, sensor.Hit{Key: key(sensor.Attempt), Packets: 1})
		failed := []string{"load", "add"}
		check("three seconds of a full disk", slices.Concat(failed, failed, failed), nil)
		pass(60)
		check("the disk has room again", recording, nil)
		cancel()
		if err := <-doneC; err != nil {
			t.Error(err)
		}
	})
}

// TestRestIsBounded checks that a recording that takes long is followed by a rest, of a tenfold of its
// time or a minute, whichever is less.
func TestRestIsBounded(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ takes, every time.Duration }{
		"OK a large recording": {2 * time.Second, 22 * time.Second},
		"bad a slow disk":      {9 * time.Second, 9*time.Second + longestRest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				db := &counted{takes: tt.takes}
				r, _, _ := newRecorder(t, db)
				r.o.Ledger = db
				ctx, cancel := context.WithCancel(t.Context())
				doneC := make(chan error, 1)
				go func() { doneC <- r.Run(ctx) }()
				const recordings = 10
				for range int((recordings-1)*tt.every/time.Second) + 5 {
					r.Add(sensor.Window{Hits: []sensor.Hit{{Key: key(sensor.Attempt), Packets: 1}}}, time.Now())
					time.Sleep(time.Second)
				}
				got := len(slices.DeleteFunc(db.take(nil), func(use string) bool { return use != "add" }))
				if got != recordings {
					t.Errorf("%d recordings, want %d, one in %v", got, recordings, tt.every)
				}
				cancel()
				if err := <-doneC; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
