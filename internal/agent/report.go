package agent

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
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// lastReport is how long the last batch may take when the agent stops.
	lastReport = 5 * time.Second
	// unclearMost is the longest wait after answers that prove nothing. The first wait is an
	// ordinary one, the second is a sixteenth of it, and each further one twice as long: an API
	// that takes rows and cannot say so gets few of them twice.
	unclearMost = 24 * time.Hour
	// maxTold is how many reasons are remembered that rows were rejected for, each told once.
	maxTold = 100
)

// deliver reports what is queued, at every interval until ctx ends.
func (a *Agent) deliver(ctx context.Context) error {
	wait := clock.NewBackoff(retryFirst, retryMost)
	next := clock.NewAlarm(a.clock, a.cfg.ReportInterval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.TickC():
			if next.Due() {
				next.Reset(a.reportAll(ctx, wait))
			}
		}
	}
}

// reportAll sends batch after batch until as many rows were sent as were there at its start, or
// something fails, and returns how long to wait.
func (a *Agent) reportAll(ctx context.Context, wait *backoff.ExponentialBackOff) time.Duration {
	left, err := a.reporter.Queued(ctx)
	if err != nil {
		return a.tellUnreported(err, wait)
	}
	if left == 0 {
		a.setCondition(status.CondReports, nil) // nothing is kept
	}
	for left > 0 && ctx.Err() == nil {
		out, err := a.reporter.Deliver(ctx)
		if err != nil {
			return a.tellUnreported(err, wait)
		}
		a.tellReported(out)
		wait.Reset()
		if out.Rows == 0 {
			break
		}
		left -= out.Rows
	}
	return a.cfg.ReportInterval
}

// lastBatch tries once more to report, when the agent stops. What does not get through is kept.
func (a *Agent) lastBatch() error {
	if a.reporter == nil || a.unauthorized || a.reporter.InDoubt() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastReport)
	defer cancel()
	out, err := a.reporter.Deliver(ctx)
	if err = advise(err); err != nil {
		switch q := a.recorder.queue(); {
		case q == nil:
			a.log.Warn("The last report did not get through; what of it is in the database is kept", zap.Error(err))
		case q.Queued > 0:
			a.log.Warn("The last report did not get through and is kept", zap.Error(err), zap.Int("rows", q.Queued))
		}
		return nil
	}
	a.tellReported(out)
	return nil
}

func (a *Agent) tellReported(out report.Outcome) {
	if out.Rows == 0 {
		return
	}
	a.unauthorized, a.undelivered = false, false
	a.setCondition(status.CondReports, nil)
	rows := "rows"
	if out.Accepted == 1 {
		rows = "row"
	}
	a.log.Info(fmt.Sprintf("Reported %d %s to SikkerAPI", out.Accepted, rows))
	for reason, n := range out.Reasons {
		if !a.told[reason] && len(a.told) < maxTold {
			a.told[reason] = true
			a.log.Warn("SikkerAPI rejects reports for this reason; they are dropped", zap.String("reason", reason), zap.Int("rows", n))
		}
	}
	a.setStatus(func(s *status.Status) { s.LastReport = status.ThisSecond() })
}

// tellUnreported says why a report did not get through, and returns how long to wait.
func (a *Agent) tellUnreported(err error, b *backoff.ExponentialBackOff) time.Duration {
	err = advise(err)
	wait := b.NextBackOff()
	a.remember(err, status.ReportError)
	if unreached(err) {
		a.surveys.ask() // the API may have another address, which is listed
	}
	if quota, ok := errors.AsType[*sikkerapi.QuotaError](err); ok {
		wait = max(wait, wait+quota.RetryAfter)
		a.log.Info("Today's report quota is spent; what is queued waits", zap.String("retryIn", wait.Round(time.Second).String()))
		return wait
	}
	a.setCondition(status.CondReports, err)
	if errors.Is(err, sikkerapi.ErrUnauthorized) {
		if !a.unauthorized {
			a.log.Warn("SikkerAPI refuses the key: nothing is reported until it takes it, or the agent is started with another", zap.Error(err))
		}
		a.unauthorized = true
		return retryUnauthorized
	}
	wait = max(wait, asked(err))
	if u, ok := errors.AsType[*report.UnclearError](err); ok && u.Times > 1 {
		wait = max(wait, unclearMost>>max(0, 6-u.Times)) // 1h30m, 3h, …
	}
	tell := a.log.Warn
	if a.undelivered {
		tell = a.log.Debug
	}
	a.undelivered = true
	tell("Reports do not get through; they are kept and sent again", zap.Error(err), zap.String("retryIn", wait.Round(time.Second).String()))
	return wait
}

// exempt reports whether a source is whitelisted at this moment. It is not reported then.
func (a *Agent) exempt(source netip.Addr) bool {
	allow := a.allow.Load()
	return allow != nil && allow.Contains(source)
}

func (a *Agent) tellWithdrawn(rows int) {
	a.log.Info("Reports about sources that are whitelisted now are withdrawn", zap.Int("rows", rows))
}

// queue is the store's queue as the reporter wants it.
type queue struct {
	*store.Store

	withdrawn func(rows int)        // told when rows were taken out
	exempt    func(netip.Addr) bool // sources that are not reported
}

// Batch returns the next batch. Sources that were whitelisted since they were queued, also while
// the batch was in flight, are taken out of the queue first.
func (q queue) Batch(ctx context.Context, most int) ([]report.Row, error) {
	exempt := func(r report.Row) bool { return q.exempt(r.Source) }
	batch, err := q.Store.Batch(ctx, most)
	if slices.ContainsFunc(batch, exempt) {
		n, withdrawErr := q.Withdraw(ctx, q.exempt)
		if withdrawErr != nil {
			return nil, withdrawErr
		}
		q.withdrawn(n)
		batch, err = q.Store.Batch(ctx, most)
	}
	// A source that was whitelisted in this instant is still there; the next batch takes it out.
	return slices.DeleteFunc(batch, exempt), err
}
