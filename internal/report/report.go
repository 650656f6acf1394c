package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

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
	// recordTimeout bounds the recording of an answer, which is finished even when the agent is being stopped.
	recordTimeout = 10 * time.Second
	day           = 24 * time.Hour
)

// Row is what one source did to one service.
type Row struct {
	Source      netip.Addr
	Service     string // empty: of no known service
	Packets     uint64
	Ports       []uint16
	MorePorts   bool // Ports may not be all
	First, Last time.Time
}

// Queue holds rows until they were reported.
type Queue interface {
	// Batch is the batch in flight, or when there is none the up to most busiest of the rows that were begun before a time,
	// which are it from now on.
	Batch(ctx context.Context, most int, before time.Time) ([]Row, error)
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
	until     time.Time
	answered  *answer // of the batch in flight; nil when there is none, or it has not been answered
	alone     int     // rows dropped one after the other, see maxAlone
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

// Deliver sends one batch of rows that were begun before a time, the busiest first, at most as many as the quota has left.
// With an error none of the batch was taken as far as is known. Rows go back among those that wait when the API said so;
// after anything else they are sent again as they are, because the API may have taken them. An answer that could not be
// recorded is recorded first, and nothing is sent before that works.
func (r *Reporter) Deliver(ctx context.Context, before time.Time) (Outcome, error) {
	if r.answered != nil {
		return r.record(ctx)
	}
	if err := r.ask(ctx); err != nil {
		return Outcome{}, err
	}
	now := r.o.Now()
	most := min(r.limit, r.left(now))
	if most == 0 {
		return Outcome{}, &sikkerapi.QuotaError{RetryAfter: r.until.Sub(now), Reset: r.until}
	}
	batch, err := r.o.Queue.Batch(ctx, most, before)
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
	r.limit, r.alone = min(2*r.limit, maxBatch), 0
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

// left is what is left of the quota, as far as is known.
func (r *Reporter) left(now time.Time) int {
	switch {
	case r.daily < 0:
		return firstBatch
	case now.Before(r.until) && r.until.Sub(now) <= day: // further off, the clock was put back
		return r.remaining
	default:
		return r.daily // it is there anew
	}
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
	case isTemporary, ctx.Err() != nil:
		return Outcome{}, err // it may have been taken: the same batch goes again
	case errors.Is(err, sikkerapi.ErrMalformed) && !isNoJSON(err):
		// Taken by the API, and said in words that make no sense. Sent again it would count twice, each time.
		r.answered = &answer{out: Outcome{Rows: n, Accepted: n}}
		return r.record(ctx)
	case isRow, errors.Is(err, sikkerapi.ErrBatchTooLarge), isAnswer && aboutContent(api.StatusCode):
		return r.halve(ctx, n, err)
	case isAnswer:
		return r.giveBack(ctx, err) // a key that is refused, an address that is not the API's
	default:
		return Outcome{}, err // a 200 that is not the API's, such as a login page: the same batch goes again
	}
}

// isNoJSON says whether an answer is something else altogether than what the API sends.
func isNoJSON(err error) bool {
	_, ok := errors.AsType[*json.SyntaxError](err)
	return ok
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

// learn remembers what is left of the quota until it is there anew, at midnight UTC unless the API says otherwise.
func (r *Reporter) learn(q sikkerapi.Quota) {
	if !q.Known {
		return
	}
	now := r.o.Now().UTC()
	r.daily, r.remaining, r.until = q.Limit, q.Remaining, q.Reset
	if r.until.IsZero() {
		r.until = now.Truncate(day).Add(day)
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
	if r.MorePorts {
		b.WriteString(" and possibly others")
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
