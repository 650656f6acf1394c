package report

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// maxBatch is how many rows are sent at once. Comments take up to some 300 bytes, and a request at most 2 MB.
	maxBatch = 5000
	// firstBatch is how many are sent while the API does not tell what is left of the quota.
	firstBatch = 100
	// maxAlone is how many rows in a row may be dropped because the API refuses a request that holds nothing else. Beyond it
	// the rows are not what it refuses.
	maxAlone = 3
	// maxSent is how often a batch is sent while nothing proves whether the API took it. Then a
	// single row is sent instead, until an answer proves something: an API that takes rows and
	// cannot say so gets each of the others twice at most.
	maxSent = 2
	// recordTimeout bounds the recording of an answer, which is finished even when the agent is being stopped.
	recordTimeout = 10 * time.Second
	day           = 24 * time.Hour
	// maxAge and maxSkew bound the times that a report tells: a row waits for months at most, and a
	// clock that was put right since was wrong by more than a few minutes.
	maxAge, maxSkew = 366 * day, 5 * time.Minute
)

// UnclearError is an answer with a status of success that proves nothing: its counts are missing or
// do not add up, or its body cannot be read. The rows are kept.
type UnclearError struct {
	Times int // answers in a row that proved nothing, this one among them
	Err   error
}

func (e *UnclearError) Error() string {
	return fmt.Sprintf("the answer does not prove that SikkerAPI took the reports: %v", e.Err)
}

// Unwrap returns the cause.
func (e *UnclearError) Unwrap() error { return e.Err }

// Row is one report row.
type Row = reportrow.Row

// Queue holds rows until they were reported.
type Queue interface {
	// Queued returns how many rows wait, the batch in flight among them.
	Queued(ctx context.Context) (int, error)
	// Batch returns the batch in flight. If there is none, the up to most busiest rows become it.
	Batch(ctx context.Context, most int) ([]Row, error)
	// Done deletes the batch in flight and records what became of it, in one transaction. Rows that are to be sent again
	// wait again.
	Done(ctx context.Context, accepted, rejected int, again []Row) error
	// Return ends the batch in flight: its rows wait again.
	Return(ctx context.Context) error
}

// API is what is asked. *sikkerapi.Client is one.
type API interface {
	BulkReport(ctx context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error)
	Status(ctx context.Context) (sikkerapi.Status, error)
}

// Options say where rows come from and go to.
type Options struct {
	Queue Queue
	API   API
	Now   func() time.Time // nil: time.Now
}

// Reporter reports. It is used by one goroutine, but for Quota.
type Reporter struct {
	o         Options
	quota     atomic.Pointer[sikkerapi.Quota] // nil: not known
	limit     int                             // rows at once; less than maxBatch while the API refuses more
	daily     int                             // the quota, as the API said; -1: not known
	remaining int                             // what was left of it
	until     time.Time                       // when it is there again
	answered  *answer                         // of the batch in flight; nil when there is none, or it has not been answered
	alone     int                             // rows dropped one after the other, see maxAlone
	doubt     int                             // answers in a row that proved nothing, see maxSent
}

// answer is what the API said of a batch.
type answer struct {
	out   Outcome
	again []Row
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

// Queued returns how many rows wait.
func (r *Reporter) Queued(ctx context.Context) (int, error) { return r.o.Queue.Queued(ctx) }

// InDoubt reports whether no answer proves what became of a batch that was sent as often as it may
// be.
func (r *Reporter) InDoubt() bool { return r.doubt >= maxSent }

// Deliver sends one batch of rows, the busiest first, at most as many as the quota has left. With
// an error none of the batch was taken as far as is known. Rows go back among those that wait when
// the API said so; after anything else they are sent again as they are, because the API may have
// taken them, but not more than maxSent times. An answer that could not be recorded is recorded
// first, and nothing is sent before that works.
func (r *Reporter) Deliver(ctx context.Context) (Outcome, error) {
	if r.answered != nil {
		return r.record(ctx)
	}
	now := r.o.Now()
	r.renew(now)
	if err := r.ask(ctx); err != nil {
		return Outcome{}, err
	}
	most := min(r.limit, r.left())
	if most <= 0 {
		return Outcome{}, &sikkerapi.QuotaError{RetryAfter: r.until.Sub(now), Reset: r.until.UTC()}
	}
	batch, err := r.o.Queue.Batch(ctx, most)
	if err != nil || len(batch) == 0 {
		return Outcome{}, err
	}
	reports := make([]sikkerapi.Report, len(batch))
	for i, row := range batch {
		reports[i] = reportOf(row, now)
	}
	result, err := r.o.API.BulkReport(ctx, reports)
	if err != nil {
		return r.refused(ctx, len(batch), err)
	}
	r.learn(result.Quota)
	r.limit, r.alone, r.doubt = min(2*r.limit, maxBatch), 0, 0
	r.answered = r.read(batch, result)
	return r.record(ctx)
}

// read makes an answer of what the API said of each row. When the quota is spent, what it did not take is sent again.
func (r *Reporter) read(batch []Row, result sikkerapi.BulkReportResult) *answer {
	a := &answer{out: Outcome{Rows: len(batch), Accepted: result.Accepted, Rejected: result.Rejected, Reasons: map[string]int{}}}
	spent := result.Quota.Known && result.Quota.Remaining == 0
	for _, e := range result.Errors {
		if spent {
			a.again = append(a.again, batch[e.Row-1])
			continue
		}
		a.out.Reasons[e.Reason]++
	}
	a.out.Rejected -= len(a.again)
	return a
}

// record records the answer to the batch in flight, whatever becomes of ctx: sent again it would count twice.
func (r *Reporter) record(ctx context.Context) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	a := r.answered
	if err := r.o.Queue.Done(ctx, a.out.Accepted, a.out.Rejected, a.again); err != nil {
		return Outcome{}, err
	}
	r.answered = nil
	return a.out, nil
}

// ask asks what is left of the quota, once. When that is not told, the first batch is a small one, and tells.
func (r *Reporter) ask(ctx context.Context) error {
	if r.daily >= 0 {
		return nil
	}
	s, err := r.o.API.Status(ctx)
	switch {
	case errors.Is(err, sikkerapi.ErrUnauthorized), ctx.Err() != nil:
		return err
	case err == nil && s.Quotas.Reports.Limit > 0:
		u := s.Quotas.Reports
		r.learn(sikkerapi.Quota{Known: true, Limit: u.Limit, Used: u.Used, Remaining: u.Remaining})
	}
	return nil
}

// renew begins a new day of the quota when the time has come, or when the clock was put back so far
// that it would not come today. Either the wall clock or the time that has passed decides: the
// latter stops while the host is suspended. A quota of nothing is forgotten, so that a key that
// gets one is noticed.
func (r *Reporter) renew(now time.Time) {
	switch left := r.until.Sub(now); {
	case r.daily < 0, left > 0 && left <= day && now.Round(0).Before(r.until.Round(0)):
	case r.daily == 0:
		r.daily = -1
	default:
		r.remaining, r.until = r.daily, midnight(now)
	}
}

// midnight returns the next midnight UTC, when quotas reset. The result has a monotonic reading if
// now has one.
func midnight(now time.Time) time.Time {
	return now.Add(now.UTC().Truncate(day).Add(day).Sub(now.Round(0)))
}

// left returns what is left of the quota, as far as is known.
func (r *Reporter) left() int {
	if r.daily < 0 {
		return firstBatch
	}
	return r.remaining
}

// refused decides what becomes of a batch of n rows that got no good answer, and passes the error on.
func (r *Reporter) refused(ctx context.Context, n int, err error) (Outcome, error) {
	quota, isQuota := errors.AsType[*sikkerapi.QuotaError](err)
	api, isAnswer := errors.AsType[*sikkerapi.APIError](err)
	_, isTemporary := errors.AsType[*sikkerapi.TemporaryError](err)
	_, isRow := errors.AsType[*sikkerapi.RowError](err)
	switch {
	case isQuota:
		r.learn(quota.Quota)
		return r.giveBack(ctx, err)
	case isAnswer && api.StatusCode == http.StatusTooManyRequests:
		return r.giveBack(ctx, err) // too many requests at a time
	case ctx.Err() != nil, isTemporary && neverSent(err):
		return Outcome{}, err // the same batch goes again
	case isTemporary:
		return r.doubtful(ctx, err)
	case isRow, errors.Is(err, sikkerapi.ErrBatchTooLarge):
		return r.halve(ctx, n, err)
	case isAnswer && aboutContent(api.StatusCode) && (n > 1 || !api.Foreign): // a page of a proxy drops no row
		return r.halve(ctx, n, err)
	case isAnswer:
		return r.giveBack(ctx, err) // a key that is refused, an address that is not the API's
	default: // a success that is not the API's, such as a login page, or that says nothing about the rows
		return r.doubtful(ctx, &UnclearError{Times: r.doubt + 1, Err: err})
	}
}

// doubtful keeps a batch that the API may have taken or not, and passes the error on. The batch
// goes again as it is; after maxSent times its rows go back among those that wait, and one of them
// is sent alone to find out.
func (r *Reporter) doubtful(ctx context.Context, err error) (Outcome, error) {
	r.doubt++
	if !r.InDoubt() {
		return Outcome{}, err
	}
	r.limit = 1
	return r.giveBack(ctx, err)
}

// neverSent reports whether a request failed before a byte of it was sent: no connection was made.
func neverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// aboutContent says whether a status speaks of what was sent, and not of who sent it or where to.
func aboutContent(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity
}

// giveBack ends the batch in flight, of which the API took nothing.
func (r *Reporter) giveBack(ctx context.Context, err error) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return Outcome{}, errors.Join(err, r.o.Queue.Return(ctx))
}

// halve finds the row that a batch is refused for by sending less and less of it; alone, it is dropped.
func (r *Reporter) halve(ctx context.Context, n int, err error) (Outcome, error) {
	switch {
	case n > 1:
		r.limit = n / 2
		return r.giveBack(ctx, err)
	case r.alone == maxAlone:
		return r.giveBack(ctx, err)
	default:
		r.alone++
		reason := err.Error()
		if row, ok := errors.AsType[*sikkerapi.RowError](err); ok {
			reason = row.Reason // without number and address, which no two rows share
		}
		r.answered = &answer{out: Outcome{Rows: n, Rejected: n, Reasons: map[string]int{reason: n}}}
		return r.record(ctx)
	}
}

// learn remembers what is left of the quota until it is there again, at midnight UTC unless the API
// says otherwise.
func (r *Reporter) learn(q sikkerapi.Quota) {
	if !q.Known {
		return
	}
	now := r.o.Now()
	r.daily, r.remaining = max(0, q.Limit), max(0, q.Remaining)
	r.until = now.Add(q.Reset.Sub(now.Round(0)))
	if !q.Reset.After(now) { // it was not told, or makes no sense
		r.until = midnight(now)
	}
	q.Reset = r.until.Round(0).UTC()
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

// reportOf returns the row as the API takes it. Times that cannot be are left out: the clock was
// wrong when the row was recorded, or is wrong now.
func reportOf(r Row, now time.Time) sikkerapi.Report {
	var b strings.Builder
	fmt.Fprintf(&b, "%d packet%s dropped", r.Packets, plural(r.Packets))
	if len(r.Ports) > 0 {
		fmt.Fprintf(&b, ", to port%s %s", plural(uint64(len(r.Ports))), strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Ports), " ", ", "), "[]"))
	}
	if r.MorePorts() {
		b.WriteString(" and possibly others")
	}
	if !r.First.After(r.Last) && now.Sub(r.First) < maxAge && r.Last.Sub(now) < maxSkew {
		fmt.Fprintf(&b, ", from %s to %s", r.First.UTC().Format(time.RFC3339), r.Last.UTC().Format(time.RFC3339))
	}
	return sikkerapi.Report{IP: r.Source, Category: sikkerapi.PortScan, Protocol: r.Service, Comment: b.String()}
}

func plural(n uint64) string {
	if n == 1 {
		return ""
	}
	return "s"
}
