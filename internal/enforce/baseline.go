package enforce

import (
	"context"
	"sync"
	"time"

	"github.com/sikkerapi/sikkerguard/internal/host"
	"github.com/sikkerapi/sikkerguard/internal/panics"
	"github.com/sikkerapi/sikkerguard/internal/status"
)

const (
	// failedFor is how long a check that failed while no rules were active counts as failed. Later
	// the network may have come up.
	failedFor = 2 * time.Second
	// baselineGrace is how long the first rules wait for checks, counted from their beginning. A
	// gateway, a resolver or a proxy nearby answers within that time. Reading a long list takes longer.
	baselineGrace = 50 * time.Millisecond
)

// baseline has the results of the checks of this host while no rules are active. A check that works
// then and fails with the first rules may fail because of them. One that failed then does not. The
// first rules do not wait for a check that gets no answer, which takes a second: checks without a
// result are made once the rules are active, as late checks. The methods may be called by any
// goroutine.
type baseline struct {
	mu    sync.Mutex
	begun bool          // checks were begun, and no rules have been active since
	began time.Time     // when that was last
	run   int           // increases with reset, so that results of earlier checks are ignored
	endC  chan struct{} // closed when the checks of the last begin have ended
	ended map[string]result
}

// result is the result of a check.
type result struct {
	check host.Check
	at    time.Time
}

// begin calls names and then makes each of the named checks, all at the same time. It waits for
// none of that.
func (b *baseline) begin(names func() []string, check func(name string) host.Checks) {
	b.mu.Lock()
	defer b.mu.Unlock()
	run, endC := b.run, make(chan struct{})
	b.begun, b.began, b.endC = true, time.Now(), endC
	go func() { // it ends with names and the time limit of a check
		defer close(endC)
		var all []string
		_ = panics.Contain(func() error { all = names(); return nil }) // then there is no result
		var checks sync.WaitGroup
		for _, name := range all {
			checks.Go(func() {
				_ = panics.Contain(func() error { b.end(run, name, check(name)); return nil })
			})
		}
		checks.Wait()
	}()
}

// end records the result of a check.
func (b *baseline) end(run int, name string, checks host.Checks) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := named(checks, name)
	if !ok || run != b.run {
		return
	}
	if b.ended == nil {
		b.ended = map[string]result{}
	}
	b.ended[name] = result{c, time.Now()}
}

// wait waits until the checks have ended, at most until baselineGrace after their beginning.
func (b *baseline) wait(ctx context.Context) {
	b.mu.Lock()
	endC, left := b.endC, baselineGrace-time.Since(b.began)
	b.mu.Unlock()
	if left <= 0 {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-endC:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// known returns those of the named checks that worked, and as late those that have no result, or
// that failed more than failedFor ago. ok is false if no checks were begun.
func (b *baseline) known(names []string) (worked host.Checks, late []string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range names {
		switch r, ended := b.ended[name]; {
		case ended && r.check.Err == nil:
			worked = append(worked, r.check)
		case !ended || time.Since(r.at) > failedFor:
			late = append(late, name)
		}
	}
	return worked, late, b.begun
}

// reset forgets all checks: rules are active.
func (b *baseline) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun, b.ended = false, nil
	b.run++
}

// beginBaseline begins the checks of the baseline, which follow the first survey of the host. It is
// called while no rules are active.
func (e *Enforcer) beginBaseline(ctx context.Context) {
	if e.o.DryRun {
		return
	}
	e.trials.baseline.begin(func() []string {
		if !e.surveys.awaitFirst(ctx) {
			return nil
		}
		return e.o.Host.CheckNames()
	}, func(name string) host.Checks { return e.o.Host.Probe(ctx, name) })
}

// checkBefore returns the results of the checks before new rules are applied, and the names of the
// late ones. It waits for checks that get no answer only if other rules are active, which protect the
// host meanwhile, or if late checks would have no evidence because NFLOG is not available.
func (e *Enforcer) checkBefore(ctx context.Context) (worked host.Checks, late []string) {
	b := &e.trials.baseline
	if e.active.rules == nil && !e.o.Board.Latest().Holds(status.CondSensor) {
		b.wait(ctx)
		if worked, late, ok := b.known(e.o.Host.CheckNames()); ok {
			return worked, late
		}
	}
	return e.o.Host.Probe(ctx), nil
}
