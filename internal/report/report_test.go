package report_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// queue keeps rows as the store does: one batch in flight, and answers only to it.
type queue struct {
	t               *testing.T
	waiting, flying []report.Row
	sent, rejected  int
}

func (q *queue) Batch(_ context.Context, most int) ([]report.Row, error) {
	if len(q.flying) == 0 {
		n := min(most, len(q.waiting))
		q.flying, q.waiting = q.waiting[:n:n], q.waiting[n:]
	}
	return q.flying, nil
}

func (q *queue) Done(_ context.Context, accepted, rejected int) error {
	if len(q.flying) == 0 {
		q.t.Error("an answer for no batch")
	}
	q.flying, q.sent, q.rejected = nil, q.sent+accepted, q.rejected+rejected
	return nil
}

func (q *queue) Return(context.Context) error {
	q.waiting, q.flying = append(q.flying, q.waiting...), nil
	return nil
}

// api answers as it is told, and keeps what it was sent.
type api struct {
	got    [][]sikkerapi.Report
	answer func(rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error)
}

func (a *api) BulkReport(_ context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	a.got = append(a.got, rows)
	return a.answer(rows)
}

func all(rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	return sikkerapi.BulkReportResult{Total: len(rows), Accepted: len(rows)}, nil
}

func rows(n int) []report.Row {
	var rs []report.Row
	for i := range n {
		rs = append(rs, report.Row{Source: netip.AddrFrom4([4]byte{5, byte(i >> 16), byte(i >> 8), byte(i)}), Packets: 1})
	}
	return rs
}

func TestReport(t *testing.T) {
	t.Parallel()
	first := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	a := &api{answer: all}
	q := &queue{t: t, waiting: []report.Row{
		{Source: netip.MustParseAddr("203.0.113.9"), Service: "ssh", Packets: 47, Ports: []uint16{22, 2222}, First: first, Last: first.Add(time.Hour)},
		{Source: netip.MustParseAddr("2001:db8::1"), Packets: 1, First: first, Last: first},
	}}
	out, err := report.New(report.Options{Queue: q, API: a}).Deliver(t.Context())
	if err != nil || out.Rows != 2 || out.Accepted != 2 || q.sent != 2 || len(q.flying) != 0 {
		t.Fatalf("outcome %+v, %v; queue %+v", out, err, q)
	}
	var got []string
	for _, r := range a.got[0] {
		got = append(got, fmt.Sprintf("%s %s %q %s", r.IP, r.Category, r.Protocol, r.Comment))
	}
	want := []string{
		`203.0.113.9 port_scan "ssh" 47 packets dropped, to ports 22, 2222, from 2026-11-24T12:00:00Z to 2026-11-24T13:00:00Z`,
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
		flying, waiting int // afterwards, of three
		sent, rejected  int
		fails           bool
	}{
		{"OK a passing failure leaves the batch in flight", &sikkerapi.TemporaryError{Err: errors.New("503")}, 3, 0, 0, 0, true},
		{"OK a spent quota gives it back", &sikkerapi.QuotaError{RetryAfter: time.Hour}, 0, 3, 0, 0, true},
		{"OK a refused key gives it back", &sikkerapi.APIError{StatusCode: 401}, 0, 3, 0, 0, true},
		{"OK an answer in no known words counts as taken", fmt.Errorf("x: %w", sikkerapi.ErrMalformed), 0, 0, 3, 0, false},
		{"OK a batch that is refused for good is halved", &sikkerapi.APIError{StatusCode: 413}, 0, 3, 0, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := &queue{t: t, waiting: rows(3)}
			a := &api{answer: func([]sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
				return sikkerapi.BulkReportResult{}, tt.err
			}}
			_, err := report.New(report.Options{Queue: q, API: a}).Deliver(t.Context())
			if (err != nil) != tt.fails || len(q.flying) != tt.flying || len(q.waiting) != tt.waiting || q.sent != tt.sent || q.rejected != tt.rejected {
				t.Errorf("got %v; %d in flight, %d waiting, %d sent, %d rejected", err, len(q.flying), len(q.waiting), q.sent, q.rejected)
			}
		})
	}
}

// TestPoison has one row in a thousand that the API refuses each batch for: the others get through, and it is dropped.
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

// TestQuota spends what is left on the busiest, and then asks no more.
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
	if _, err := r.Deliver(t.Context()); err != nil { // tells the quota
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

func TestNothing(t *testing.T) {
	t.Parallel()
	a := &api{answer: all}
	if out, err := report.New(report.Options{Queue: &queue{t: t}, API: a}).Deliver(t.Context()); err != nil || out.Rows != 0 || len(a.got) != 0 {
		t.Errorf("got %+v, %v, %d requests", out, err, len(a.got))
	}
}
