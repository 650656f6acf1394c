package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/sikkerapi/sikkerguard/internal/clock"
	"github.com/sikkerapi/sikkerguard/internal/report"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// memory is a report queue and an API. The API answers with errs first, and then accepts every row.
// It is for one goroutine.
type memory struct {
	waiting, flying []report.Row
	errs            []error               // of the next requests
	rejects         []*sikkerapi.RowError // of each request that is answered
	at              []time.Time           // times of the requests
	knocks          func() report.Row     // a row that comes while the API answers; nil for none
}

func (m *memory) Queued(context.Context) (int, error) { return len(m.waiting) + len(m.flying), nil }

func (m *memory) Batch(_ context.Context, most int) ([]report.Row, error) {
	if len(m.flying) == 0 {
		n := min(most, len(m.waiting))
		m.flying, m.waiting = m.waiting[:n:n], m.waiting[n:]
	}
	return m.flying, nil
}

func (m *memory) Done(_ context.Context, _, _ int, again []report.Row) error {
	m.flying, m.waiting = nil, append(m.waiting, again...)
	return nil
}

func (m *memory) Return(context.Context) error {
	m.flying, m.waiting = nil, append(m.waiting, m.flying...)
	return nil
}

func (m *memory) Status(context.Context) (sikkerapi.Status, error) {
	return sikkerapi.Status{Quotas: sikkerapi.Quotas{Reports: sikkerapi.Usage{Limit: 1000, Remaining: 1000}}}, nil
}

func (m *memory) BulkReport(_ context.Context, rows []sikkerapi.Report) (sikkerapi.BulkReportResult, error) {
	m.at = append(m.at, time.Now())
	if m.knocks != nil {
		time.Sleep(time.Second)
		m.waiting = append(m.waiting, m.knocks())
	}
	if len(m.errs) > 0 {
		err := m.errs[0]
		m.errs = m.errs[1:]
		if err != nil {
			return sikkerapi.BulkReportResult{}, err
		}
	}
	n := len(rows) - len(m.rejects)
	return sikkerapi.BulkReportResult{Total: len(rows), Accepted: n, Rejected: len(m.rejects), Errors: m.rejects}, nil
}

func aRow(service string) report.Row {
	now := time.Now()
	return report.Row{Source: netip.MustParseAddr("203.0.113.9"), Service: service, Packets: 1, First: now, Last: now}
}

func (m *memory) Withdraw(context.Context, func(netip.Addr) bool) (int, error) { return 0, nil }

// newCourier returns a Courier that reports every 30 minutes, and its log.
func newCourier(m *memory) (*Courier, *zapobserver.ObservedLogs) {
	log, logs := logged()
	return NewCourier(CourierOptions{
		Store: m, API: m, Allowlist: &allowlist{}, Interval: 30 * time.Minute, Clock: clock.System(),
		Board: status.New(status.Options{PullInterval: time.Hour, Clock: clock.System(), Log: log}), Log: log,
		Kept: func() *status.Reports { return nil }, Unreached: func() {},
	}), logs
}

// TestDeliver checks when the Courier sends again and what it logs after each kind of answer of the
// API, over hours of a fake clock.
func TestDeliver(t *testing.T) {
	t.Parallel()
	down := &sikkerapi.TemporaryError{Endpoint: "POST /v1/key/bulk-report", Err: &sikkerapi.APIError{StatusCode: 503}}
	unclear := fmt.Errorf("POST /v1/key/bulk-report: %w: %w", sikkerapi.ErrMalformed, errors.New("no total"))
	tests := []struct {
		name     string
		m        memory
		rows     int // at the start
		during   time.Duration
		between  [][2]time.Duration // of each request, after the start
		warnings []string
		left     int
	}{
		{
			name: "OK reports at each interval", rows: 1, during: 61 * time.Minute,
			between: [][2]time.Duration{{30 * time.Minute, 30 * time.Minute}},
		},
		{
			name: "bad the quota is spent: waits as long as the API asks", rows: 1, during: 5 * time.Hour,
			m: memory{errs: []error{&sikkerapi.QuotaError{RetryAfter: 3 * time.Hour}}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute}, {210*time.Minute + time.Second, 211 * time.Minute},
			},
		},
		{
			name: "bad the key is refused: one warning, and a request each hour", rows: 1, during: 3 * time.Hour,
			m: memory{errs: []error{&sikkerapi.APIError{StatusCode: 401}, &sikkerapi.APIError{StatusCode: 403}}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute},
				{90 * time.Minute, 90 * time.Minute},
				{150 * time.Minute, 150 * time.Minute},
			},
			warnings: []string{"SikkerAPI refuses the key"},
		},
		{
			name: "bad the API is down: the waits grow, one warning", rows: 1, during: 5 * time.Hour,
			m: memory{errs: []error{down, down, down}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute},
				{30*time.Minute + 2*time.Second, 30*time.Minute + 8*time.Second},
				{30*time.Minute + 7*time.Second, 30*time.Minute + 23*time.Second},
				{30*time.Minute + 17*time.Second, 30*time.Minute + 53*time.Second},
			},
			warnings: []string{"Reports do not get through"},
		},
		{
			name: "bad answers that prove nothing: one warning, two requests soon, then rare ones",
			rows: 1, during: 8 * time.Hour,
			m: memory{errs: []error{unclear, unclear, unclear, nil}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute},
				{30*time.Minute + 2*time.Second, 30*time.Minute + 8*time.Second},
				{120 * time.Minute, 121 * time.Minute},
				{300 * time.Minute, 301 * time.Minute},
			},
			warnings: []string{"Reports do not get through"},
		},
		{
			name: "bad a CDN asks for a week: a request within the hour", rows: 1, during: 2 * time.Hour,
			m: memory{errs: []error{&sikkerapi.TemporaryError{RetryAfter: 24 * time.Hour, Err: errors.New("503")}}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute}, {90 * time.Minute, 91 * time.Minute},
			},
			warnings: []string{"Reports do not get through"},
		},
		{
			name: "bad the API asks for a negative wait: there is a wait", rows: 1, during: 45 * time.Minute,
			m: memory{errs: []error{&sikkerapi.QuotaError{RetryAfter: -100 * time.Hour}}},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute}, {30*time.Minute + time.Second, 31 * time.Minute},
			},
		},
		{
			name: "bad rows are rejected: one warning a reason", rows: 3, during: 61 * time.Minute,
			m:        memory{rejects: []*sikkerapi.RowError{{Row: 1, Reason: "too old"}, {Row: 2, Reason: "too old"}}},
			between:  [][2]time.Duration{{30 * time.Minute, 30 * time.Minute}},
			warnings: []string{"SikkerAPI rejects reports for this reason"},
		},
		{
			name: "OK a row that comes meanwhile waits for the next interval",
			rows: 1, during: 61 * time.Minute, left: 1,
			m: memory{knocks: func() report.Row { return aRow("ssh") }},
			between: [][2]time.Duration{
				{30 * time.Minute, 30 * time.Minute},
				{60 * time.Minute, 60*time.Minute + time.Second},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, start := tt.m, time.Now()
				c, logs := newCourier(&m)
				for range tt.rows {
					m.waiting = append(m.waiting, aRow("ssh"))
				}
				ctx, cancel := context.WithTimeout(t.Context(), tt.during)
				defer cancel()
				if err := c.Run(ctx); err != nil {
					t.Error(err)
				}
				if len(m.at) != len(tt.between) {
					t.Fatalf("%d requests at %v, want %d", len(m.at), m.at, len(tt.between))
				}
				for i, want := range tt.between {
					if after := m.at[i].Sub(start); after < want[0] || after > want[1] {
						t.Errorf("request %d came after %v, want %v to %v", i+1, after, want[0], want[1])
					}
				}
				if n := len(m.waiting) + len(m.flying); n != tt.left {
					t.Errorf("%d rows are left, want %d", n, tt.left)
				}
				warnings := logs.FilterLevelExact(zap.WarnLevel).All()
				if len(warnings) != len(tt.warnings) {
					t.Fatalf("%d warnings %v, want %v", len(warnings), warnings, tt.warnings)
				}
				for i, w := range tt.warnings {
					if !strings.HasPrefix(warnings[i].Message, w) {
						t.Errorf("warning %q, want %q", warnings[i].Message, w)
					}
				}
				if n := logs.FilterLevelExact(zapcore.ErrorLevel).Len(); n != 0 {
					t.Errorf("%d errors", n)
				}
			})
		})
	}
}

// TestLastBatchInDoubt checks that a batch that was sent as often as allowed is not sent again when
// the agent stops.
func TestLastBatchInDoubt(t *testing.T) {
	t.Parallel()
	unclear := fmt.Errorf("x: %w: %w", sikkerapi.ErrMalformed, errors.New("no total"))
	m := &memory{waiting: []report.Row{aRow("ssh"), aRow("http")}, errs: []error{unclear, unclear}}
	c, _ := newCourier(m)
	_, _ = c.reporter.Deliver(t.Context())
	for range 2 { // the first call sends it for the second time
		if err := c.Last(); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.at) != 2 || len(m.waiting)+len(m.flying) != 2 {
		t.Errorf("sent %d times, %d rows are kept; want 2 and 2", len(m.at), len(m.waiting)+len(m.flying))
	}
}

// TestLastBatchWithoutTheDatabase checks that a stop does not claim that rows are kept in a
// database that was never opened, because the state directory is not used.
func TestLastBatchWithoutTheDatabase(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"OK unusable directory", &statedir.UnusableError{Err: errors.New("read-only file system")}, 0},
		{"bad full disk", errors.New("database or disk is full"), 1},
	} {
		c, logs := newCourier(&memory{waiting: []report.Row{aRow("ssh")}, errs: []error{tt.err}})
		if err := c.Last(); err != nil {
			t.Fatal(err)
		}
		if got := logs.FilterLevelExact(zap.WarnLevel).Len(); got != tt.want {
			t.Errorf("%s: %d warnings, want %d", tt.name, got, tt.want)
		}
	}
}

// TestUnreachedAPI checks that Unreached is called after a report that does not reach the API,
// which may have moved to a listed address, and not after one that is answered.
func TestUnreachedAPI(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		want int
	}{
		{"OK no connection", &sikkerapi.TemporaryError{Err: errors.New("connection refused")}, 1},
		{"bad quota", &sikkerapi.QuotaError{RetryAfter: time.Hour}, 0},
		{"bad key", sikkerapi.ErrUnauthorized, 0},
	} {
		c, _ := newCourier(&memory{})
		got := 0
		c.o.Unreached = func() { got++ }
		if c.failed(tt.err); got != tt.want {
			t.Errorf("%s: Unreached is called %d times, want %d", tt.name, got, tt.want)
		}
	}
}

// TestUnconfirmedReportsAreACondition checks that a failed report is in the status until a report
// succeeds, no row waits, or the API answers that the quota is spent. The next failure is then logged
// again.
func TestUnconfirmedReportsAreACondition(t *testing.T) {
	t.Parallel()
	down := &sikkerapi.TemporaryError{Err: errors.New("503")}
	for name, ends := range map[string]func(*memory){
		"a report succeeds": func(*memory) {},
		"no row waits":      func(m *memory) { m.waiting, m.flying = nil, nil },
		"the quota is spent": func(m *memory) {
			m.errs = []error{&sikkerapi.QuotaError{RetryAfter: 10 * time.Hour}}
		},
	} {
		m := &memory{waiting: []report.Row{aRow("ssh")}, errs: []error{down}}
		c, logs := newCourier(m)
		c.sendAll(t.Context())
		if !c.o.Board.Latest().Holds(status.CondReports) {
			t.Errorf("%s: a failed report is not in the status", name)
		}
		ends(m)
		c.sendAll(t.Context())
		if c.o.Board.Latest().Holds(status.CondReports) {
			t.Errorf("%s: the failure before it is still in the status", name)
		}
		m.waiting, m.errs = []report.Row{aRow("ssh")}, []error{down}
		c.sendAll(t.Context())
		if n := logs.FilterLevelExact(zap.WarnLevel).Len(); n != 2 {
			t.Errorf("%s: two failures are logged %d times", name, n)
		}
	}
}
