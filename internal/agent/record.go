package agent

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

const (
	// recordEvery is how often what was seen is recorded: what a kill may cost. In an attack by tens of thousands of sources
	// recording takes its time, and then recordShare times as long goes by until the next, so that it takes a tenth of a core
	// at most.
	recordEvery, recordShare = time.Second, 10
	// recordMost is how many hits are recorded in one transaction: few enough for a slow disk to take them in storeTimeout.
	recordMost = 500
	// pruneEvery is how often old hits are deleted.
	pruneEvery = time.Hour
	// storeTimeout bounds one use of the database, and openTimeout its opening, which reads all of it. A disk that hangs
	// takes longer all the same.
	storeTimeout, openTimeout = 10 * time.Second, 2 * time.Minute
	// keepWait is how long who asks for the counters waits for them to be kept first.
	keepWait = time.Second
)

// errDatabaseHangs is a use of the database that takes longer than any may.
var errDatabaseHangs = errors.New("the database does not answer")

// recorder is between what is seen and the database. Nothing waits for the disk but the recording task: what is seen is
// handed over in memory, and what others want to know of the database was read before.
type recorder struct {
	askC chan chan<- struct{} // asks to keep the counters now; each gets an answer

	mu      sync.Mutex
	waiting sensor.Window   // seen and not recorded yet
	since   time.Time       // the first of it was seen after that
	taken   time.Time       // when the last of it was taken from the sensor
	gone    uint64          // packets that waited too long and were let go
	began   time.Time       // when the use of the database that is under way began; zero when none is
	reports *status.Reports // as read last; nil when that did not work

	failing bool   // the recording task's own: the database did not take what it was given last
	told    uint64 // likewise: how many packets were said to be gone
	stuck   bool   // the observing task's own: that the database does not answer was told
}

// add hands over what was seen.
func (r *recorder) add(w sensor.Window, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.waiting.Hits) == 0 {
		r.since = r.taken
		if r.since.IsZero() { // before there was a window
			r.since = now
		}
	}
	r.taken = now
	r.waiting = r.waiting.With(sensor.Window{Hits: w.Hits})
}

// take is what waits, and since when and until when it was seen. What is not recorded is to be put back.
func (r *recorder) take() (w sensor.Window, from, to time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, r.waiting = r.waiting, sensor.Window{}
	r.gone += w.Overflow // of what found no room the number alone is known, and that stays
	w.Overflow = 0
	return w, r.since, r.taken
}

func (r *recorder) putBack(w sensor.Window, from time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting, r.since = w.With(r.waiting), from
}

// using says that a use of the database begins, or has ended.
func (r *recorder) using(yes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = time.Time{}
	if yes {
		r.began = time.Now()
	}
}

// hangs says whether the database has been busy for longer than any use of it may take.
func (r *recorder) hangs(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.began.IsZero() && now.Sub(r.began) > storeTimeout+recordEvery
}

// unrecorded is how many packets were let go, so far.
func (r *recorder) unrecorded() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone + r.waiting.Overflow
}

func (r *recorder) setReports(s *status.Reports) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reports = s
}

// queue is what was known of the report queue last; nil when the database did not tell, or does not answer.
func (r *recorder) queue() *status.Reports {
	if r.hangs(time.Now()) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reports
}

// keepNow has the counters kept, and waits for that, but not for a disk that hangs.
func (r *recorder) keepNow() {
	doneC := make(chan struct{}, 1)
	timer := time.NewTimer(keepWait)
	defer timer.Stop()
	select {
	case r.askC <- doneC:
	case <-timer.C:
		return
	}
	select {
	case <-doneC:
	case <-timer.C:
	}
}

// newStore makes the database's client. A database that cannot be opened is tried again each time that there is something
// to record.
func (a *Agent) newStore() *store.Store {
	return store.New(store.Options{Dir: a.cfg.StateDir, Guard: a.useStateDir, Damaged: func(d *store.DamagedError) {
		a.log.Warn("The database of blocked connections", zap.Error(d))
	}})
}

// recordAll records what was seen, until ctx ends; then the rest of it.
func (a *Agent) recordAll(ctx context.Context) error {
	a.beginRecording()
	record, pruning := time.NewTimer(recordEvery), time.NewTicker(pruneEvery)
	defer record.Stop()
	defer pruning.Stop()
	for {
		select {
		case <-ctx.Done():
			a.record(false)
			if w, _, _ := a.recorder.take(); packets(w) > 0 {
				a.log.Warn("Blocked connections were not recorded and will not be reported", zap.Uint64("packets", packets(w)))
			}
			return nil
		case doneC := <-a.recorder.askC:
			a.keepCounters()
			doneC <- struct{}{}
		case <-pruning.C:
			a.prune(ctx)
		case <-record.C:
			start := time.Now()
			a.record(true)
			record.Reset(max(recordEvery, recordShare*time.Since(start)))
		}
	}
}

// beginRecording opens the database, and reads what the runs before this one counted.
func (a *Agent) beginRecording() {
	a.recorder.using(true)
	defer a.recorder.using(false)
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	err := a.store.Open(ctx)
	if err == nil && !a.cfg.ReportEnabled {
		err = a.store.Forget(ctx)
	}
	a.tellStore(err)
	_ = a.ledger.Load(ctx) // a database that fails is reported where hits are recorded
	a.prune(ctx)
	a.readQueue(ctx)
}

// record keeps what waits in the database, and queues what of it is to be reported. What it does not take now waits on.
func (a *Agent) record(running bool) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	_ = a.ledger.Load(ctx) // a database that fails is reported where hits are recorded
	cancel()
	counters := a.ledger.Unsaved(running)
	w, from, to := a.recorder.take()
	if len(w.Hits) == 0 && counters == nil && !a.recorder.failing {
		return
	}
	for first := true; first || len(w.Hits) > 0; first = false {
		n := min(recordMost, len(w.Hits))
		rows, waiting := a.rows(w.Hits[:n])
		err := a.recordSome(store.Record{From: from, To: to, Hits: rows, Report: a.cfg.ReportEnabled, Counters: counters})
		a.tellStore(err)
		if err != nil {
			a.recorder.putBack(w, from)
			a.recorder.setReports(nil)
			return
		}
		a.evidence.settle(rows, waiting)
		a.ledger.Saved(counters)
		w.Hits, counters = w.Hits[n:], nil
	}
	if n := a.recorder.unrecorded(); n > a.recorder.told {
		a.log.Warn("Not every blocked connection of that time was recorded", zap.Uint64("packets", n-a.recorder.told))
		a.recorder.told = n
	}
	ctx, cancel = context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	a.readQueue(ctx)
}

// recordSome is one transaction.
func (a *Agent) recordSome(r store.Record) error {
	a.recorder.using(true)
	defer a.recorder.using(false)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return a.store.Add(ctx, r)
}

// rows returns hits as the database has them, and those of them that wait for the proof of their
// source. Hits that waited for it are among the rows once there is proof. Hits that prove no
// attempt are kept and not reported, nor are those of a source that was whitelisted meanwhile.
func (a *Agent) rows(hits []sensor.Hit) (rows, waiting []store.Hit) {
	rows = make([]store.Hit, 0, len(hits))
	special := blocklist.Special()
	released := map[netip.Addr]bool{}
	for _, h := range hits {
		if special.Contains(h.Source) { // cannot have been on the list, and is nobody's business
			continue
		}
		row := store.Hit{
			Source: h.Source, Protocol: uint8(h.Protocol), Port: h.Port, Packets: h.Packets, First: h.First, Last: h.Last, Silent: true,
		}
		switch h.Kind {
		case sensor.Attempt:
			row.Service, _ = a.cfg.Ports.Name(h.Port)
		case sensor.Answer:
			row.Port = 0 // the port is not this host's
		case sensor.Other:
		}
		if a.exempt(h.Source) {
			rows = append(rows, row)
			continue
		}
		switch a.evidence.judge(h) {
		case silent:
		case certain:
			row.Silent = false
		case dubious:
			held, ok := a.evidence.proven(h.Source)
			if !ok {
				waiting = append(waiting, row)
				break
			}
			row.Silent = false
			if !released[h.Source] {
				rows = append(rows, held...)
			}
			released[h.Source] = true
		}
		rows = append(rows, row)
	}
	return rows, waiting
}

// keepCounters keeps the counters alone.
func (a *Agent) keepCounters() {
	a.recorder.using(true)
	defer a.recorder.using(false)
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	_ = a.ledger.Load(ctx) // a database that fails is reported where hits are recorded
	counters := a.ledger.Unsaved(true)
	if counters != nil && a.store.Add(ctx, store.Record{Counters: counters}) == nil { // what failed is told by record
		a.ledger.Saved(counters)
	}
	a.readQueue(ctx)
}

// readQueue reads what has become of reports.
func (a *Agent) readQueue(ctx context.Context) {
	n, err := a.store.Queued(ctx)
	if err != nil {
		a.recorder.setReports(nil)
		return
	}
	t, err := a.store.Totals(ctx)
	if err != nil {
		a.recorder.setReports(nil)
		return
	}
	a.recorder.setReports(&status.Reports{
		Enabled: a.cfg.ReportEnabled, Queued: n, Sent: t.Sent, Rejected: t.Rejected, Merged: t.Merged, Dropped: t.Dropped, Unkept: t.Unkept,
	})
}

// tellStore says that the database stopped working, and that it works again.
func (a *Agent) tellStore(err error) {
	r := &a.recorder
	switch {
	case err != nil && !r.failing:
		a.warnOfDisk("Blocked connections are not recorded now; they are kept in memory until that works again", err)
	case err == nil && r.failing:
		a.log.Info("Blocked connections are recorded again")
	}
	r.failing = err != nil
	a.setCondition(status.CondDatabase, err)
}

// tellStuck says that the database does not answer, which the task that waits for it cannot say, and that it does again.
func (a *Agent) tellStuck() {
	switch r, hangs := &a.recorder, a.recorder.hangs(time.Now()); {
	case hangs && !r.stuck:
		r.stuck = true
		a.setCondition(status.CondDatabaseHangs, errDatabaseHangs)
		a.log.Warn("The database does not answer: look at the disk of SIKKER_STATE_DIR; blocked connections are kept in memory meanwhile")
	case !hangs && r.stuck:
		r.stuck = false
		a.log.Info("The database answers again")
		a.setCondition(status.CondDatabaseHangs, nil)
	}
}

func (a *Agent) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := a.store.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil && !a.recorder.failing {
		a.log.Warn("Old records are not deleted", zap.Error(err))
	}
}
