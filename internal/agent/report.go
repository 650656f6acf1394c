package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/store"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// lastReport is how long the last batch may take when the agent stops.
	lastReport = 5 * time.Second
	// pruneEvery is how often old hits are deleted.
	pruneEvery = time.Hour
	// maxTold is how many reasons are remembered that rows were rejected for, each told once.
	maxTold = 100
	// storeTimeout bounds one use of the database.
	storeTimeout = 10 * time.Second
)

// openStore opens the database. Protection does not depend on it: one that cannot be opened now is tried again each time
// that there is something to record.
func (a *Agent) openStore() {
	a.store = store.New(store.Options{Dir: a.cfg.StateDir, Damaged: func(d *store.DamagedError) {
		a.log.Warn("The database of blocked connections", zap.Error(d))
	}})
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if a.cfg.ReportEnabled {
		a.reporter = report.New(report.Options{Queue: queue{a.store}, API: a.api})
		a.tellStore(a.store.Open(ctx))
	} else {
		a.tellStore(a.store.Forget(ctx))
	}
}

// tellStore says that the database stopped working, and that it works again.
func (a *Agent) tellStore(err error) {
	o := &a.observer
	switch {
	case err != nil && !o.unrecorded:
		a.log.Warn("Blocked connections are not recorded now; they are kept in memory until that works again", zap.Error(err))
	case err == nil && o.unrecorded:
		a.log.Info("Blocked connections are recorded again")
	}
	o.unrecorded = err != nil
}

// record keeps hits in the database, and queues what of them is to be reported. What it does not take now waits in memory,
// as many sources as one window may have, and is taken next time.
func (a *Agent) record(w sensor.Window) {
	o, now := &a.observer, time.Now()
	if len(o.waiting.Hits) == 0 {
		o.since = o.taken
	}
	o.taken = now
	o.waiting = o.waiting.With(sensor.Window{Hits: w.Hits})
	if a.store == nil || len(o.waiting.Hits) == 0 {
		return
	}
	rows := make([]store.Hit, 0, len(o.waiting.Hits))
	special := vet.Special()
	for _, h := range o.waiting.Hits {
		if special.Contains(h.Source) { // cannot have been on the list, and is nobody's business
			continue
		}
		service, _ := a.cfg.Ports.Name(h.Port)
		rows = append(rows, store.Hit{
			Source: h.Source, Protocol: uint8(h.Protocol), Port: h.Port, Service: service, Packets: h.Packets,
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	err := a.store.Add(ctx, o.since, now, rows, a.cfg.ReportEnabled)
	a.tellStore(err)
	if err != nil {
		return
	}
	if n := o.waiting.Overflow; n > 0 {
		a.log.Warn("Not every blocked connection of that time was recorded", zap.Uint64("packets", n))
		a.setStatus(func(s *Status) { s.Unrecorded += n })
	}
	o.waiting = sensor.Window{}
}

// deliver reports what is queued, at every interval until ctx ends; then one batch more.
func (a *Agent) deliver(ctx context.Context) error {
	a.prune(ctx)
	wait := newBackoff()
	next, pruning := time.NewTimer(a.cfg.ReportInterval), time.NewTicker(pruneEvery)
	defer next.Stop()
	defer pruning.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pruning.C:
			a.prune(ctx)
		case <-next.C:
			if a.reporter != nil {
				next.Reset(a.reportAll(ctx, wait))
			}
		}
	}
}

// reportAll sends batch after batch until nothing is left or something fails, and returns how long to wait.
func (a *Agent) reportAll(ctx context.Context, wait *backoff.ExponentialBackOff) time.Duration {
	a.withdraw(ctx)
	for ctx.Err() == nil {
		out, err := a.reporter.Deliver(ctx)
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
	if allow == nil || allow == a.withdrawn {
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
func (a *Agent) lastBatch() {
	if a.reporter == nil || a.unauthorized {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastReport)
	defer cancel()
	a.withdraw(ctx)
	out, err := a.reporter.Deliver(ctx)
	if err != nil {
		n, qerr := a.store.Queued(context.Background())
		a.log.Warn("The last report did not get through and is kept", zap.Error(errors.Join(err, qerr)), zap.Int("rows", n))
		return
	}
	a.tellReported(out)
}

func (a *Agent) tellReported(out report.Outcome) {
	if out.Rows == 0 {
		return
	}
	a.unauthorized = false
	a.log.Info(fmt.Sprintf("Reported %d sources to SikkerAPI", out.Accepted))
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
			a.log.Warn("SikkerAPI refuses the key: nothing is reported until it changes", zap.Error(err))
		}
		a.unauthorized = true
		return a.cfg.PullInterval
	}
	if t, ok := errors.AsType[*sikkerapi.TemporaryError](err); ok {
		wait = max(wait, t.RetryAfter)
	}
	a.log.Warn("A report did not get through; it is kept and sent again", zap.Error(err), zap.String("retryIn", wait.Round(time.Second).String()))
	return wait
}

func (a *Agent) prune(ctx context.Context) {
	if err := a.store.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil {
		a.log.Warn("Old records are not deleted", zap.Error(err))
	}
}

// queue is the store's queue as the reporter wants it.
type queue struct{ *store.Store }

func (q queue) Batch(ctx context.Context, most int) ([]report.Row, error) {
	batch, err := q.Store.Batch(ctx, most)
	rows := make([]report.Row, 0, len(batch))
	for _, r := range batch {
		rows = append(rows, report.Row{
			Source: r.Source, Service: r.Service, Packets: r.Packets, Ports: r.Ports, First: r.First, Last: r.Last,
		})
	}
	return rows, err
}
