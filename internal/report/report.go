package report

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// maxBatch is how many rows are sent at once. Comments take up to some 300 bytes, and a request at most 2 MB.
	maxBatch = 5000
	// firstBatch is how many are sent while it is not known what is left of the quota: the API rejects rows beyond it.
	firstBatch = 100
)

// Row is what one source did to one service.
type Row struct {
	Source      netip.Addr
	Service     string // empty: of no known service
	Packets     uint64
	Ports       []uint16
	First, Last time.Time
}

// Queue holds rows until they were reported.
type Queue interface {
	// Batch is the batch in flight, or when there is none the up to most busiest rows, which are it from now on.
	Batch(ctx context.Context, most int) ([]Row, error)
	// Done deletes the batch in flight and records what became of it, in one transaction.
	Done(ctx context.Context, accepted, rejected int) error
	// Return ends the batch in flight: its rows wait again.
	Return(ctx context.Context) error
}

// Sender sends a bulk report. *sikkerapi.Client is one.
type Sender interface {
	BulkReport(ctx context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error)
}

// Options say where rows come from and go to.
type Options struct {
	Queue Queue
	API   Sender
	Now   func() time.Time // nil: time.Now
}

// Reporter reports. It is used by one goroutine, but for Quota.
type Reporter struct {
	o         Options
	quota     atomic.Pointer[sikkerapi.Quota] // nil: not known
	limit     int                             // rows at once; less than maxBatch while the API refuses more
	daily     int                             // the quota, as the API said; -1: not known
	remaining int                             // what was left of it
	until     time.Time
}

// New makes a Reporter. Nothing is sent yet.
func New(o Options) *Reporter {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reporter{o: o, limit: maxBatch, daily: -1}
}

// Outcome is what became of one batch.
type Outcome struct {
	Rows               int // 0: there was nothing to send
	Accepted, Rejected int
	Reasons            map[string]int // why rows were rejected, in the API's words: quote them
}

// Deliver sends one batch, the busiest sources first, at most as many as the quota has left. With an error none of the
// batch was taken as far as is known. Rows go back among those that wait when the API said so; after anything else they
// are sent again as they are, because the API may have taken them.
func (r *Reporter) Deliver(ctx context.Context) (Outcome, error) {
	now := r.o.Now()
	most := min(r.limit, r.left(now))
	if most == 0 {
		return Outcome{}, &sikkerapi.QuotaError{RetryAfter: r.until.Sub(now), Reset: r.until}
	}
	batch, err := r.o.Queue.Batch(ctx, most)
	if err != nil || len(batch) == 0 {
		return Outcome{}, err
	}
	reports := make([]sikkerapi.Report, len(batch))
	for i, row := range batch {
		reports[i] = row.report()
	}
	result, err := r.o.API.BulkReport(ctx, reports)
	if err != nil {
		return r.refused(ctx, len(batch), err)
	}
	r.learn(result.Quota)
	r.limit = min(2*r.limit, maxBatch)
	out := Outcome{Rows: len(batch), Accepted: result.Accepted, Rejected: result.Rejected, Reasons: map[string]int{}}
	for _, e := range result.Errors {
		out.Reasons[e.Reason]++
	}
	return out, r.o.Queue.Done(ctx, result.Accepted, result.Rejected)
}

// left is what is left of the quota, as far as is known.
func (r *Reporter) left(now time.Time) int {
	switch {
	case r.daily < 0:
		return firstBatch
	case now.Before(r.until):
		return r.remaining
	default:
		return r.daily // it is there anew
	}
}

// refused decides what becomes of a batch of n rows that got no good answer, and passes the error on.
func (r *Reporter) refused(ctx context.Context, n int, err error) (Outcome, error) {
	quota, isQuota := errors.AsType[*sikkerapi.QuotaError](err)
	_, isTemporary := errors.AsType[*sikkerapi.TemporaryError](err)
	switch {
	case isQuota:
		r.learn(quota.Quota)
		return Outcome{}, errors.Join(err, r.o.Queue.Return(ctx))
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		return Outcome{}, errors.Join(err, r.o.Queue.Return(ctx))
	case isTemporary, ctx.Err() != nil:
		return Outcome{}, err // it may have been taken: the same batch goes again
	case errors.Is(err, sikkerapi.ErrMalformed):
		// Taken, by a 200, and said in words that make no sense. Sent again it would count twice, each time.
		return Outcome{Rows: n, Accepted: n}, r.o.Queue.Done(ctx, n, 0)
	case n > 1:
		r.limit = n / 2 // something in it, or its size: halves find out
		return Outcome{}, errors.Join(err, r.o.Queue.Return(ctx))
	default:
		return Outcome{Rows: n, Rejected: n, Reasons: map[string]int{err.Error(): n}}, r.o.Queue.Done(ctx, 0, n)
	}
}

// learn remembers what is left of the quota until it is there anew, at midnight UTC unless the API says otherwise.
func (r *Reporter) learn(q sikkerapi.Quota) {
	if !q.Known {
		return
	}
	now := r.o.Now().UTC()
	r.daily, r.remaining, r.until = q.Limit, q.Remaining, q.Reset
	if r.until.IsZero() {
		r.until = now.Truncate(24 * time.Hour).Add(24 * time.Hour)
	}
	q.Reset = r.until
	r.quota.Store(&q)
}

// Quota is what the API last said of the quota for reports, with Reset set; not Known while it said nothing. Any goroutine
// may ask.
func (r *Reporter) Quota() sikkerapi.Quota {
	if q := r.quota.Load(); q != nil {
		return *q
	}
	return sikkerapi.Quota{}
}

// report is a row as the API takes it.
func (r Row) report() sikkerapi.Report {
	var b strings.Builder
	fmt.Fprintf(&b, "%d packet%s dropped", r.Packets, plural(r.Packets))
	if len(r.Ports) > 0 {
		fmt.Fprintf(&b, ", to port%s %s", plural(uint64(len(r.Ports))), strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Ports), " ", ", "), "[]"))
	}
	fmt.Fprintf(&b, ", from %s to %s", r.First.UTC().Format(time.RFC3339), r.Last.UTC().Format(time.RFC3339))
	return sikkerapi.Report{IP: r.Source, Category: sikkerapi.PortScan, Protocol: r.Service, Comment: b.String()}
}

func plural(n uint64) string {
	if n == 1 {
		return ""
	}
	return "s"
}
