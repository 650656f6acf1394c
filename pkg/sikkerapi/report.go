package sikkerapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"unicode/utf8"
)

// The limits of a bulk report.
const (
	MaxReports     = 10_000    // rows
	MaxReportBytes = 2_000_000 // bytes of JSON: "2 MB", in the smaller of its two meanings
	MaxProtocol    = 32        // characters
	MaxComment     = 1000      // characters
)

// Report is one row of a bulk report.
type Report struct {
	IP       netip.Addr `json:"ip"`
	Category Category   `json:"category"`
	Protocol string     `json:"protocol,omitempty"` // like "ssh"; at most MaxProtocol characters
	Comment  string     `json:"comment,omitempty"`  // public; at most MaxComment characters
}

// RowError is a row that was not accepted by the API, or by this package before it was sent.
type RowError struct {
	Row    int    `json:"row"`   // from 1, in the order of the reports
	IP     string `json:"ip"`    // in the form of the API; text from outside, printable
	Reason string `json:"error"` // text from outside, at most 200 characters, all printable
}

func (e *RowError) Error() string { return fmt.Sprintf("row %d: %q: %q", e.Row, e.IP, e.Reason) }

// BulkReportResult is the result of a bulk report. Rows without an error were accepted.
type BulkReportResult struct {
	Total    int         `json:"total"`
	Accepted int         `json:"accepted"`
	Rejected int         `json:"rejected"`
	Errors   []*RowError `json:"errors"` // Row is 1 to the number of reports
	Quota    Quota       `json:"-"`
}

// BulkReport reports addresses. The API decides about each row; rejected rows are not an error.
// Without reports no request is sent.
//
// Rows count as accepted only if the answer has a status of success, any 2xx, if its total is the
// number of rows, and if its accepted and rejected rows add up to the total. Any other answer of
// success is ErrMalformed: an accepting status alone (202, 204) proves nothing, because proxies and
// challenge pages also send it.
//
// If a row breaks the limits, BulkReport sends nothing and returns a *RowError for the first such
// row, or ErrBatchTooLarge. After a *TemporaryError, ErrMalformed or the end of the context the
// rows may have been accepted or not.
func (c *Client) BulkReport(ctx context.Context, reports []Report) (BulkReportResult, error) {
	if len(reports) == 0 {
		return BulkReportResult{}, nil
	}
	raw, err := encodeReports(reports)
	if err != nil {
		return BulkReportResult{}, fmt.Errorf("check reports: %w", err)
	}
	var res BulkReportResult
	r := request{method: http.MethodPost, path: "/v1/key/bulk-report", body: bytes.NewReader(raw), anySuccess: true}
	err = c.smallCall(ctx, r, func(raw []byte, q Quota) (err error) {
		res, err = c.decodeReportResult(raw, len(reports))
		res.Quota = q
		return err
	})
	if err != nil {
		return BulkReportResult{}, err
	}
	return res, nil
}

// encodeReports checks the rows and returns the body of the request.
func encodeReports(reports []Report) ([]byte, error) {
	if len(reports) > MaxReports {
		return nil, fmt.Errorf("%w: %d rows, at most %d", ErrBatchTooLarge, len(reports), MaxReports)
	}
	rows := make([]Report, len(reports))
	for i, r := range reports {
		r.IP = r.IP.Unmap()
		if reason := r.problem(); reason != "" {
			return nil, &RowError{Row: i + 1, IP: r.IP.String(), Reason: reason}
		}
		rows[i] = r
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // six bytes for a < would fill the request sooner
	if err := enc.Encode(map[string][]Report{"reports": rows}); err != nil {
		return nil, err
	}
	if buf.Len() > MaxReportBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrBatchTooLarge, buf.Len(), MaxReportBytes)
	}
	return buf.Bytes(), nil
}

// problem returns the reason why the API would refuse the row, or "".
func (r Report) problem() string {
	switch {
	case !r.IP.IsValid():
		return "address is missing"
	case r.IP.Zone() != "":
		return "address has a zone"
	case !r.Category.Valid():
		return fmt.Sprintf("category %d is none of 1 to %d", int(r.Category), int(Other))
	case !utf8.ValidString(r.Protocol) || !utf8.ValidString(r.Comment):
		return "protocol or comment is not UTF-8"
	case utf8.RuneCountInString(r.Protocol) > MaxProtocol:
		return fmt.Sprintf("protocol has %d characters, at most %d", utf8.RuneCountInString(r.Protocol), MaxProtocol)
	case utf8.RuneCountInString(r.Comment) > MaxComment:
		return fmt.Sprintf("comment has %d characters, at most %d", utf8.RuneCountInString(r.Comment), MaxComment)
	default:
		return ""
	}
}

// decodeReportResult decodes the answer to a number of rows. It refuses impossible counts and row
// numbers, because the caller relies on them.
func (c *Client) decodeReportResult(raw []byte, rows int) (BulkReportResult, error) {
	var res BulkReportResult
	var counts struct {
		Total    *int `json:"total"`
		Accepted *int `json:"accepted"`
	}
	if err := errors.Join(json.Unmarshal(raw, &res), json.Unmarshal(raw, &counts)); err != nil {
		return BulkReportResult{}, err
	}
	if counts.Total == nil || counts.Accepted == nil {
		return BulkReportResult{}, fmt.Errorf("it has no counts of accepted rows: %q", c.text(string(raw), maxMessage))
	}
	if res.Total != rows || res.Accepted < 0 || res.Rejected < 0 || res.Accepted != rows-res.Rejected ||
		len(res.Errors) > res.Rejected {
		return BulkReportResult{},
			fmt.Errorf("%d rows in all, %d accepted, %d rejected, %d errors, of %d that were sent",
				res.Total, res.Accepted, res.Rejected, len(res.Errors), rows)
	}
	for _, e := range res.Errors {
		switch {
		case e == nil:
			return BulkReportResult{}, errors.New("an error is null")
		case e.Row < 1 || e.Row > rows:
			return BulkReportResult{}, fmt.Errorf("an error is about row %d of %d", e.Row, rows)
		}
		e.IP, e.Reason = c.text(e.IP, maxMessage), c.text(e.Reason, maxMessage)
	}
	return res, nil
}
