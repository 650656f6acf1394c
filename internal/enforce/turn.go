package enforce

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/memory"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/vet"
	"github.com/sikkerapi/sikkerguard/pkg/sikkerapi"
)

// order is a request for a pull of each feed.
type order struct {
	accept bool             // activate the list that was refused
	askers []chan<- Outcome // each has room for one Outcome of each feed, so that a send never waits
}

// Outcome is the result of a pull, for its asker.
type Outcome struct {
	OK   bool
	Text string // a sentence
}

// turn is one pull of a feed and its result. It has a goroutine of its own, so that Run does not
// wait for the network.
type turn struct {
	remote  *remote
	order   order
	before  host.Whitelist // the host when the turn began, if it did not reach the API
	verdict vet.Verdict
	err     error // of the pull
}

// fetcher is the part of a feed that a turn uses.
type fetcher interface {
	Fetch(ctx context.Context) (io.ReadCloser, error)
}

// Pull has Run pull each feed, and returns the outcome. If accept is true, the list that a guard
// refused last is accepted. It may be called by any goroutine.
func (e *Enforcer) Pull(ctx context.Context, accept bool) Outcome {
	doneC := make(chan Outcome, len(e.remotes))
	select {
	case e.loop.pullC <- order{accept: accept, askers: []chan<- Outcome{doneC}}:
	case <-ctx.Done():
		return Outcome{Text: "The agent is stopping"}
	}
	var last Outcome // which has the failures of every feed; the ones before it may have those of an earlier pull
	for range e.remotes {
		select {
		case last = <-doneC:
		case <-ctx.Done():
			return Outcome{Text: "The agent is stopping"}
		}
	}
	return last
}

// beginAll begins a turn of every feed.
func (e *Enforcer) beginAll(ctx context.Context, o order) {
	for _, r := range e.remotes {
		e.begin(ctx, r, o)
	}
}

// begin begins a turn of r. If one is under way, the new turn follows it.
func (e *Enforcer) begin(ctx context.Context, r *remote, o order) {
	readC := e.own.reader.ask() // a pull that hangs does not delay the operator's list
	mostC := e.own.reader.patience()
	if r.busy {
		if q := r.queued; q != nil {
			o.accept, o.askers = o.accept || q.accept, append(q.askers, o.askers...)
		}
		r.queued = &o
		return
	}
	r.busy = true
	if e.active.rules == nil {
		e.beginBaseline(ctx)
	}
	vo := r.vetOptions()
	go func() { // it ends when Run receives the turn, at the latest in stop
		surveyedC := e.surveys.ask() // the survey that the list is judged by is not older than the pull
		first := inBackground(func() (host.Whitelist, error) { return e.surveys.first(ctx), nil })
		t := turn{remote: r, order: o}
		if err := panics.Contain(func() error {
			t.verdict, t.err = fetch(ctx, r.feed, vo, e.o.Memory)
			return nil
		}); err != nil {
			t.err = err
		}
		if unreached(t.err) {
			t.before, _ = first()
			e.surveys.ask() // the API may have another address
		}
		e.surveys.await(ctx, surveyedC, surveyMost)
		awaitOwn(ctx, readC, mostC)
		e.loop.turnC <- t
	}()
}

// end begins the next turn of r if one was requested.
func (e *Enforcer) end(ctx context.Context, r *remote) {
	r.busy = false
	if q := r.queued; q != nil {
		r.queued = nil
		e.begin(ctx, r, *q)
	}
}

// finish applies the result of a turn and schedules the next.
func (e *Enforcer) finish(ctx context.Context, t turn) {
	r, l := t.remote, &e.loop
	r.busy, l.current = false, &t
	e.updateOwn()
	r.next.Reset(e.refresh(ctx, t))
	l.current = nil
	r.offline.pulled(t.err, t.before)
	if ctx.Err() == nil {
		e.logRunning()
	}
	e.retestExemptions(ctx)
	e.end(ctx, r)
	e.pullIfNetwork()
}

// refresh applies the result of a pull, logs the outcome, and returns the delay until the next
// pull. After a failure the active rules stay.
func (e *Enforcer) refresh(ctx context.Context, t turn) time.Duration {
	r := t.remote
	if ctx.Err() != nil {
		return e.o.PullInterval
	}
	if t.order.accept {
		e.trials.rejected, r.rejected = nil, nil // the operator requests another attempt
		e.own.clearRejection()
	}
	e.judge(t)
	if err := e.applyAll(ctx); err == nil {
		e.testAfterPull(ctx, t.err)
	}
	if ctx.Err() != nil {
		return e.o.PullInterval
	}
	wait := e.nextPull(r)
	if r.failure != nil || e.attempts.err != nil {
		e.logFailure(min(wait, e.attempts.retry.Left()))
	}
	e.publish()
	e.setNextPull(r, wait)
	for _, c := range t.order.askers {
		c <- e.outcome()
	}
	return wait
}

// setNextPull publishes the time of the next pull of the first feed.
func (e *Enforcer) setNextPull(r *remote, wait time.Duration) {
	if r == e.remotes[0] {
		e.setStatus(func(s *status.Status) { s.NextPullAt = e.o.Clock.After(wait) })
	}
}

// outcome returns the result of the last turn, for its askers.
func (e *Enforcer) outcome() Outcome {
	n := e.active.entries4 + e.active.entries6
	switch err := errors.Join(e.eachRemote(func(r *remote) error { return r.failure }), e.attempts.err); {
	case err != nil && e.o.DryRun:
		return Outcome{Text: fmt.Sprintf("Dry run without a new list: %v", err)}
	case err != nil && e.active.adopted:
		return Outcome{Text: fmt.Sprintf("Still blocking with rules of a killed agent: %v", err)}
	case err != nil && e.active.rules == nil:
		return Outcome{Text: fmt.Sprintf("Not blocking anything: %v", err)}
	case err != nil:
		return Outcome{Text: fmt.Sprintf("Still blocking %d IPs: %v", n, err)}
	case e.o.DryRun:
		return Outcome{OK: true, Text: fmt.Sprintf("Would block %d IPs", n)}
	default:
		return Outcome{OK: true, Text: fmt.Sprintf("Blocking %d IPs", n)}
	}
}

// uselessError reports that a list was downloaded, and so counts in the quota, but is not usable.
type uselessError struct{ error }

func (e uselessError) Unwrap() error { return e.error }

// fetch fetches the list of a feed and vets it. If the list was downloaded and is not usable, or is
// refused, the error is a uselessError.
func fetch(ctx context.Context, f fetcher, o vet.Options, m *memory.Reclaimer) (vet.Verdict, error) {
	body, err := f.Fetch(ctx)
	if err != nil {
		return vet.Verdict{}, fmt.Errorf("pull blacklist: %w", err)
	}
	defer m.Begin()()
	v, err := vetted(body, o)
	if err = errors.Join(err, body.Close()); isForeign(err) {
		return vet.Verdict{}, fmt.Errorf("pull blacklist: %w", err)
	}
	if err != nil {
		return vet.Verdict{}, uselessError{fmt.Errorf("vet blacklist: %w", err)}
	}
	return v, nil
}

// vetted calls vet.Vet, and returns an error if that panics. A list that causes a panic ends
// neither this process nor the next.
func vetted(body io.Reader, o vet.Options) (v vet.Verdict, err error) {
	err = panics.Contain(func() error {
		v, err = vet.Vet(body, o)
		return err
	})
	return v, err
}

// unreached reports whether a pull failed because neither the API nor a proxy answered.
func unreached(pull error) bool {
	_, downloaded := errors.AsType[uselessError](pull)
	return sikkerapi.IsUnreached(pull) && !downloaded
}

// isForeign reports whether a response comes from a proxy, CDN or portal instead of the API.
func isForeign(err error) bool {
	api, ok := errors.AsType[*sikkerapi.APIError](err)
	return ok && api.Foreign
}
