package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// retryFirst and retryMost bound the wait after a report that failed. It doubles from one
	// failure to the next.
	retryFirst, retryMost = 5 * time.Second, 15 * time.Minute
	// retryUnauthorized is the wait after the API refused the key. The operator must change it in
	// most cases, but a fault of the API looks the same.
	retryUnauthorized = time.Hour
	// askedMost is the longest wait that an answer to a temporary failure can ask for: a CDN may
	// ask for a week.
	askedMost = time.Hour
	// lastMost is how long the last batch may take when the agent stops.
	lastMost = 5 * time.Second
	// unclearMost is the longest wait after answers that prove nothing. The first wait is an
	// ordinary one, the second is a sixteenth of it, and each further one twice as long: an API
	// that takes rows and cannot confirm that gets few of them twice.
	unclearMost = 24 * time.Hour
	// maxReasons is the number of reasons for rejected rows that are logged, each once.
	maxReasons = 100
)

// Store is the report queue on the disk, with the removal of sources. *store.Store is one.
type Store interface {
	report.Queue
	Withdraw(ctx context.Context, drop func(netip.Addr) bool) (rows int, err error)
}

// CourierOptions are the dependencies of a Courier.
type CourierOptions struct {
	Store     Store
	API       report.API
	Allowlist Allowlist
	Interval  time.Duration // between two reports
	Clock     clock.Clock
	Board     *status.Board
	Log       *zap.Logger
	// Kept returns the state of the queue at the last reading, without waiting for the disk; nil
	// while it is unknown.
	Kept func() *status.Reports
	// Unreached is called when a report found no API: the API may have another address, which is on
	// a list.
	Unreached func()
}

// Courier takes queued rows to SikkerAPI. Run and Last are for one goroutine each, in this order;
// Fill is for any.
type Courier struct {
	o        CourierOptions
	reporter *report.Reporter
	retry    *backoff.ExponentialBackOff

	unauthorized bool            // the API refused the key last
	failing      bool            // the last report failed, and that was logged
	reasons      map[string]bool // for rejected rows, that were logged
}

// NewCourier returns a Courier. Nothing is read or sent yet.
func NewCourier(o CourierOptions) *Courier {
	c := &Courier{o: o, retry: clock.NewBackoff(retryFirst, retryMost), reasons: map[string]bool{}}
	c.reporter = report.New(report.Options{Queue: queue{o.Store, o.Allowlist, c.logWithdrawn}, API: o.API})
	return c
}

// Fill adds the quota for reports to s.
func (c *Courier) Fill(s *status.Status) {
	s.Quota.Reports = status.QuotaOf(c.reporter.Quota(), time.Now())
}

// Run sends the queued rows at each interval until ctx ends, and then returns nil.
func (c *Courier) Run(ctx context.Context) error {
	next := clock.NewAlarm(c.o.Clock, c.o.Interval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.TickC():
			if next.Due() {
				next.Reset(c.sendAll(ctx))
			}
		}
	}
}

// sendAll sends batch after batch until as many rows were sent as were queued at its start, or one
// fails. It returns the wait until the next report.
func (c *Courier) sendAll(ctx context.Context) time.Duration {
	left, err := c.reporter.Queued(ctx)
	if err != nil {
		return c.failed(err)
	}
	if left == 0 { // no row waits
		c.recovered()
	}
	for left > 0 && ctx.Err() == nil {
		out, err := c.reporter.Deliver(ctx)
		if err != nil {
			return c.failed(err)
		}
		c.sent(out)
		c.retry.Reset()
		if out.Rows == 0 {
			break
		}
		left -= out.Rows
	}
	return c.o.Interval
}

// Last sends one more batch when the agent stops. Rows that the API does not accept stay queued.
// The error is always nil.
func (c *Courier) Last() error {
	if c.unauthorized || c.reporter.InDoubt() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastMost)
	defer cancel()
	out, err := c.reporter.Deliver(ctx)
	if err != nil {
		switch q := c.o.Kept(); {
		case statedir.IsUnusable(err): // the condition of the state directory was logged
		case q == nil:
			c.o.Log.Warn("The last report failed; report rows in the database stay there", zap.Error(err))
		case q.Queued > 0:
			c.o.Log.Warn("The last report failed and is kept", zap.Error(err), zap.Int("rows", q.Queued))
		}
		return nil
	}
	c.sent(out)
	return nil
}

// sent logs a batch that the API accepted.
func (c *Courier) sent(out report.Outcome) {
	if out.Rows == 0 {
		return
	}
	c.recovered()
	rows := "rows"
	if out.Accepted == 1 {
		rows = "row"
	}
	c.o.Log.Info(fmt.Sprintf("Reported %d %s to SikkerAPI", out.Accepted, rows))
	for reason, n := range out.Reasons {
		if !c.reasons[reason] && len(c.reasons) < maxReasons {
			c.reasons[reason] = true
			c.o.Log.Warn("SikkerAPI rejects reports for this reason; they are dropped",
				zap.String("reason", reason), zap.Int("rows", n))
		}
	}
	c.o.Board.Update(func(s *status.Status) { s.LastReport = status.ThisSecond() })
}

// recovered ends the failure of earlier reports. The next failure is logged again.
func (c *Courier) recovered() {
	c.unauthorized, c.failing = false, false
	c.o.Board.SetCondition(status.CondReports, nil)
}

// failed logs why a report failed, and returns the wait until the next.
func (c *Courier) failed(err error) time.Duration {
	wait := c.retry.NextBackOff()
	c.o.Board.SetError(status.ReportError, err)
	if sikkerapi.IsUnreached(err) {
		c.o.Unreached()
	}
	if quota, ok := errors.AsType[*sikkerapi.QuotaError](err); ok {
		c.recovered() // the API answers
		wait = max(wait, wait+quota.RetryAfter)
		c.o.Log.Info("Today's report quota is spent; the queued rows wait",
			zap.String("retryIn", wait.Round(time.Second).String()))
		return wait
	}
	c.o.Board.SetCondition(status.CondReports, err)
	if errors.Is(err, sikkerapi.ErrUnauthorized) {
		if !c.unauthorized {
			c.o.Log.Warn("SikkerAPI refuses the key: nothing is reported until it accepts the key "+
				"or the agent has another one", zap.Error(err))
		}
		c.unauthorized = true
		return retryUnauthorized
	}
	wait = max(wait, sikkerapi.RetryAfter(err, askedMost))
	if u, ok := errors.AsType[*report.UnclearError](err); ok && u.Times > 1 {
		wait = max(wait, unclearMost>>max(0, 6-u.Times)) // 1h30m, 3h, …
	}
	log := c.o.Log.Warn
	if c.failing {
		log = c.o.Log.Debug
	}
	c.failing = true
	log("Reports do not get through; they are kept and sent again",
		zap.Error(err), zap.String("retryIn", wait.Round(time.Second).String()))
	return wait
}

func (c *Courier) logWithdrawn(rows int) {
	c.o.Log.Info("Reports about sources that are allowlisted now are withdrawn", zap.Int("rows", rows))
}

// queue is the report queue without rows about allowlisted sources.
type queue struct {
	Store

	allowlist Allowlist
	withdrawn func(rows int) // called after rows were removed
}

// Batch returns the next batch. Sources that were allowlisted since their rows were queued, also
// while the batch waited to be sent again, are removed from the queue first.
func (q queue) Batch(ctx context.Context, most int) ([]report.Row, error) {
	allowed := func(r report.Row) bool { return q.allowlist.Allows(r.Source) }
	batch, err := q.Store.Batch(ctx, most)
	if slices.ContainsFunc(batch, allowed) {
		n, withdrawErr := q.Withdraw(ctx, q.allowlist.Allows)
		if withdrawErr != nil {
			return nil, withdrawErr
		}
		q.withdrawn(n)
		batch, err = q.Store.Batch(ctx, most)
	}
	// A source that was allowlisted since the removal is still there. The next batch removes it.
	return slices.DeleteFunc(batch, allowed), err
}
