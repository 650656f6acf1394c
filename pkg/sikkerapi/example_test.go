package sikkerapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// standIn returns a client of a server that answers like SikkerAPI.
func standIn() (*sikkerapi.Client, func()) {
	mux := http.NewServeMux()
	answer := func(pattern, text string) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	answer("GET /v1/key/blacklist", "203.0.113.9\n2001:db8::/64\n")
	answer("POST /v1/key/bulk-report", `{"total": 2, "accepted": 1, "rejected": 1,
		"errors": [{"row": 2, "ip": "10.0.0.1", "error": "private address"}]}`)
	answer("GET /v1/key/check/203.0.113.9", `{"ip": "203.0.113.9", "found": true, "confidenceLevel": 97,
		"geolocation": {"countryCode": "NL"}}`)
	mux.HandleFunc("GET /v1/key/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(http.StatusTooManyRequests)
	})
	srv := httptest.NewServer(mux)
	client, err := sikkerapi.New("sk_test_example", sikkerapi.WithBaseURL(srv.URL))
	if err != nil {
		log.Fatal(err)
	}
	return client, func() {
		client.CloseIdleConnections()
		srv.Close()
	}
}

func ExampleClient_Blacklist() {
	client, stop := standIn()
	defer stop()

	// The deadline also covers the body: nothing else ends one that stalls.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	list, err := client.Blacklist(ctx, sikkerapi.BlacklistQuery{ScoreMinimum: 75})
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = list.Close() }()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		fmt.Println(lines.Text())
	}
	if err := lines.Err(); err != nil {
		log.Print(err) // too large, cut short or corrupt
	}
	// Output:
	// 203.0.113.9
	// 2001:db8::/64
}

func ExampleClient_BulkReport() {
	client, stop := standIn()
	defer stop()

	res, err := client.BulkReport(context.Background(), []sikkerapi.Report{
		{IP: netip.MustParseAddr("203.0.113.9"), Category: sikkerapi.BruteForce, Protocol: "ssh"},
		{IP: netip.MustParseAddr("10.0.0.1"), Category: sikkerapi.PortScan},
	})
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println("accepted:", res.Accepted)
	for _, e := range res.Errors {
		fmt.Println(e)
	}
	// Output:
	// accepted: 1
	// row 2: "10.0.0.1": "private address"
}

func ExampleClient_Check() {
	client, stop := standIn()
	defer stop()

	res, err := client.Check(context.Background(), netip.MustParseAddr("203.0.113.9"))
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(res.IP, res.ConfidenceLevel, res.Geolocation.CountryCode)
	// Output: 203.0.113.9 97 NL
}

func ExampleQuotaError() {
	client, stop := standIn()
	defer stop()

	_, err := client.Status(context.Background())
	var (
		quota     *sikkerapi.QuotaError
		temporary *sikkerapi.TemporaryError
	)
	switch {
	case err == nil:
		fmt.Println("fine")
	case errors.As(err, &quota):
		fmt.Println("come back in", quota.RetryAfter)
	case errors.As(err, &temporary):
		fmt.Println("try again soon, not before", temporary.RetryAfter)
	case errors.Is(err, sikkerapi.ErrUnauthorized):
		fmt.Println("look at the key")
	default:
		fmt.Println("give up:", err)
	}
	// Output: come back in 1m30s
}
