package feed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// pullTimeout is the longest duration of a pull, from the first packet to the last byte of the
// body. 64 MiB in 5 minutes are 1.8 Mbit/s.
const pullTimeout = 5 * time.Minute

// Lister is the part of the client of the API that Sikker needs.
type Lister interface {
	Blacklist(ctx context.Context, q sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error)
}

// SikkerOptions are the settings of a Sikker.
type SikkerOptions struct {
	API      Lister
	URL      string // base URL of the API; for the Identity alone
	Key      string // API key; for the Identity alone
	ScoreMin int    // lowest confidence score, 1–100
}

// Sikker is the feed of SikkerAPI. In memory it holds the quota for pulls.
type Sikker struct {
	o      SikkerOptions
	quota  sikkerapi.LatestQuota
	asJSON atomic.Bool // lists are requested as JSON, which shows its own end
}

// NewSikker returns the feed of SikkerAPI. It fetches nothing yet.
func NewSikker(o SikkerOptions) *Sikker { return &Sikker{o: o} }

// SikkerName is the name of SikkerAPI's feed.
const SikkerName = "sikker"

// Name returns SikkerName.
func (f *Sikker) Name() string { return SikkerName }

// Identity returns the API, the key and the score as the origin.
func (f *Sikker) Identity() Identity {
	score := strconv.Itoa(f.o.ScoreMin)
	return Identity{From: f.o.URL, Request: checksum(f.o.URL, f.o.Key, score), Source: checksum(f.o.URL, score)}
}

// Fetch requests the blacklist from the API. The caller reads the body, an address or network per
// line, and closes it. Reading fails if the body is cut short, if it is longer than
// sikkerapi.BlacklistMaxBytes, or if the pull takes longer than five minutes in total. The errors
// are those of sikkerapi.Client.Blacklist.
//
// If a text has no length and does not end its last line, it may have been cut short, or the API
// may write its lists in this way. Later calls of Fetch then request JSON, which shows whether it
// is complete and has the number of entries.
func (f *Sikker) Fetch(ctx context.Context) (io.ReadCloser, error) {
	ctx, cancel := context.WithTimeout(ctx, pullTimeout)
	s, err := f.ask(ctx)
	if err != nil {
		cancel()
		if quota, ok := errors.AsType[*sikkerapi.QuotaError](err); ok {
			f.quota.Store(quota.Quota, time.Now())
		}
		return nil, err
	}
	f.quota.Store(s.Quota, time.Now())
	return &body{ReadCloser: s, cancel: cancel, unended: func() { f.asJSON.Store(true) }}, nil
}

// jsonLister is an API that also provides the list as JSON.
type jsonLister interface {
	BlacklistJSON(ctx context.Context, q sikkerapi.BlacklistQuery) (sikkerapi.BlacklistResponse, error)
}

// ask requests the list as text. If asJSON is set, it requests JSON and converts it to text, until
// a request fails.
func (f *Sikker) ask(ctx context.Context) (*sikkerapi.BlacklistStream, error) {
	q := sikkerapi.BlacklistQuery{ScoreMinimum: f.o.ScoreMin}
	api, ok := f.o.API.(jsonLister)
	if !f.asJSON.Load() || !ok {
		return f.o.API.Blacklist(ctx, q)
	}
	res, err := api.BlacklistJSON(ctx, q)
	if err != nil {
		f.asJSON.Store(false)
		return nil, err
	}
	var text []byte
	for _, e := range res.Entries {
		text = append(e.Prefix.AppendTo(text), '\n')
	}
	return &sikkerapi.BlacklistStream{ReadCloser: io.NopCloser(bytes.NewReader(text)), Quota: res.Quota}, nil
}

// Quota returns the latest quota for pulls from the API, with Reset set. Known is false until there
// is one. Any goroutine may call it.
func (f *Sikker) Quota() sikkerapi.Quota { return f.quota.Load() }

// SetQuota sets the quota that an earlier run left, until the API sends a new one.
func (f *Sikker) SetQuota(q sikkerapi.Quota) { f.quota.Store(q, time.Now()) }

// body ends the deadline of the pull when it is closed.
type body struct {
	io.ReadCloser

	cancel  context.CancelFunc
	unended func() // called if the text may have been cut short
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, sikkerapi.ErrUnended) {
		b.unended()
	}
	return n, err
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
