package report_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// queue holds rows as the store does: one batch in flight, and an answer only for it.
type queue struct {
	t               *testing.T
	waiting, flying []report.Row
	sent, rejected  int
	full            bool // the disk is full: nothing can be recorded
}

func (q *queue) Queued(context.Context) (int, error) { return len(q.waiting) + len(q.flying), nil }

func (q *queue) Batch(_ context.Context, most int) ([]report.Row, error) {
	if len(q.flying) == 0 {
		n := min(most, len(q.waiting))
		q.flying, q.waiting = q.waiting[:n:n], q.waiting[n:]
	}
	return q.flying, nil
}

var errFull = errors.New("disk full")

func (q *queue) Done(ctx context.Context, accepted, rejected int, again []report.Row) error {
	if len(q.flying) == 0 {
		q.t.Error("an answer without a batch in flight")
	}
	if q.full || ctx.Err() != nil {
		return errFull
	}
	q.flying, q.sent, q.rejected = nil, q.sent+accepted, q.rejected+rejected
	q.waiting = append(q.waiting, again...)
	return nil
}

func (q *queue) Return(context.Context) error {
	q.waiting, q.flying = append(q.flying, q.waiting...), nil
	return nil
}

// api answers with answer and stores the rows it got. Status returns quota, or an error if it is
// zero.
type api struct {
	got    [][]sikkerapi.Report
	answer func(rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error)
	quota  sikkerapi.Usage
}

func (a *api) BulkReport(_ context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	a.got = append(a.got, rows)
	return a.answer(rows)
}

func (a *api) Status(context.Context) (sikkerapi.Status, error) {
	if a.quota.Limit == 0 {
		return sikkerapi.Status{}, &sikkerapi.APIError{StatusCode: 404}
	}
	return sikkerapi.Status{Quotas: sikkerapi.Quotas{Reports: a.quota}}, nil
}

// now is the time at which these tests deliver.
func now() time.Time { return time.Date(2026, 11, 24, 14, 0, 0, 0, time.UTC) }

func all(rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	return sikkerapi.BulkReportResult{Total: len(rows), Accepted: len(rows)}, nil
}

func rows(n int) []report.Row {
	var rs []report.Row
	for i := range n {
		rs = append(rs, report.Row{
			Source: netip.AddrFrom4([4]byte{5, byte(i >> 16), byte(i >> 8), byte(i)}), Packets: 1,
		})
	}
	return rs
}

func TestReport(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a := &api{answer: all}
	q := &queue{t: t, waiting: []report.Row{
		{
			Source: netip.MustParseAddr("203.0.113.9"), Service: "ssh", Packets: 47, Ports: []uint16{22, 2222},
			First: first, Last: first.Add(time.Hour),
		},
		{Source: netip.MustParseAddr("2001:db8::1"), Packets: 1, First: first, Last: first},
	}}
	out, err := report.New(report.Options{Queue: q, API: a, Now: now}).Deliver(t.Context())
	if err != nil || out.Rows != 2 || out.Accepted != 2 || q.sent != 2 || len(q.flying) != 0 {
		t.Fatalf("outcome %+v, %v; queue %+v", out, err, q)
	}
	var got []string
	for _, r := range a.got[0] {
		got = append(got, fmt.Sprintf("%s %s %q %s", r.IP, r.Category, r.Protocol, r.Comment))
	}
	want := []string{
		`203.0.113.9 port_scan "ssh" 47 packets dropped, to ports 22, 2222, ` +
			`from 2026-11-24T12:00:00Z to 2026-11-24T13:00:00Z`,
		`2001:db8::1 port_scan "" 1 packet dropped, from 2026-11-24T12:00:00Z to 2026-11-24T12:00:00Z`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func TestDeliverRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		err             error
		flying, waiting int // afterwards, of three rows
		sent, rejected  int
		fails           bool
	}{
		{
			"OK too many requests at a time give it back",
			&sikkerapi.TemporaryError{Err: &sikkerapi.APIError{StatusCode: 429}}, 0, 3, 0, 0, true,
		},
		{
			"OK a temporary failure leaves the batch in flight",
			&sikkerapi.TemporaryError{Err: errors.New("503")}, 3, 0, 0, 0, true,
		},
		{"OK a spent quota gives it back", &sikkerapi.QuotaError{RetryAfter: time.Hour}, 0, 3, 0, 0, true},
		{"OK a refused key gives it back", &sikkerapi.APIError{StatusCode: 401}, 0, 3, 0, 0, true},
		{
			"OK counts that do not add up are no proof",
			fmt.Errorf("x: %w: %w", sikkerapi.ErrMalformed, errors.New("total is -1")), 3, 0, 0, 0, true,
		},
		{
			"OK a page that is not JSON is no proof",
			fmt.Errorf("x: %w: %w", sikkerapi.ErrMalformed, &json.SyntaxError{}), 3, 0, 0, 0, true,
		},
		{"OK an unreadable answer is no proof", fmt.Errorf("x: %w", sikkerapi.ErrDecompress), 3, 0, 0, 0, true},
		{"OK a batch refused as too large is halved", &sikkerapi.APIError{StatusCode: 413}, 0, 3, 0, 0, true},
		{"OK an address without the API gives it back", &sikkerapi.APIError{StatusCode: 404}, 0, 3, 0, 0, true},
		{"OK a redirect gives it back", &sikkerapi.APIError{StatusCode: 302}, 0, 3, 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := &queue{t: t, waiting: rows(3)}
			a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
				return sikkerapi.BulkReportResult{}, tt.err
			}}
			_, err := report.New(report.Options{Queue: q, API: a}).Deliver(t.Context())
			if (err != nil) != tt.fails || len(q.flying) != tt.flying || len(q.waiting) != tt.waiting ||
				q.sent != tt.sent || q.rejected != tt.rejected {
				t.Errorf("got %v; %d in flight, %d waiting, %d sent, %d rejected",
					err, len(q.flying), len(q.waiting), q.sent, q.rejected)
			}
		})
	}
}

// TestPoison has one row in a thousand for which the API refuses a batch. The others are accepted,
// and it is dropped.
func TestPoison(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(1000)}
	poison := q.waiting[700].Source
	a := &api{answer: func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		for _, r := range rs {
			if r.IP == poison {
				return sikkerapi.BulkReportResult{}, &sikkerapi.APIError{StatusCode: 400, Message: "bad row"}
			}
		}
		return all(rs)
	}}
	r := report.New(report.Options{Queue: q, API: a})
	for n := 0; len(q.waiting)+len(q.flying) > 0; n++ {
		if n > 100 {
			t.Fatalf("%d rows left after 100 batches", len(q.waiting))
		}
		_, _ = r.Deliver(t.Context())
	}
	if q.sent != 999 || q.rejected != 1 {
		t.Errorf("sent %d, rejected %d; want 999 and 1", q.sent, q.rejected)
	}
}

// TestQuota checks that the rest of the quota goes to the busiest rows and that no more is sent.
func TestQuota(t *testing.T) {
	t.Parallel()
	left := 8
	q := &queue{t: t, waiting: rows(20)}
	a := &api{answer: func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		left -= len(rs)
		if left < 0 {
			t.Errorf("sent %d more than the quota", -left)
		}
		res, err := all(rs)
		res.Quota = sikkerapi.Quota{Known: true, Limit: 8, Remaining: left}
		return res, err
	}}
	r := report.New(report.Options{Queue: q, API: a})
	first := q.waiting[:5]
	q.waiting, first = first, q.waiting[5:]
	if _, err := r.Deliver(t.Context()); err != nil { // its answer has the quota
		t.Fatal(err)
	}
	q.waiting = first
	if out, err := r.Deliver(t.Context()); err != nil || out.Rows != 3 {
		t.Errorf("with 3 left: %+v, %v", out, err)
	}
	_, err := r.Deliver(t.Context())
	if q := r.Quota(); !q.Known || q.Limit != 8 || q.Remaining != 0 || q.Reset.IsZero() {
		t.Errorf("quota: %+v", q)
	}
	if quota := (*sikkerapi.QuotaError)(nil); !errors.As(err, &quota) || quota.RetryAfter <= 0 || len(a.got) != 2 {
		t.Errorf("with none left: %v after %d requests", err, len(a.got))
	}
}

// TestRefusesEverything has an API that answers 400 to everything. Only maxAlone rows are dropped.
func TestRefusesEverything(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(1000)}
	a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		return sikkerapi.BulkReportResult{}, &sikkerapi.APIError{StatusCode: 400}
	}}
	r := report.New(report.Options{Queue: q, API: a})
	failed := 0
	for range 50 {
		if _, err := r.Deliver(t.Context()); err != nil {
			failed++
		}
	}
	if len(q.waiting)+len(q.flying) != 997 || q.rejected != 3 || failed != 47 {
		t.Errorf("%d rows are left, %d were rejected, %d deliveries failed; want 997, 3 and 47",
			len(q.waiting)+len(q.flying), q.rejected, failed)
	}
}

// TestPoisonNowAndThen has more than maxAlone rows that the API refuses, with accepted rows between
// them. So the rows are the cause, and they do not delay the others.
func TestPoisonNowAndThen(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(100)}
	a := &api{answer: func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		for _, r := range rs {
			if r.IP.As4()[3]%10 == 7 {
				return sikkerapi.BulkReportResult{}, &sikkerapi.APIError{StatusCode: 400, Message: "bad row"}
			}
		}
		return all(rs)
	}}
	r := report.New(report.Options{Queue: q, API: a})
	for n := 0; len(q.waiting)+len(q.flying) > 0; n++ {
		if n > 200 {
			t.Fatalf("%d rows left after 200 batches", len(q.waiting))
		}
		_, _ = r.Deliver(t.Context())
	}
	if q.sent != 90 || q.rejected != 10 {
		t.Errorf("sent %d, rejected %d; want 90 and 10", q.sent, q.rejected)
	}
}

// TestProxyRefusesContent has a proxy that answers 400 or 413 with a page of its own. No row is
// dropped for that.
func TestProxyRefusesContent(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(4)}
	a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		return sikkerapi.BulkReportResult{}, &sikkerapi.APIError{StatusCode: 413, Foreign: true}
	}}
	r := report.New(report.Options{Queue: q, API: a})
	for range 10 {
		_, _ = r.Deliver(t.Context())
	}
	if n, _ := q.Queued(t.Context()); n != 4 || q.rejected != 0 || len(a.got[len(a.got)-1]) != 1 {
		t.Errorf("%d rows are left, %d were dropped, %d are sent at once; want 4, 0 and 1",
			n, q.rejected, len(a.got[len(a.got)-1]))
	}
}

// TestUnrecorded fills the disk before the API answers. The answer is recorded later, and nothing
// is sent again.
func TestUnrecorded(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(3), full: true}
	a := &api{answer: all}
	r := report.New(report.Options{Queue: q, API: a})
	for range 3 {
		if out, err := r.Deliver(t.Context()); !errors.Is(err, errFull) || out.Rows != 0 {
			t.Fatalf("got %+v, %v", out, err)
		}
	}
	q.full = false
	if out, err := r.Deliver(t.Context()); err != nil || out.Accepted != 3 || q.sent != 3 || len(a.got) != 1 {
		t.Errorf("with room again: %+v, %v, %d sent, %d requests", out, err, q.sent, len(a.got))
	}
}

// TestStoppedAfterAnswer ends the context while the API answers. The answer is still recorded.
func TestStoppedAfterAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	q := &queue{t: t, waiting: rows(3)}
	a := &api{answer: func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		cancel()
		return all(rs)
	}}
	if out, err := report.New(report.Options{Queue: q, API: a}).Deliver(ctx); err != nil || out.Accepted != 3 ||
		q.sent != 3 {
		t.Errorf("got %+v, %v, %d sent", out, err, q.sent)
	}
}

// TestBeyondQuota has another host use up the quota between the question and the report. Rows that
// the API does not take wait.
func TestBeyondQuota(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(100)}
	a := &api{quota: sikkerapi.Usage{Limit: 1000, Used: 900, Remaining: 100}}
	a.answer = func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		res := sikkerapi.BulkReportResult{
			Total: len(rs), Accepted: 40, Rejected: 60, Quota: sikkerapi.Quota{Known: true, Limit: 1000},
		}
		for i := 41; i <= 100; i++ {
			res.Errors = append(res.Errors, &sikkerapi.RowError{Row: i, Reason: "daily quota exceeded"})
		}
		return res, nil
	}
	r := report.New(report.Options{Queue: q, API: a, Now: now})
	out, err := r.Deliver(t.Context())
	if err != nil || out.Accepted != 40 || out.Rejected != 0 || q.sent != 40 || q.rejected != 0 ||
		len(q.waiting) != 60 {
		t.Errorf("got %+v, %v; %d sent, %d rejected, %d waiting", out, err, q.sent, q.rejected, len(q.waiting))
	}
	if _, err := r.Deliver(t.Context()); err == nil || len(a.got) != 1 {
		t.Errorf("with nothing left: %v after %d requests", err, len(a.got))
	}
}

// TestQuotaAsked checks that the quota is asked for before the first report and kept.
func TestQuotaAsked(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(2000)}
	a := &api{answer: all, quota: sikkerapi.Usage{Limit: 1000, Used: 10, Remaining: 990}}
	r := report.New(report.Options{Queue: q, API: a, Now: now})
	if out, err := r.Deliver(t.Context()); err != nil || out.Rows != 990 {
		t.Errorf("got %+v, %v", out, err)
	}
}

// TestClockPutBack learns the quota while the clock is years ahead. After the correction, reports
// do not wait for years.
func TestClockPutBack(t *testing.T) {
	t.Parallel()
	at := now().AddDate(4, 0, 0)
	q := &queue{t: t, waiting: rows(2)}
	a := &api{quota: sikkerapi.Usage{Limit: 10, Used: 10}, answer: all}
	r := report.New(report.Options{Queue: q, API: a, Now: func() time.Time { return at }})
	if _, err := r.Deliver(t.Context()); err == nil {
		t.Error("a report beyond the quota")
	}
	at = now()
	if out, err := r.Deliver(t.Context()); err != nil || out.Accepted != 2 {
		t.Errorf("with the clock corrected: %+v, %v", out, err)
	}
}

func TestNothing(t *testing.T) {
	t.Parallel()
	a := &api{answer: all}
	if out, err := report.New(report.Options{Queue: &queue{t: t}, API: a}).Deliver(t.Context()); err != nil ||
		out.Rows != 0 || len(a.got) != 0 {
		t.Errorf("got %+v, %v, %d requests", out, err, len(a.got))
	}
}

// TestProvesNothing has an API that takes every row and cannot confirm it. Each row is sent at most
// twice, except the one that is sent alone to find out, and none leaves the queue. Once the API
// confirms again, all rows are accepted.
func TestProvesNothing(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{
		"malformed": fmt.Errorf("x: %w: %w", sikkerapi.ErrMalformed, errors.New("no total")),
		"temporary": &sikkerapi.TemporaryError{Err: &sikkerapi.APIError{StatusCode: 504}},
	} {
		q, times := &queue{t: t, waiting: rows(50)}, map[netip.Addr]int{}
		a := &api{answer: func(rs []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
			for _, r := range rs {
				times[r.IP]++
			}
			return sikkerapi.BulkReportResult{}, answer
		}}
		r := report.New(report.Options{Queue: q, API: a, Now: now})
		for i := range 20 {
			_, err := r.Deliver(t.Context())
			unclear, isUnclear := errors.AsType[*report.UnclearError](err)
			if !errors.Is(err, answer) || isUnclear != (name == "malformed") || isUnclear && unclear.Times != i+1 ||
				r.InDoubt() != (i > 0) {
				t.Fatalf("%s: delivery %d: %v, in doubt %t", name, i+1, err, r.InDoubt())
			}
		}
		often := 0
		for _, n := range times {
			if n > 2 {
				often++
			}
		}
		if n, _ := q.Queued(t.Context()); n != 50 || q.sent != 0 || often != 1 {
			t.Errorf("%s: %d rows wait, %d count as sent, %d were sent more than twice; want 50, 0 and 1",
				name, n, q.sent, often)
		}
		a.answer = all
		for range 10 {
			if _, err := r.Deliver(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if q.sent != 50 || r.InDoubt() {
			t.Errorf("%s: %d rows got through afterwards, in doubt %t", name, q.sent, r.InDoubt())
		}
	}
}

// TestNeverSent checks that attempts without a connection do not count as sent, however many there
// are.
func TestNeverSent(t *testing.T) {
	t.Parallel()
	q := &queue{t: t, waiting: rows(3)}
	a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		return sikkerapi.BulkReportResult{}, &sikkerapi.TemporaryError{
			Err: &net.OpError{Op: "dial", Err: errors.New("refused")},
		}
	}}
	r := report.New(report.Options{Queue: q, API: a})
	for range 5 {
		if _, err := r.Deliver(t.Context()); err == nil || r.InDoubt() || len(q.flying) != 3 {
			t.Fatalf("got %v; in doubt %t, %d in flight", err, r.InDoubt(), len(q.flying))
		}
	}
}

// TestNothingADay has a key with a quota of zero. The API is asked once a day, and each wait lasts
// a day. If the key gets a quota, the next question shows it.
func TestNothingADay(t *testing.T) {
	t.Parallel()
	at := now()
	q := &queue{t: t, waiting: rows(2)}
	none := sikkerapi.Quota{Known: true}
	a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
		return sikkerapi.BulkReportResult{}, &sikkerapi.QuotaError{Quota: none}
	}}
	r := report.New(report.Options{Queue: q, API: a, Now: func() time.Time { return at }})
	_, _ = r.Deliver(t.Context()) // its answer has the quota
	for day := range 5 {
		_, err := r.Deliver(t.Context())
		quota, ok := errors.AsType[*sikkerapi.QuotaError](err)
		if !ok || quota.RetryAfter <= 0 || quota.RetryAfter > 24*time.Hour || len(a.got) != day+1 {
			t.Fatalf("day %d: %v after %d requests", day, err, len(a.got))
		}
		at = at.Add(quota.RetryAfter)
		_, _ = r.Deliver(t.Context())
	}
	at, a.answer = at.Add(24*time.Hour), all
	if out, err := r.Deliver(t.Context()); err != nil || out.Accepted != 2 {
		t.Errorf("with a quota: %+v, %v", out, err)
	}
}

// TestNegativeQuota checks that a negative quota does not mean no limit.
func TestNegativeQuota(t *testing.T) {
	t.Parallel()
	a := &api{quota: sikkerapi.Usage{Limit: 10, Used: 15, Remaining: -5}, answer: all}
	_, err := report.New(report.Options{Queue: &queue{t: t, waiting: rows(2)}, API: a}).Deliver(t.Context())
	if _, ok := errors.AsType[*sikkerapi.QuotaError](err); !ok || len(a.got) != 0 {
		t.Errorf("got %v after %d requests", err, len(a.got))
	}
}

// TestWrongTimes checks that a report has no times that a wrong clock recorded.
func TestWrongTimes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first, last time.Time
		told        bool
	}{
		"OK now":              {now(), now(), true},
		"OK an hour":          {now().Add(-time.Hour), now(), true},
		"bad a clock ahead":   {now().Add(time.Hour), now().Add(2 * time.Hour), false},
		"bad corrected since": {now(), now().AddDate(3, 0, 0), false},
		"bad a clock of 1970": {time.Unix(60, 0), time.Unix(90, 0), false},
		"bad set back":        {now(), now().Add(-time.Hour), false},
	} {
		a := &api{answer: all}
		q := &queue{t: t, waiting: rows(1)}
		q.waiting[0].First, q.waiting[0].Last = tt.first, tt.last
		if _, err := report.New(report.Options{Queue: q, API: a, Now: now}).Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
		if comment := a.got[0][0].Comment; strings.Contains(comment, "from") != tt.told {
			t.Errorf("%s: %q", name, comment)
		}
	}
}
