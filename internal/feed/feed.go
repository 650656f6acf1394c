// Package feed fetches the lists: the blacklist from SikkerAPI, the operator's file, and the saved
// copies of the last good lists in the state directory.
//
// It returns bytes, limited in size, and decides nothing about them: package vet parses them, and
// the agent retries. It fails with the errors of the client (unauthorised, quota, temporary), or if
// a file cannot be read or written. If a list is cut short or too long, reading it fails. If a
// saved copy has changed, the error is a *DamagedError.
package feed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// pullTimeout is the longest duration of a pull, from the first packet to the last byte of the
// body. 64 MiB in 5 minutes are 1.8 Mbit/s.
const pullTimeout = 5 * time.Minute

// Lister is the part of the client of the API that Feed needs.
type Lister interface {
	Blacklist(ctx context.Context, q sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error)
}

// Options are the settings of a Feed.
type Options struct {
	API      Lister
	URL      string // base URL of the API; used only for Request and Source
	Key      string // API key; used only for Request
	ScoreMin int    // lowest confidence score, 1–100
	Custom   string // path of the operator's list; empty if there is none

	CustomCopy string // name of its copy in the state directory
	StateDir   string // directory of the saved lists
	// Guard makes the state directory if it does not exist, and returns an error if its files must
	// not be used now. If nil, the Feed only makes the directory.
	Guard func() error
}

// Feed fetches lists. In memory it holds the quota and the size of the largest list of the last
// days.
type Feed struct {
	o      Options
	quota  sikkerapi.LatestQuota
	asJSON atomic.Bool // lists are requested as JSON, which shows its own end
	copies copies

	mu      sync.Mutex // guards largest
	largest largest
}

// New returns a Feed. It fetches nothing.
func New(o Options) *Feed {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.StateDir, 0o700) }
	}
	return &Feed{o: o}
}

// Pull requests the blacklist from the API. The caller reads the body, an address or network per
// line, and closes it. Reading fails if the body is cut short, if it is longer than
// sikkerapi.BlacklistMaxBytes, or if the pull takes longer than five minutes in total. The errors
// are those of sikkerapi.Client.Blacklist.
//
// If a text has no length and does not end its last line, it may have been cut short, or the API
// may write its lists in this way. Later calls of Pull then request JSON, which shows whether it is
// complete and has the number of entries.
func (f *Feed) Pull(ctx context.Context) (io.ReadCloser, error) {
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
func (f *Feed) ask(ctx context.Context) (*sikkerapi.BlacklistStream, error) {
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
func (f *Feed) Quota() sikkerapi.Quota { return f.quota.Load() }

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
