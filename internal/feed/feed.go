// Package feed fetches the lists: the blacklist from SikkerAPI, the operator's own file, and the copy of the last good
// list in the state directory.
//
// It hands out bytes, capped, and decides nothing about them: reading them is the vetting's work, retrying the agent's.
// It fails with what the client says (unauthorised, quota, temporary), or because a file cannot be read or written. A list
// that is cut short or too long fails while it is read. A copy that is not what was kept is a *DamagedError.
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

// pullTimeout ends a pull, from the first packet to the last byte of the body: 64 MiB in 5 minutes are 1.8 Mbit/s.
const pullTimeout = 5 * time.Minute

// Lister is what the feed needs of the API's client.
type Lister interface {
	Blacklist(ctx context.Context, q sikkerapi.BlacklistQuery) (*sikkerapi.BlacklistStream, error)
}

// Options say what to fetch, and where to keep it.
type Options struct {
	API      Lister
	URL      string // the API's base URL, and
	Key      string // the key: they make a list's Request, nothing else
	ScoreMin int    // lowest confidence score, 1–100
	Custom   string // path of the operator's list; empty: none

	CustomCopy string // name of its copy in the state directory
	StateDir   string // where the last good list is kept
	// Guard makes the state directory if need be, and returns why its files must not be used now; nil: it is only made.
	Guard func() error
}

// Feed fetches lists. In memory it keeps the quota, and how large the largest list of the last days was.
type Feed struct {
	o      Options
	quota  sikkerapi.LatestQuota
	asJSON atomic.Bool // lists are asked for as JSON, which shows where it ends
	copies copies

	mu      sync.Mutex // guards largest
	largest largest
}

// New makes a Feed. Nothing is fetched yet.
func New(o Options) *Feed {
	if o.Guard == nil {
		o.Guard = func() error { return os.MkdirAll(o.StateDir, 0o700) }
	}
	return &Feed{o: o}
}

// Pull asks the API for the blacklist. The caller reads the body, an address or network a line, and closes it; reading
// fails when the body is cut short or longer than sikkerapi.BlacklistMaxBytes, and when the pull takes longer than five
// minutes in all. The errors are those of sikkerapi.Client.Blacklist.
//
// A text that has no length and does not end its last line may have been cut short, or be how the API writes its lists. The
// next Pulls then ask for JSON, which shows whether it is whole, and tells how many entries it has.
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

// jsonLister is an API that also gives the list as JSON.
type jsonLister interface {
	BlacklistJSON(ctx context.Context, q sikkerapi.BlacklistQuery) (sikkerapi.BlacklistResponse, error)
}

// ask asks for the list as text, or as JSON, from which it makes the text, until that fails.
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

// Quota returns the latest quota for pulls from the API, with Reset set. Known is false until there is
// one. Any goroutine may call it.
func (f *Feed) Quota() sikkerapi.Quota { return f.quota.Load() }

// body ends the pull's deadline when it is closed.
type body struct {
	io.ReadCloser

	cancel  context.CancelFunc
	unended func() // is called if the text may have been cut short
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
