package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// lastReport is how long the last batch may take when the agent stops.
	lastReport = 5 * time.Second
	// maxTold is how many reasons are remembered that rows were rejected for, each told once.
	maxTold = 100
)

// deliver reports what is queued, at every interval until ctx ends.
func (a *Agent) deliver(ctx context.Context) error {
	wait := newBackoff()
	next := time.NewTimer(a.cfg.ReportInterval)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			next.Reset(a.reportAll(ctx, wait))
		}
	}
}

// reportAll sends batch after batch until nothing is left of what was there at its start or something fails, and returns
// how long to wait.
func (a *Agent) reportAll(ctx context.Context, wait *backoff.ExponentialBackOff) time.Duration {
	start := time.Now()
	a.withdraw(ctx)
	for ctx.Err() == nil {
		out, err := a.reporter.Deliver(ctx, start)
		if err != nil {
			return a.tellUnreported(err, wait)
		}
		a.tellReported(out)
		wait.Reset()
		if out.Rows == 0 {
			break
		}
	}
	return a.cfg.ReportInterval
}

// withdraw takes out of the queue what has been whitelisted since it was blocked: that is nobody to report.
func (a *Agent) withdraw(ctx context.Context) {
	allow := a.allow.Load()
	if a.store == nil || allow == nil || allow == a.withdrawn {
		return
	}
	n, err := a.store.Withdraw(ctx, allow.Contains)
	if err != nil {
		return // so does the next use of the database, and that is told
	}
	a.withdrawn = allow
	if n > 0 {
		a.log.Info("Reports about sources that are whitelisted now are withdrawn", zap.Int("rows", n))
	}
}

// lastBatch tries once more to report, when the agent stops. What does not get through is kept.
func (a *Agent) lastBatch() error {
	if a.reporter == nil || a.unauthorized {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastReport)
	defer cancel()
	a.withdraw(ctx)
	out, err := a.reporter.Deliver(ctx, time.Now())
	if err != nil {
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
	a.setStatus(func(s *Status) { s.LastReport = inFuture(0) })
}

// tellUnreported says why a report did not get through, and returns how long to wait.
func (a *Agent) tellUnreported(err error, b *backoff.ExponentialBackOff) time.Duration {
	wait := b.NextBackOff()
	a.remember(err, reportError)
	switch quota, ok := errors.AsType[*sikkerapi.QuotaError](err); {
	case ok:
		wait += quota.RetryAfter
		a.log.Info("Today's report quota is spent; what is queued waits", zap.String("retryIn", wait.Round(time.Second).String()))
		return wait
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		if !a.unauthorized {
			a.log.Warn("SikkerAPI refuses the key: nothing is reported until it takes it, or the agent is started with another", zap.Error(err))
		}
		a.unauthorized = true
		return retryUnauthorized
	}
	if t, ok := errors.AsType[*sikkerapi.TemporaryError](err); ok {
		wait = max(wait, t.RetryAfter)
	}
	tell := a.log.Warn
	if a.undelivered {
		tell = a.log.Debug
	}
	a.undelivered = true
	tell("Reports do not get through; they are kept and sent again", zap.Error(err), zap.String("retryIn", wait.Round(time.Second).String()))
	return wait
}

// queue is the store's queue as the reporter wants it.
type queue struct{ *store.Store }

func (q queue) Batch(ctx context.Context, most int, before time.Time) ([]report.Row, error) {
	batch, err := q.Store.Batch(ctx, most, before)
	rows := make([]report.Row, 0, len(batch))
	for _, r := range batch {
		rows = append(rows, report.Row{
			Source: r.Source, Service: r.Service, Packets: r.Packets, Ports: r.Ports, First: r.First, Last: r.Last,
			MorePorts: len(r.Ports) == store.MaxPorts,
		})
	}
	return rows, err
}

func (q queue) Done(ctx context.Context, accepted, rejected int, again []report.Row) error {
	rows := make([]store.Row, 0, len(again))
	for _, r := range again {
		rows = append(rows, store.Row{
			Source: r.Source, Service: r.Service, Packets: r.Packets, Ports: r.Ports, First: r.First, Last: r.Last,
		})
	}
	return q.Store.Done(ctx, accepted, rejected, rows)
}
