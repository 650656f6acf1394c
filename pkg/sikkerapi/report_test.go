package sikkerapi

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBulkReport(t *testing.T) {
	t.Parallel()
	var got string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got = r.Method + " " + r.URL.String() + " " + r.Header.Get("Content-Type") + " " +
			strings.TrimSpace(string(raw))
		w.Header().Set("X-Report-Limit", "1000")
		w.Header().Set("X-Report-Remaining", "999")
		_, _ = io.WriteString(w, `{"total": 2, "accepted": 1, "rejected": 1,
			"errors": [{"row": 2, "ip": "10.0.0.1", "error": "private\u001b address"}]}`)
	})
	res, err := c.BulkReport(t.Context(), []Report{
		{IP: netip.MustParseAddr("::ffff:203.0.113.9"), Category: PortScan, Protocol: "ssh", Comment: "<47 packets>"},
		{IP: netip.MustParseAddr("10.0.0.1"), Category: Other},
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := `POST /v1/key/bulk-report application/json {"reports":[` +
		`{"ip":"203.0.113.9","category":"port_scan","protocol":"ssh","comment":"<47 packets>"},` +
		`{"ip":"10.0.0.1","category":"other"}]}`
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	want := BulkReportResult{
		Total: 2, Accepted: 1, Rejected: 1, Errors: []*RowError{{Row: 2, IP: "10.0.0.1", Reason: "private address"}},
		Quota: Quota{Known: true, Limit: 1000, Used: 1, Remaining: 999},
	}
	if diff := cmp.Diff(want, res); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestBulkReportRefusesRows(t *testing.T) {
	t.Parallel()
	good := Report{IP: netip.MustParseAddr("203.0.113.9"), Category: PortScan}
	with := func(change func(*Report)) []Report {
		r := good
		change(&r)
		return []Report{good, r}
	}
	full := make([]Report, MaxReports+1)
	for i := range full {
		full[i] = good
	}
	long := make([]Report, 2000)
	for i := range long {
		long[i] = good
		long[i].Comment = strings.Repeat("x", MaxComment)
	}
	tests := []struct {
		name string
		rows []Report
		want string // in the error; "" for none
	}{
		{name: "OK none"},
		{name: "OK most rows", rows: full[:MaxReports]},
		{name: "OK longest texts", rows: with(func(r *Report) {
			r.Protocol, r.Comment = strings.Repeat("é", MaxProtocol), strings.Repeat("é", MaxComment)
		})},
		{name: "bad too many rows", rows: full, want: "10001 rows"},
		{name: "bad too many bytes", rows: long, want: "at most 2000000"},
		{name: "bad address", rows: with(func(r *Report) { r.IP = netip.Addr{} }), want: "row 2"},
		{name: "bad zone", rows: with(func(r *Report) { r.IP = netip.MustParseAddr("fe80::1%eth0") }), want: "row 2"},
		{name: "bad category", rows: with(func(r *Report) { r.Category = 0 }), want: "row 2"},
		{name: "bad category above", rows: with(func(r *Report) { r.Category = 17 }), want: "row 2"},
		{
			name: "bad protocol", rows: with(func(r *Report) { r.Protocol = strings.Repeat("é", MaxProtocol+1) }),
			want: "33 characters",
		},
		{
			name: "bad comment", rows: with(func(r *Report) { r.Comment = strings.Repeat("é", MaxComment+1) }),
			want: "1001 characters",
		},
		{name: "bad UTF-8", rows: with(func(r *Report) { r.Comment = "\xff" }), want: "UTF-8"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			asked := 0
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				asked++
				_, _ = fmt.Fprintf(w, `{"total": %[1]d, "accepted": %[1]d}`, len(tt.rows))
			})
			_, err := c.BulkReport(t.Context(), tt.rows)
			switch {
			case tt.want == "":
				if err != nil || asked != min(1, len(tt.rows)) {
					t.Errorf("%d requests: %v", asked, err)
				}
				return
			case err == nil || !strings.Contains(err.Error(), tt.want) || asked != 0:
				t.Errorf("%d requests: got %v, want %q", asked, err, tt.want)
			}
			row, isRow := errors.AsType[*RowError](err)
			if isRow == errors.Is(err, ErrBatchTooLarge) || isRow && row.Row != 2 {
				t.Errorf("neither the row nor the batch is named: %v", err)
			}
		})
	}
}

func TestBulkReportDistrustsAnswer(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		``, `{}`, `[]`,
		`{"total": 2, "accepted": 2}`,
		`{"total": 2, "accepted": 1}`, // of another batch
		`{"total": 0, "accepted": 1}`,
		`{"total": 1, "accepted": 2, "rejected": -1}`,
		`{"total": 1, "accepted": 0}`,
		`{"total": 1, "accepted": 1, "errors": [{"row": 1}]}`,
		`{"total": 1, "rejected": 1, "errors": [{"row": 0}]}`,
		`{"total": 1, "rejected": 1, "errors": [{"row": 2}]}`,
		`{"total": 1, "rejected": 1, "errors": [null]}`,
		`{"total": 1, "rejected": 1}`,
		`{"total": 1, "accepted": null, "rejected": 1}`,
		`{"accepted": 1}`,
		`{"error": "maintenance"}`,
		`<html>Sign in</html>`,
	} {
		for _, status := range []int{200, 201, 202, 203, 206} {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, raw)
			})
			res, err := c.BulkReport(t.Context(),
				[]Report{{IP: netip.MustParseAddr("203.0.113.9"), Category: PortScan}})
			if !errors.Is(err, ErrMalformed) || !cmp.Equal(res, BulkReportResult{}) {
				t.Errorf("%d %s: %+v, %v", status, raw, res, err)
			}
		}
	}
}

// TestBulkReportTaken checks that rows are accepted with any status of success if the counts exist
// and add up.
func TestBulkReportTaken(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 201, 202, 207} {
		for _, raw := range []string{`{"total": 1, "accepted": 1}`, `{"total": 1, "accepted": 0, "rejected": 1}`} {
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, raw)
			})
			res, err := c.BulkReport(t.Context(),
				[]Report{{IP: netip.MustParseAddr("203.0.113.9"), Category: PortScan}})
			if err != nil || res.Total != 1 {
				t.Errorf("%d %s: %+v, %v", status, raw, res, err)
			}
		}
	}
}
