package deliver

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/sikkerapi/sikkerguard/internal/blocklist"
	"github.com/sikkerapi/sikkerguard/internal/sensor"
	"github.com/sikkerapi/sikkerguard/internal/statedir"
	"github.com/sikkerapi/sikkerguard/internal/status"
	"github.com/sikkerapi/sikkerguard/internal/store"
)

const (
	// recordEvery is the time between two calls of Add, each of which has its hits recorded. A kill
	// loses at most the hits of that time, and datagrams that wait for a reading of the tracked
	// connections (lateFor). In an attack by tens of thousands of sources a recording takes long. The
	// next then begins after recordShare times as long, so that recording takes at most a tenth of a
	// core, but after longestRest at most: a slow disk does not make memory run out of room for hits.
	recordEvery, recordShare, longestRest = time.Second, 10, time.Minute
	// recordMost is the number of hits in one transaction: few enough for a slow disk to take them
	// within storeTimeout, and many enough for the sync of a commit to cost little of each.
	recordMost = 2000
	// pruneEvery is the time between two deletions of old hits.
	pruneEvery = time.Hour
	// storeTimeout bounds one use of the database, and openTimeout its opening, which reads all of
	// it. A disk that hangs takes longer nevertheless.
	storeTimeout, openTimeout = 10 * time.Second, 2 * time.Minute
	// saveWait is how long Fill waits for the counters to be saved.
	saveWait = time.Second
)

// errDatabaseHangs is the error of a use of the database that exceeds its time.
var errDatabaseHangs = errors.New("the database does not answer")

// Database keeps hits, rows and counters on the disk. *store.Store is one.
type Database interface {
	Open(ctx context.Context) error
	Forget(ctx context.Context) error // deletes the rows that wait to be reported
	Add(ctx context.Context, r store.Record) error
	Queued(ctx context.Context) (int, error)
	Totals(ctx context.Context) (store.Totals, error)
	Prune(ctx context.Context, now time.Time) error
}

// Ledger holds the sums of dropped packets that the database keeps.
type Ledger interface {
	Load(ctx context.Context) error
	Changed() bool // there may be sums to load or to save
	Unsaved(running bool) *store.Counters
	Saved(c *store.Counters)
}

// Allowlist knows which sources are allowlisted at this moment.
type Allowlist interface {
	Allows(source netip.Addr) bool
}

// RecorderOptions are the dependencies of a Recorder.
type RecorderOptions struct {
	Database  Database
	Ledger    Ledger
	Allowlist Allowlist
	Reports   bool                                     // hits are also queued as report rows
	PortName  func(port uint16) (name string, ok bool) // names the service of a port
	Outbound  Outbound
	Opened    func() // called when the database is open, or cannot be opened; may be nil
	Board     *status.Board
	Log       *zap.Logger
}

// Recorder is between the hits and the database. Add, SetListed and Fill may be called by any
// goroutine and do not wait for the disk; Run is for one.
type Recorder struct {
	o        RecorderOptions
	evidence evidence
	waiting  waiting
	saveC    chan chan<- struct{} // asks Run to save the counters now; each value gets an answer
	workC    chan struct{}        // capacity 1: there is something to record

	failing    atomic.Bool // the last use of the database failed
	unrecorded uint64      // packets without room in memory that were logged; for Run alone
}

// NewRecorder returns a Recorder. Nothing is opened yet.
func NewRecorder(o RecorderOptions) *Recorder {
	return &Recorder{
		o: o, saveC: make(chan chan<- struct{}), workC: make(chan struct{}, 1),
		evidence: evidence{outbound: outbound{Outbound: o.Outbound, portName: o.PortName}},
	}
}

// Add takes the hits of the last second and has them recorded. The caller calls it each second, also
// without hits: it notices a database that hangs, and has a database that failed tried again.
func (r *Recorder) Add(w sensor.Window, now time.Time) {
	hits := r.waiting.add(r.evidence.add(w.Hits, now), now)
	r.noticeHang(now)
	if hits > 0 || r.failing.Load() || r.o.Ledger.Changed() {
		select {
		case r.workC <- struct{}{}:
		default: // the recording that is due takes these hits too
		}
	}
}

// SetListed replaces the API's list that is active. Only its entries are evidence. The list before
// it still counts for packets that it dropped.
func (r *Recorder) SetListed(list blocklist.Blocklist) { r.evidence.setListed(list) }

// Queue returns the state of the report queue at the last reading; nil if the database does not
// answer.
func (r *Recorder) Queue() *status.Reports { return r.waiting.queue(time.Now()) }

// Fill adds the state of the report queue, and the packets that were not recorded or not decided, to
// s. Before that it has the counters saved, so that no later answer, after a kill either, shows less than s.
func (r *Recorder) Fill(s *status.Status) {
	r.save()
	s.Unrecorded, s.Undecided, s.Reports = r.waiting.unrecorded(), r.evidence.undecidedPackets(), r.Queue()
}

// save has the counters saved and waits for that, at most for saveWait.
func (r *Recorder) save() {
	doneC := make(chan struct{}, 1)
	timer := time.NewTimer(saveWait)
	defer timer.Stop()
	select {
	case r.saveC <- doneC:
	case <-timer.C:
		return
	}
	select {
	case <-doneC:
	case <-timer.C:
	}
}

// Run records the hits until ctx ends, then the rest of them, and returns nil.
func (r *Recorder) Run(ctx context.Context) error {
	r.open()
	if r.o.Opened != nil {
		r.o.Opened()
	}
	pruning, rest := time.NewTicker(pruneEvery), time.NewTimer(recordEvery)
	defer pruning.Stop()
	defer rest.Stop()
	workC := r.workC // nil while Run rests from a recording
	for {
		select {
		case <-ctx.Done():
			r.waiting.add(r.evidence.takeLate(), time.Now())
			r.record(false)
			if w, _, _ := r.waiting.take(); packets(w) > 0 {
				r.o.Log.Warn("Blocked connections were not recorded and will not be reported",
					zap.Uint64("packets", packets(w)))
			}
			return nil
		case doneC := <-r.saveC:
			r.saveCounters()
			doneC <- struct{}{}
		case <-pruning.C:
			r.use(ctx, openTimeout, r.prune)
		case <-rest.C:
			workC = r.workC
		case <-workC:
			start := time.Now()
			r.record(true)
			if pause := min(recordShare*time.Since(start), longestRest); pause > recordEvery {
				workC = nil
				rest.Reset(pause)
			}
		}
	}
}

// open opens the database and reads the sums of earlier runs. A database that cannot be opened is
// opened at the next use.
func (r *Recorder) open() {
	r.use(context.Background(), openTimeout, func(ctx context.Context) {
		err := r.o.Database.Open(ctx)
		if err == nil && !r.o.Reports {
			err = r.o.Database.Forget(ctx)
		}
		r.setFailing(err)
		r.load(ctx)
		r.prune(ctx)
		r.readQueue(ctx)
	})
}

// use calls f, which uses the database, with a context that ends after most. If f does not return,
// noticeHang reports that.
func (r *Recorder) use(ctx context.Context, most time.Duration, f func(context.Context)) {
	r.waiting.busy(true)
	defer r.waiting.busy(false)
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	f(ctx)
}

// load reads the sums of earlier runs. An error is not reported: the next use of the database,
// which follows, returns it too.
func (r *Recorder) load(ctx context.Context) { _ = r.o.Ledger.Load(ctx) }

// record records the waiting hits, and queues those that are evidence. Hits that the database does
// not take keep waiting.
func (r *Recorder) record(running bool) {
	r.use(context.Background(), storeTimeout, r.load)
	counters := r.o.Ledger.Unsaved(running)
	w, from, to := r.waiting.take()
	if len(w.Hits) == 0 && counters == nil && !r.failing.Load() {
		return
	}
	// In this order, each transaction changes other pages of the database than the one before.
	slices.SortStableFunc(w.Hits, func(a, b sensor.Hit) int { return a.Source.Compare(b.Source) })
	for first := true; first || len(w.Hits) > 0; first = false {
		n := min(recordMost, len(w.Hits))
		rows, held := r.rows(w.Hits[:n])
		err := r.add(store.Record{From: from, To: to, Hits: rows, Report: r.o.Reports, Counters: counters})
		r.setFailing(err)
		if err != nil {
			r.waiting.putBack(w, from)
			r.waiting.setQueue(nil)
			return
		}
		r.evidence.settle(rows, held)
		r.o.Ledger.Saved(counters)
		w.Hits, counters = w.Hits[n:], nil
	}
	if n := r.waiting.unrecorded(); n > r.unrecorded {
		r.o.Log.Warn("Not every blocked connection of that time was recorded", zap.Uint64("packets", n-r.unrecorded))
		r.unrecorded = n
	}
	r.use(context.Background(), storeTimeout, r.readQueue)
}

// add stores rec in one transaction.
func (r *Recorder) add(rec store.Record) (err error) {
	r.use(context.Background(), storeTimeout, func(ctx context.Context) { err = r.o.Database.Add(ctx, rec) })
	return err
}

// rows returns hits as the database keeps them, and those of them that wait for the proof of their
// source. Once there is proof, the hits that waited are among the rows. Hits that are no evidence,
// and hits of an allowlisted source, are in the history and not reported.
func (r *Recorder) rows(hits []sensor.Hit) (rows, waiting []store.Hit) {
	rows = make([]store.Hit, 0, len(hits))
	special := blocklist.Special()
	released := map[netip.Addr]bool{}
	for _, h := range hits {
		if special.Contains(h.Source) { // it cannot have been on the list
			continue
		}
		row := store.Hit{
			Source: h.Source, Protocol: uint8(h.Protocol), Port: h.Port, Packets: h.Packets,
			First: h.First, Last: h.Last, Silent: true,
		}
		switch h.Kind {
		case sensor.Attempt:
			row.Service, _ = r.o.PortName(h.Port)
		case sensor.Answer:
			row.Port = 0 // the port is not this host's
		case sensor.Other:
		}
		if r.o.Allowlist.Allows(h.Source) {
			rows = append(rows, row)
			continue
		}
		switch r.evidence.judge(h) {
		case silent:
		case certain:
			row.Silent = false
		case dubious:
			held, ok := r.evidence.proven(h.Source)
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

// saveCounters saves the counters alone.
func (r *Recorder) saveCounters() {
	r.use(context.Background(), storeTimeout, func(ctx context.Context) {
		r.load(ctx)
		counters := r.o.Ledger.Unsaved(true)
		// record reports a failure
		if counters != nil && r.o.Database.Add(ctx, store.Record{Counters: counters}) == nil {
			r.o.Ledger.Saved(counters)
		}
		r.readQueue(ctx)
	})
}

// readQueue reads the state of the report queue.
func (r *Recorder) readQueue(ctx context.Context) {
	n, err := r.o.Database.Queued(ctx)
	if err != nil {
		r.waiting.setQueue(nil)
		return
	}
	t, err := r.o.Database.Totals(ctx)
	if err != nil {
		r.waiting.setQueue(nil)
		return
	}
	r.waiting.setQueue(&status.Reports{
		Enabled: r.o.Reports, Queued: n, Sent: t.Sent, Rejected: t.Rejected, Merged: t.Merged, Dropped: t.Dropped,
		Unkept: t.Unkept,
	})
}

// setFailing logs that the database has stopped working, or works again.
func (r *Recorder) setFailing(err error) {
	switch {
	case err != nil && !r.failing.Load() && !statedir.IsUnusable(err):
		r.o.Log.Warn("Blocked connections are not recorded now; they wait in memory until the database works again",
			zap.Error(err))
	case err == nil && r.failing.Load():
		r.o.Log.Info("Blocked connections are recorded again")
	}
	r.failing.Store(err != nil)
	r.o.Board.SetCondition(status.CondDatabase, err)
}

// noticeHang logs that the database does not answer, and that it answers again. Run cannot do that,
// because it waits for the database.
func (r *Recorder) noticeHang(now time.Time) {
	switch hangs, changed := r.waiting.noticeHang(now); {
	case changed && hangs:
		r.o.Board.SetCondition(status.CondDatabaseHangs, errDatabaseHangs)
		r.o.Log.Warn("The database does not answer: check the disk of SIKKER_STATE_DIR; " +
			"blocked connections wait in memory")
	case changed:
		r.o.Log.Info("The database answers again")
		r.o.Board.SetCondition(status.CondDatabaseHangs, nil)
	}
}

// prune deletes old hits.
func (r *Recorder) prune(ctx context.Context) {
	if err := r.o.Database.Prune(ctx, time.Now()); err != nil && ctx.Err() == nil && !r.failing.Load() {
		r.o.Log.Warn("Old records are not deleted", zap.Error(err))
	}
}

// packets returns the number of packets in a window.
func packets(w sensor.Window) uint64 {
	n := w.Overflow
	for _, h := range w.Hits {
		n += h.Packets
	}
	return n
}
