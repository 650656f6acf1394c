package report

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/report/reportrow"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

const (
	// maxBatch is the largest number of rows in a request. A comment takes up to some 300 bytes,
	// and the API accepts 2 MB per request.
	maxBatch = 5000
	// firstBatch is the number of rows sent while the rest of the quota is unknown.
	firstBatch = 100
	// maxAlone is the number of consecutive rows that may be dropped because the API refused a
	// request of that row alone. After that many, the rows are not the cause of the refusals.
	maxAlone = 3
	// maxSent is the number of times a batch is sent while no answer proves that the API took it.
	// After that, one row alone is sent until an answer proves something. So an API that takes rows
	// and cannot confirm them gets each of the other rows at most twice.
	maxSent = 2
	// recordTimeout bounds the recording of an answer, which finishes even while the agent is
	// stopping.
	recordTimeout = 10 * time.Second
	day           = 24 * time.Hour
	// maxAge and maxSkew bound the times in a report. A row waits for months at most. If the clock
	// was wrong and has been corrected, it was wrong by more than a few minutes.
	maxAge, maxSkew = 366 * day, 5 * time.Minute
)

// UnclearError is an answer with a status of success that proves nothing: its counts are missing or
// do not add up, or its body cannot be read. The rows stay in the queue.
type UnclearError struct {
	Times int // consecutive answers that proved nothing, including this one
	Err   error
}

func (e *UnclearError) Error() string {
	return fmt.Sprintf("the answer does not prove that SikkerAPI took the reports: %v", e.Err)
}

// Unwrap returns the cause.
func (e *UnclearError) Unwrap() error { return e.Err }

// Row is one report row.
type Row = reportrow.Row

// Queue holds rows until the API has answered them.
type Queue interface {
	// Queued returns the number of rows that wait, including the batch in flight.
	Queued(ctx context.Context) (int, error)
	// Batch returns the batch in flight. If there is none, the rows with the most packets, up to
	// most, become the batch.
	Batch(ctx context.Context, most int) ([]Row, error)
	// Done deletes the batch in flight and records the outcome in one transaction. The rows in
	// again go back into the queue.
	Done(ctx context.Context, accepted, rejected int, again []Row) error
	// Return ends the batch in flight and puts its rows back into the queue.
	Return(ctx context.Context) error
}

// API is the part of SikkerAPI that Reporter uses. *sikkerapi.Client implements it.
type API interface {
	BulkReport(ctx context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error)
	Status(ctx context.Context) (sikkerapi.Status, error)
}

// Options are the settings of a Reporter.
type Options struct {
	Queue Queue
	API   API
	Now   func() time.Time // if nil, time.Now
}

// Reporter sends reports. One goroutine uses it; only Quota may be called from any.
type Reporter struct {
	o         Options
	quota     sikkerapi.LatestQuota
	limit     int       // rows per request; less than maxBatch while the API refuses more
	daily     int       // quota from the API, rows per day; -1 if unknown
	remaining int       // rows left of it
	until     time.Time // time of its reset
	answered  *answer   // answer to the batch in flight; nil if there is no batch or no answer
	alone     int       // rows dropped one after another, see maxAlone
	doubt     int       // consecutive answers that proved nothing, see maxSent
}

// answer is the answer of the API to a batch.
type answer struct {
	out   Outcome
	again []Row
}

// New returns a Reporter. It sends nothing.
func New(o Options) *Reporter {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reporter{o: o, limit: maxBatch, daily: -1}
}

// Outcome is the result of one batch.
type Outcome struct {
	Rows               int // 0 if there was nothing to send
	Accepted, Rejected int
	Reasons            map[string]int // rows by reason of rejection; the text is the API's, so quote it
}

// Queued returns the number of rows that wait.
func (r *Reporter) Queued(ctx context.Context) (int, error) { return r.o.Queue.Queued(ctx) }

// InDoubt reports whether a batch was sent maxSent times and no answer proves that the API took it
// or not.
func (r *Reporter) InDoubt() bool { return r.doubt >= maxSent }

// Deliver sends one batch, the rows with the most packets first and at most as many as the quota
// has left. If it returns an error, no row is known to have been accepted. If the API said that it
// took none, the rows go back into the queue. After any other error the same batch is sent again,
// at most maxSent times, because the API may have taken it. If an answer could not be recorded,
// Deliver records it first and sends nothing before that succeeds.
func (r *Reporter) Deliver(ctx context.Context) (Outcome, error) {
	if r.answered != nil {
		return r.record(ctx)
	}
	now := r.o.Now()
	r.renew(now)
	if err := r.askQuota(ctx); err != nil {
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

// read returns the answer that result makes for batch. If the quota is used up, the rejected rows
// are sent again later.
func (r *Reporter) read(batch []Row, result sikkerapi.BulkReportResult) *answer {
	a := &answer{
		out: Outcome{Rows: len(batch), Accepted: result.Accepted, Rejected: result.Rejected, Reasons: map[string]int{}},
	}
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

// record records the answer to the batch in flight, even if ctx has ended: a batch that is sent
// again counts twice.
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

// askQuota asks the API once for the rest of the quota. If the API does not say, the first batch is
// a small one, and its answer has the quota.
func (r *Reporter) askQuota(ctx context.Context) error {
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

// renew starts a new day of the quota at its reset. It also does so if the clock was set back so
// far that the reset would not come today. The wall clock or the monotonic clock decides, whichever
// comes first, because the latter stops while the host is suspended. A quota of zero becomes
// unknown, so the API is asked again and a key that was given a quota is noticed.
func (r *Reporter) renew(now time.Time) {
	switch left := r.until.Sub(now); {
	case r.daily < 0, left > 0 && left <= day && now.Round(0).Before(r.until.Round(0)):
	case r.daily == 0:
		r.daily = -1
	default:
		r.remaining, r.until = r.daily, sikkerapi.Quota{}.ResetsAt(now)
	}
}

// left returns the rows left of the quota, as far as it is known.
func (r *Reporter) left() int {
	if r.daily < 0 {
		return firstBatch
	}
	return r.remaining
}

// refused decides whether a batch of n rows is kept, given back or split after err, and returns
// err.
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
		return Outcome{}, err // the same batch is sent again
	case isTemporary:
		return r.doubtful(ctx, err)
	case isRow, errors.Is(err, sikkerapi.ErrBatchTooLarge):
		return r.halve(ctx, n, err)
	// no row is dropped because of a page of a proxy
	case isAnswer && aboutContent(api.StatusCode) && (n > 1 || !api.Foreign):
		return r.halve(ctx, n, err)
	case isAnswer:
		return r.giveBack(ctx, err) // a refused key, an address without the API
	default: // a success that is not the API's, such as a login page, or that says nothing about the rows
		return r.doubtful(ctx, &UnclearError{Times: r.doubt + 1, Err: err})
	}
}

// doubtful keeps a batch that the API may have taken or not, and returns err. The same batch is
// sent again. After maxSent times its rows go back into the queue, and one of them is sent alone to
// find out.
func (r *Reporter) doubtful(ctx context.Context, err error) (Outcome, error) {
	r.doubt++
	if !r.InDoubt() {
		return Outcome{}, err
	}
	r.limit = 1
	return r.giveBack(ctx, err)
}

// neverSent reports whether a request failed before a byte of it was sent because there was no
// connection.
func neverSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// aboutContent reports whether a status is about the content of a request and not about its sender
// or address.
func aboutContent(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge ||
		status == http.StatusUnprocessableEntity
}

// giveBack ends the batch in flight, of which the API took nothing, and returns err.
func (r *Reporter) giveBack(ctx context.Context, err error) (Outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	return Outcome{}, errors.Join(err, r.o.Queue.Return(ctx))
}

// halve sends fewer and fewer rows to find the one that the API refuses a batch for. A row that is
// refused alone is dropped.
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
			reason = row.Reason // without number and address, which differ in every row
		}
		r.answered = &answer{out: Outcome{Rows: n, Rejected: n, Reasons: map[string]int{reason: n}}}
		return r.record(ctx)
	}
}

// learn stores the rest of the quota and the time of its reset.
func (r *Reporter) learn(q sikkerapi.Quota) {
	if !q.Known {
		return
	}
	now := r.o.Now()
	r.daily, r.remaining, r.until = max(0, q.Limit), max(0, q.Remaining), q.ResetsAt(now)
	r.quota.Store(q, now)
}

// Quota returns the latest quota for reports from the API, with Reset set. Known is false until
// there is one. Any goroutine may call it.
func (r *Reporter) Quota() sikkerapi.Quota { return r.quota.Load() }

// reportOf returns the row in the form of the API. It leaves out impossible times: the clock was
// wrong when the row was recorded, or is wrong now.
func reportOf(r Row, now time.Time) sikkerapi.Report {
	var b strings.Builder
	fmt.Fprintf(&b, "%d packet%s dropped", r.Packets, plural(r.Packets))
	if len(r.Ports) > 0 {
		ports := strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Ports), " ", ", "), "[]")
		fmt.Fprintf(&b, ", to port%s %s", plural(uint64(len(r.Ports))), ports)
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
