package store

import (
	"bytes"
	"database/sql"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// newStore returns a Store that is closed when the test ends, and a time for its records. If o has no
// directory, it has one of the test.
func newStore(t *testing.T, o Options) (s *Store, noon time.Time) {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s = New(o)
	t.Cleanup(func() { _ = s.Close() })
	return s, time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
}

// TestFullQueue checks that a full queue merges the oldest rows of a source and then drops the
// smallest rows, until a twentieth of it is free.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	s.maxQueue = 100
	add := func(at time.Time, n int, net, packets byte, services ...string) {
		t.Helper()
		var hits []Hit
		for i := range n {
			for _, service := range services {
				hits = append(hits, Hit{
					Source: netip.AddrFrom4([4]byte{net, 0, 0, byte(i)}), Protocol: 6, Port: 22, Service: service,
					Packets: uint64(packets),
				})
			}
		}
		if err := s.Add(t.Context(), Record{From: at, To: at, Hits: hits, Report: true}); err != nil {
			t.Fatal(err)
		}
		if queued, err := s.Queued(t.Context()); err != nil || queued > s.maxQueue {
			t.Errorf("%d rows queued, %v; want at most %d", queued, err, s.maxQueue)
		}
	}
	add(noon, 20, 5, 2, "ssh", "http")        // 40 rows
	add(noon.Add(time.Hour), 70, 6, 1, "ssh") // 110: fifteen pairs of the first call are merged
	totals, err := s.Totals(t.Context())
	if err != nil || totals.Merged != 15 || totals.Dropped != 0 {
		t.Errorf("totals after merging: %+v, %v", totals, err)
	}
	add(noon.Add(2*time.Hour), 50, 7, 9, "ssh")
	if totals, err = s.Totals(t.Context()); err != nil || totals.Dropped == 0 {
		t.Errorf("totals after dropping: %+v, %v", totals, err)
	}
	top, err := s.Batch(t.Context(), 60)
	if err != nil || len(top) != 60 || top[49].Packets != 9 || top[50].Packets != 4 {
		t.Errorf("the busiest are not kept: %d rows, %+v, %v", len(top), top[min(50, len(top)-1)], err)
	}
}

// TestHits checks that hits are stored by hour, that hits of a full hour are counted, and that old
// hours are deleted.
func TestHits(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	s.maxHourly = 3
	hit := func(n byte) Hit {
		return Hit{Source: netip.AddrFrom4([4]byte{203, 0, 113, n}), Protocol: 6, Port: 22, Packets: 2}
	}
	check := func(name string, want map[int64]uint64, unkept uint64) {
		t.Helper()
		got := map[int64]uint64{}
		err := s.transact(t.Context(), func(tx *sql.Tx) error {
			rows, err := tx.QueryContext(t.Context(), "SELECT hour, sum(packets) FROM hits GROUP BY hour")
			if err != nil {
				return err
			}
			defer func() { _ = rows.Close() }()
			for rows.Next() {
				var h int64
				var n uint64
				if err := rows.Scan(&h, &n); err != nil {
					return err
				}
				got[h] = n
			}
			return rows.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: packets by hour (-want +got):\n%s", name, diff)
		}
		if totals, err := s.Totals(t.Context()); err != nil || totals.Unkept != unkept {
			t.Errorf("%s: %d packets not kept, %v; want %d", name, totals.Unkept, err, unkept)
		}
	}
	add := func(at time.Time, hits ...Hit) {
		t.Helper()
		if err := s.Add(t.Context(), Record{From: at, To: at, Hits: hits, Report: false}); err != nil {
			t.Fatal(err)
		}
	}
	h := hour(noon)
	add(noon, hit(1), hit(2))
	add(noon.Add(59*time.Minute), hit(1), hit(3), hit(4), hit(5))
	check("a full hour", map[int64]uint64{h: 8}, 4)
	add(noon.Add(time.Hour), hit(5))
	held := hit(5)
	held.Held = true // has a row already
	add(noon.Add(time.Hour), held)
	check("the next hour", map[int64]uint64{h: 8, h + 1: 2}, 4)
	if err := s.Prune(t.Context(), noon.Add(keepHits)); err != nil {
		t.Fatal(err)
	}
	check("thirty days later", map[int64]uint64{h: 8, h + 1: 2}, 4)
	if err := s.Prune(t.Context(), noon.Add(keepHits+time.Hour)); err != nil {
		t.Fatal(err)
	}
	check("an hour after that", map[int64]uint64{h + 1: 2}, 4)
}

// TestPortScanLeavesRoomInItsHour checks that a source with thousands of ports makes no other source
// unkept, that it costs no port of a quiet source, and that each packet stays in the history. It checks
// the same for sources with a few ports each, whose ports are then merged, and that an hour with too
// many sources counts the packets of those without a row.
func TestPortScanLeavesRoomInItsHour(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	s.maxHourly = 1000
	added := uint64(0)
	add := func(n int, hit func(i int) Hit) {
		t.Helper()
		hits := make([]Hit, n)
		for i := range hits {
			hits[i] = hit(i)
			added += hits[i].Packets
		}
		if err := s.Add(t.Context(), Record{From: noon, To: noon, Hits: hits}); err != nil {
			t.Fatal(err)
		}
	}
	addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{5, 0, byte(n >> 8), byte(n)}) }
	check := func(name string, sources, ported int, unkept uint64) {
		t.Helper()
		var gotSources, gotPorted, rows int
		var packets uint64
		err := s.transact(t.Context(), func(tx *sql.Tx) error {
			return tx.QueryRowContext(t.Context(), "SELECT count(DISTINCT source), "+
				"count(DISTINCT CASE WHEN port = 22 THEN source END), count(*), sum(packets) FROM hits",
			).Scan(&gotSources, &gotPorted, &rows, &packets)
		})
		if err != nil {
			t.Fatal(err)
		}
		totals, err := s.Totals(t.Context())
		if err != nil || totals.Unkept != unkept || packets+unkept != added {
			t.Errorf("%s: %d packets and %d not kept, %v; want %d of %d", name, packets, totals.Unkept, err, unkept, added)
		}
		if gotSources != sources || gotPorted != ported || rows > s.maxHourly {
			t.Errorf("%s: %d sources, %d with their port, in %d rows; want %d and %d",
				name, gotSources, gotPorted, rows, sources, ported)
		}
	}
	quiet := func(i int) Hit { return Hit{Source: addr(1 + i), Protocol: 6, Port: 22, Packets: 1} }
	add(100, quiet)
	for n := range 50 {
		add(100, func(i int) Hit { return Hit{Source: addr(0), Protocol: 6, Port: uint16(1000 + 100*n + i), Packets: 3} })
	}
	add(200, quiet)
	check("beside a port scan", 201, 200, 0)
	for n := range 3 {
		add(400, func(i int) Hit { return Hit{Source: addr(1000 + i), Protocol: 6, Port: uint16(80 + n), Packets: 1} })
	}
	check("beside sources with three ports", 601, 200, 0)
	add(800, func(i int) Hit { return Hit{Source: addr(5000 + i), Protocol: 6, Port: 22, Packets: 1} })
	add(1, func(int) Hit { return Hit{Source: addr(0), Protocol: 6, Port: 7, Packets: 5} })
	check("too many sources", 1000, 599, 401)
}

// TestFailedRecordLeavesNoCount checks that the rows of a record that was rolled back take no room of
// their hour.
func TestFailedRecordLeavesNoCount(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	s.maxHourly = 3
	var hits []Hit
	for i := range 4 {
		hits = append(hits, Hit{Source: netip.AddrFrom4([4]byte{5, 0, 0, byte(i)}), Protocol: 6, Port: 22, Packets: 1})
	}
	failure := errors.New("the disk is full")
	err := s.transactWith(t.Context(), func(tx *sql.Tx, db *database) error {
		return errors.Join(s.addHits(t.Context(), tx, hour(noon), hits, db), failure)
	})
	if !errors.Is(err, failure) {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), Record{From: noon, To: noon, Hits: hits[:3]}); err != nil {
		t.Fatal(err)
	}
	if totals, err := s.Totals(t.Context()); err != nil || totals.Unkept != 0 {
		t.Errorf("%d packets not kept, %v; want 0: the hour has room for three rows", totals.Unkept, err)
	}
}

// TestPruneClockAhead checks that a clock that is years ahead deletes nothing at its first reading,
// and at most two hours of hits per hour until it is corrected.
func TestPruneClockAhead(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	const hours = 40
	for i := range hours {
		at := noon.Add(time.Duration(i-hours) * time.Hour)
		h := Hit{Source: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Port: 22, Packets: 1}
		if err := s.Add(t.Context(), Record{From: at, To: at, Hits: []Hit{h}}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (n int) {
		t.Helper()
		err := s.transact(t.Context(), func(tx *sql.Tx) error {
			return tx.QueryRowContext(t.Context(), "SELECT count(DISTINCT hour) FROM hits").Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	prune := func(at time.Time) {
		t.Helper()
		if err := s.Prune(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	prune(noon)
	ahead := noon.AddDate(10, 0, 0)
	if prune(ahead); left() != hours {
		t.Errorf("one reading left %d of %d hours", left(), hours)
	}
	for i := range 100 {
		if prune(ahead.Add(time.Duration(i) * 10 * time.Second)); left() != hours {
			t.Fatalf("start %d left %d of %d hours", i, left(), hours)
		}
	}
	prune(ahead.Add(time.Hour))
	if prune(ahead.Add(2 * time.Hour)); left() < hours-4 {
		t.Errorf("two hours ahead left %d of %d hours", left(), hours)
	}
	prune(time.Unix(0, 0)) // corrected too far: all hits are in its future
	if prune(noon.Add(3 * time.Hour)); left() < hours-4 {
		t.Errorf("put right left %d of %d hours", left(), hours)
	}
	before := left()
	prune(noon.Add(4 * time.Hour))
	if left() > before {
		t.Errorf("pruning by a right clock left %d of %d hours", left(), before)
	}
}

// TestPruneAheadRows checks that hits left behind by a clock far ahead are deleted after it was
// corrected.
func TestPruneAheadRows(t *testing.T) {
	t.Parallel()
	s, noon := newStore(t, Options{})
	h := Hit{Source: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Port: 22, Packets: 1}
	for _, at := range []time.Time{noon, noon.AddDate(10, 0, 0)} {
		if err := s.Add(t.Context(), Record{From: at, To: at, Hits: []Hit{h}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		if err := s.Prune(t.Context(), noon.Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	var hours, first int64
	err := s.transact(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRowContext(t.Context(), "SELECT count(DISTINCT hour), min(hour) FROM hits").Scan(&hours, &first)
	})
	if err != nil || hours != 1 || first != hour(noon) {
		t.Errorf("%d hours left from %d on, %v; want the one of noon", hours, first, err)
	}
}

// TestDamagedWhileOpen damages the file of an open store. The method that finds the damage sets the
// file aside, and the next one makes a new database.
func TestDamagedWhileOpen(t *testing.T) {
	t.Parallel()
	var damaged *DamagedError
	s, noon := newStore(t, Options{Damaged: func(d *DamagedError) { damaged = d }})
	var hits []Hit
	for i := range 5000 {
		hits = append(hits, Hit{
			Source: netip.AddrFrom4([4]byte{6, 0, byte(i >> 8), byte(i)}), Protocol: 6, Port: 22, Packets: 1,
		})
	}
	err := s.transact(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(t.Context(), "PRAGMA cache_size = 10") // pages: all others are read from the file
		return err
	})
	if err = errors.Join(err, s.Add(t.Context(), Record{From: noon, To: noon, Hits: hits, Report: true})); err != nil {
		t.Fatal(err)
	}
	for _, suffix := range []string{"", "-wal"} {
		if err := os.WriteFile(s.path()+suffix, bytes.Repeat([]byte("damage"), 1_000_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = s.Withdraw(t.Context(), func(netip.Addr) bool { return false }); err == nil || damaged == nil {
		t.Fatalf("reading the queue: %v, set aside: %v", err, damaged)
	}
	if err := s.Add(t.Context(), Record{From: noon, To: noon, Hits: hits[:1], Report: true}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Queued(t.Context()); err != nil || n != 1 {
		t.Errorf("%d rows queued in the new one, %v", n, err)
	}
}

// TestDamageIsReportedOnce checks that the file is set aside once if two uses find the same damage.
// The second error may come after the new database has hits.
func TestDamageIsReportedOnce(t *testing.T) {
	t.Parallel()
	reports := 0
	s, noon := newStore(t, Options{Damaged: func(*DamagedError) { reports++ }})
	old, err := s.handle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hits := []Hit{{Source: netip.MustParseAddr("203.0.113.9"), Protocol: 6, Port: 22, Packets: 1}}
	for range 2 {
		if err := s.checkDamage(old, errCheck); !errors.Is(err, errCheck) {
			t.Errorf("the damage is reported as %v", err)
		}
		if err := s.Add(t.Context(), Record{From: noon, To: noon, Hits: hits, Report: true}); err != nil {
			t.Fatal(err)
		}
	}
	if batch, err := s.Batch(t.Context(), 10); err != nil || len(batch) != 1 || batch[0].Packets != 2 || reports != 1 {
		t.Errorf("queued %v, %v; set aside %d times, want both hits and once", batch, err, reports)
	}
}

// TestRemovedWhileOpen checks that after another program removed the files, hits are added to new
// files, in which the next process finds them.
func TestRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, noon := newStore(t, Options{Dir: dir})
	r := Record{
		From: noon, To: noon, Report: true,
		Hits: []Hit{{Source: netip.MustParseAddr("6.0.0.1"), Protocol: 6, Port: 22, Service: "ssh", Packets: 1}},
	}
	if err := s.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	next := New(Options{Dir: dir})
	t.Cleanup(func() { _ = next.Close() })
	if n, err := next.Queued(t.Context()); err != nil || n != 1 {
		t.Errorf("the next process finds %d rows, %v; want 1", n, err)
	}
}
